import copy

import pytest
import torch

from equivariant_attention.so3 import symmetric_tensor_to_features
from experiments.qm9.polarizability import isotropic_and_anisotropy
from experiments.qm9.turning import SE3TransformerTensor, SE3TransformerVector
from tests.experiments.models import assert_model_is_equivariant
from tests.experiments.qm9.cases import random_molecules


def vectors():
    return SE3TransformerVector(2, 6, 4, num_degrees=3, edge_dim=5, div=2, n_heads=2)


def test_vectors_turn_with_the_molecule(kind):
    assert_model_is_equivariant(
        lambda m, G: m(G), vectors(), random_molecules(kind), output_degree=1, output_on="graphs"
    )


def test_vectors_shape_and_gradients():
    model = vectors().double()
    output = model(random_molecules())
    assert output.shape == (3, 3)
    output.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_a_copy_of_a_model_of_vectors_has_its_own_weights():
    model, G = vectors().double(), random_molecules()
    assert {name.split(".")[0] for name in model.state_dict()} == {"Gblock", "weigh"}
    before, other = model(G), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.Gblock.parameters():
            parameter.mul_(2)
    assert torch.equal(model(G), before)
    assert not torch.allclose(other(G), before)


def test_vectors_need_degree_one():
    with pytest.raises(ValueError, match="num_degrees must be at least 2"):
        SE3TransformerVector(1, 6, 4, num_degrees=1)


def tensors(num_degrees=3):
    return SE3TransformerTensor(2, 6, 4, num_degrees=num_degrees, edge_dim=5, div=2, n_heads=2)


def features(model, G):
    return symmetric_tensor_to_features(model(G).unflatten(1, (3, 3)))


@pytest.mark.parametrize(("num_degrees", "degree"), [(1, 0), (2, 0), (2, 2), (3, 2)])
def test_tensors_turn_with_the_molecule(kind, num_degrees, degree):
    options = {"output_degree": degree, "output_on": "graphs"}
    of_degree = lambda m, G: features(m, G)[str(degree)]  # noqa: E731
    assert_model_is_equivariant(of_degree, tensors(num_degrees), random_molecules(kind), **options)


def test_tensors_shape_and_gradients():
    model = tensors().double()
    output = model(random_molecules())
    assert output.shape == (3, 9)
    output.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_degree_0_alone_gives_isotropic_tensors_and_more_degrees_do_not():
    G = random_molecules()
    isotropic, anisotropy = isotropic_and_anisotropy(tensors(num_degrees=1).double()(G))
    assert (isotropic.abs() > 1e-3).all()
    assert (anisotropy < 1e-12).all()
    assert (isotropic_and_anisotropy(tensors(num_degrees=2).double()(G))[1] > 1e-6).all()


def test_tensors_are_sums_over_the_atoms():
    model, G = tensors().double(), random_molecules()
    of_atoms = model.of_atoms(G, {"0": G.ndata["f"]})
    weights = model.weigh(of_atoms["0"].squeeze(-1))
    traceless = torch.einsum("nc,ncm->nm", weights[:, 1:], of_atoms["2"])
    sizes = G.batch_num_nodes().tolist()
    for degree, values in (("0", weights[:, :1]), ("2", traceless)):
        expected = torch.stack([part.sum(dim=0) for part in values.split(sizes)]) / 18
        torch.testing.assert_close(features(model, G)[degree], expected)
