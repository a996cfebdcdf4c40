import copy

import pytest
import torch

from equivariant_attention.graphs import Graph, as_graph, with_edge_fields
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.padding import Sizes, padded
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from equivariant_attention.so3 import symmetric_tensor_to_features
from experiments.qm9.config import Config
from experiments.qm9.models import (
    TFN,
    MaxAndSum,
    Scaled,
    ScaledTensor,
    ScaledTogether,
    SE3Transformer,
    SE3TransformerPooled,
    SE3TransformerSeveral,
    SE3TransformerTensor,
    SE3TransformerVector,
    make_model,
)
from experiments.qm9.polarizability import isotropic_and_anisotropy
from tests.cases import random_graph
from tests.experiments.models import assert_model_is_equivariant

MODELS = {
    "SE3Transformer-avg": lambda: SE3Transformer(2, 6, 4, num_degrees=4, edge_dim=5, div=2, pooling="avg"),
    "SE3Transformer-max": lambda: SE3Transformer(2, 6, 4, num_degrees=3, edge_dim=5, div=2, pooling="max", n_heads=2),
    "SE3Transformer-both": lambda: SE3Transformer(2, 6, 4, num_degrees=2, edge_dim=5, div=2, pooling="both"),
    "SE3TransformerPooled": lambda: SE3TransformerPooled(2, 6, 4, num_degrees=3, edge_dim=5, n_heads=2),
    "TFN": lambda: TFN(3, 6, 4, num_nlayers=1, num_degrees=3, edge_dim=5),
}


def molecules(kind="own"):
    G = random_graph(torch.float64, edge_dim=5, kind=kind)
    graph = as_graph(G)
    graph.ndata["f"] = torch.randn(graph.num_nodes(), 6, 1, dtype=torch.float64)
    return G


@pytest.mark.parametrize("name", MODELS)
def test_equivariance(name, kind):
    assert_model_is_equivariant(lambda m, G: m(G), MODELS[name](), molecules(kind))


@pytest.mark.parametrize("name", MODELS)
def test_shape_and_gradients(name):
    model = MODELS[name]().double()
    output = model(molecules())
    assert output.shape == (3, 1)
    output.sum().backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


@pytest.mark.parametrize("name", MODELS)
def test_a_basis_at_hand_is_used(name):
    model, G = MODELS[name]().double(), molecules()
    cache = BasisCache(model.num_degrees - 1, max_bytes=2**20)
    for basis_and_r in (get_basis_and_r(G, 3, plan=Plan(G)), cache.get_basis_and_r(G, keys=[0, 1, 2])):
        torch.testing.assert_close(model(G, basis_and_r), model(G))
    with pytest.raises(ValueError, match="basis must"):
        model(G, get_basis_and_r(G, 0))


@pytest.mark.parametrize("per_atom", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name, per_atom):
    model, G, found = Scaled(MODELS[name](), per_atom).double(), molecules(), []
    sizes = Sizes.of(G, Plan(G)).rounded(steps=2)
    assert sizes.edges > G.num_edges()
    for graph, plan in ((G, Plan(G)), padded(G, Plan(G), sizes)):
        loss = model(graph, plan=plan)[:3].sin().sum()
        found.append([loss, *torch.autograd.grad(loss, [*model.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("task", ["homo", "homo,lumo", "dipole", "polarizability"])
def test_models_of_mirror_images_give_them_the_same_in_evaluation(task, kind):
    sizes = {"num_layers": 2, "num_degrees": 3, "num_channels": 4, "div": 2, "head": 2}
    config = Config(task=task, mirror=True, fully_connected=True, **sizes)
    model, G, sign = make_model(config).double(), molecules(kind), -1 if task == "dipole" else 1
    mirrored = with_edge_fields(G, {"d": -as_graph(G).edata["d"], "w": as_graph(G).edata["w"]})
    mirrored.ndata["f"] = as_graph(G).ndata["f"]
    with torch.no_grad():
        one, other = model(G), model(mirrored)
        assert not torch.allclose(one, sign * other, rtol=1e-3)
        model.eval()
        torch.testing.assert_close(model(G), sign * model(mirrored))
        torch.testing.assert_close(model(G, plan=Plan(G)), (one + sign * other) / 2)


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling must be 'avg', 'max' or 'both', got 'sum'"):
        SE3Transformer(1, 6, 4, pooling="sum")


def test_nvidias_model_has_norms_alone_and_changes_no_graph():
    with pytest.raises(ValueError, match="nonlinearity must be 'norm'"):
        SE3TransformerPooled(1, 6, 4, nonlinearity="gate")
    G = molecules()
    fields = sorted(G.edata), sorted(G.ndata)
    MODELS["SE3TransformerPooled"]().double()(G)
    assert (sorted(G.edata), sorted(G.ndata)) == fields


# ---------------------------------------------------------------------------------------------------------- vectors


def vectors():
    return SE3TransformerVector(2, 6, 4, num_degrees=3, edge_dim=5, div=2, n_heads=2)


def test_vectors_turn_with_the_molecule(kind):
    assert_model_is_equivariant(lambda m, G: m(G), vectors(), molecules(kind), output_degree=1, output_on="graphs")


def test_vectors_shape_and_gradients():
    model = vectors().double()
    output = model(molecules())
    assert output.shape == (3, 3)
    output.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_a_copy_of_a_model_of_vectors_has_its_own_weights():
    model, G = vectors().double(), molecules()
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


# ---------------------------------------------------------------------------------------------------------- tensors


def tensors(num_degrees=3):
    return SE3TransformerTensor(2, 6, 4, num_degrees=num_degrees, edge_dim=5, div=2, n_heads=2)


def features(model, G):
    return symmetric_tensor_to_features(model(G).unflatten(1, (3, 3)))


@pytest.mark.parametrize(("num_degrees", "degree"), [(1, 0), (2, 0), (2, 2), (3, 2)])
def test_tensors_turn_with_the_molecule(kind, num_degrees, degree):
    options = {"output_degree": degree, "output_on": "graphs"}
    of_degree = lambda m, G: features(m, G)[str(degree)]  # noqa: E731
    assert_model_is_equivariant(of_degree, tensors(num_degrees), molecules(kind), **options)


def test_tensors_shape_and_gradients():
    model = tensors().double()
    output = model(molecules())
    assert output.shape == (3, 9)
    output.square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()


def test_degree_0_alone_gives_isotropic_tensors_and_more_degrees_do_not():
    G = molecules()
    isotropic, anisotropy = isotropic_and_anisotropy(tensors(num_degrees=1).double()(G))
    assert (isotropic.abs() > 1e-3).all()
    assert (anisotropy < 1e-12).all()
    assert (isotropic_and_anisotropy(tensors(num_degrees=2).double()(G))[1] > 1e-6).all()


def test_tensors_are_sums_over_the_atoms():
    model, G = tensors().double(), molecules()
    of_atoms = model.of_atoms(G, {"0": G.ndata["f"]})
    weights = model.weigh(of_atoms["0"].squeeze(-1))
    traceless = torch.einsum("nc,ncm->nm", weights[:, 1:], of_atoms["2"])
    sizes = G.batch_num_nodes().tolist()
    for degree, values in (("0", weights[:, :1]), ("2", traceless)):
        expected = torch.stack([part.sum(dim=0) for part in values.split(sizes)]) / 18
        torch.testing.assert_close(features(model, G)[degree], expected)


def test_scaled_tensors_are_isotropic_above_what_the_network_learns():
    net = torch.nn.Module()
    net.forward = lambda G, basis_and_r, plan: torch.arange(27.0, dtype=torch.float64).view(3, 9)
    model, G = ScaledTensor(net).double(), molecules()
    sizes = torch.arange(1, 7)
    one = torch.eye(3, dtype=torch.float64)
    rest = torch.tensor([[0.0, 3, 0], [3, 0, 0], [0, 0, 0]], dtype=torch.float64)
    isotropic = 2.0 + sizes.double() + 0.5  # a constant, 1 for every atom of the second element, 1.5 for the first
    targets = (isotropic.view(-1, 1, 1) * one + rest).unsqueeze(1).expand(-1, 4, -1, -1)
    model.fit(targets, counts(sizes))
    torch.testing.assert_close(model.std, torch.tensor([18.0**0.5], dtype=torch.float64))
    without = model.without_network(counts([4, 9])).unflatten(1, (3, 3))
    torch.testing.assert_close(without, torch.tensor([6.5, 11.5], dtype=torch.float64).view(-1, 1, 1) * one)
    G.ndata["f"][:] = 0
    G.ndata["f"][:, 1] = 1  # all of the second element, of which each molecule's others have a constant less
    of_molecules = torch.stack([torch.tensor([0, int(n), 0, 0, 0]) for n in G.batch_num_nodes()])
    expected = model.without_network(of_molecules) + 18.0**0.5 * net.forward(G, None, None)
    torch.testing.assert_close(model(G), expected)


def test_isotropic_tensors_that_the_atoms_tell_are_refused():
    targets = torch.ones(6, 4, 1, 1, dtype=torch.float64) * torch.zeros(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="targets: expected more of each than what is linear in the atoms"):
        ScaledTensor(tensors()).fit(targets, counts(range(1, 7)))


# ------------------------------------------------------------------------------------------------------------ units


def counts(sizes):
    """Atoms of each element, ``[molecules, elements]``, where all are of two elements."""
    return torch.tensor([[1, int(size) - 1, 0, 0, 0] for size in sizes])


def test_scaled_outputs():
    net, G = MODELS["TFN"]().double(), molecules()
    targets, sizes = torch.tensor([[3.0], [5.0], [10.0]]).double(), torch.tensor([5, 4, 6])
    plain, per_atom = Scaled(net).double(), Scaled(net, per_atom=True).double()
    for model in (plain, per_atom):
        model.fit(targets, counts(sizes))
    torch.testing.assert_close(plain(G), 6 + targets.std(correction=0) * net(G))
    in_molecule_of_mean_size = targets[:, 0] * 5 / sizes
    expected = in_molecule_of_mean_size.mean() + in_molecule_of_mean_size.std(correction=0) * net(G)
    torch.testing.assert_close(per_atom(G), expected * sizes.unsqueeze(1) / 5)
    for model, known in ((plain, 6 * torch.ones(3, 1)), (per_atom, in_molecule_of_mean_size.mean() * sizes / 5)):
        torch.testing.assert_close(model.without_network(counts(sizes)), known.reshape(3, 1).double())


def test_scaled_vectors_have_no_mean():
    model = Scaled(vectors()).double()
    model.fit(torch.tensor([[3.0, 0, 4], [3, 0, 4]]).double(), counts([5, 4]))
    assert (model.mean, model.std) == (0, 5)
    with pytest.raises(ValueError, match="targets: expected more than one value"):
        Scaled(MODELS["TFN"]()).fit(torch.ones(3, 1), counts([5, 4, 6]))


def test_scaled_accepts_published_weights_and_its_own():
    net, model = MODELS["TFN"](), Scaled(MODELS["TFN"]())
    model.fit(torch.tensor([[3.0], [5.0]]), counts([5, 4]))
    published = net.state_dict()
    model.load_state_dict(published)
    assert (model.mean, model.std) == (4, 1)
    assert published.keys() == net.state_dict().keys()
    again = Scaled(MODELS["TFN"]())
    again.load_state_dict(model.state_dict())
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})


# -------------------------------------------------------------------------------------------------- several targets


def test_a_maximum_beside_a_sum():
    G, h = molecules(), torch.randn(molecules().num_nodes(), 2, 1, dtype=torch.float64)
    parts = h.squeeze(-1).split(G.batch_num_nodes().tolist())
    expected = torch.stack([torch.cat([part.amax(dim=0), part.sum(dim=0) / 18]) for part in parts])
    torch.testing.assert_close(MaxAndSum()({"0": h}, G=G), expected)


@pytest.mark.parametrize("name", ["SE3Transformer", "TFN", "SE3TransformerPooled"])
def test_every_model_gives_several_numbers(name):
    model = {"SE3Transformer": SE3Transformer, "TFN": TFN, "SE3TransformerPooled": SE3TransformerPooled}[name]
    output = model(2, 6, 4, num_degrees=2, edge_dim=5, div=2, n_heads=2, output_dim=3).double()(molecules())
    assert output.shape == (3, 3)
    assert len({*output[0].tolist()}) == 3


def several(readouts, **options):
    torch.manual_seed(0)
    options = {"num_degrees": 2, "edge_dim": 5, "div": 2, "n_heads": 2, **options}
    return SE3TransformerSeveral(2, 6, 4, readouts=readouts, **options)


def test_each_target_is_read_out_as_what_it_is():
    """Of two molecules taken for one, what is summed adds up, and lengths are those of the sum of the vectors."""
    readouts = ["sum", "length", "pooled", "sum"]
    model, G = several(readouts).double(), molecules()
    apart, sizes = model(G), [G.num_nodes()]
    assert apart.shape == (G.batch_size, 4)
    G.set_batch_num_nodes(sizes)
    G.set_batch_num_edges([G.num_edges()])
    together = model(G)
    torch.testing.assert_close(together[0, [0, 3]], apart[:, [0, 3]].sum(dim=0))
    assert 1e-6 < together[0, 1] < apart[:, 1].sum() - 1e-6
    assert apart[:, 1].min() >= 0
    assert_model_is_equivariant(lambda m, G: m(G), model, molecules())


def test_a_length_is_zero_where_symmetry_makes_it_so():
    model, G = several(["length"]).double(), Graph([0, 1], [1, 0])
    G.edata["d"] = torch.tensor([[-1.0, 0.5, 0.2], [1.0, -0.5, -0.2]], dtype=torch.float64)
    G.edata["w"] = torch.ones(2, 5, dtype=torch.float64)
    G.ndata["f"] = torch.eye(6, dtype=torch.float64)[[1, 1]].unsqueeze(-1)
    assert model(G).abs().max() < 1e-12
    G.ndata["f"] = torch.eye(6, dtype=torch.float64)[[1, 2]].unsqueeze(-1)
    assert model(G).abs().max() > 1e-6


@pytest.mark.parametrize("readouts", [["pooled", "pooled"], ["sum", "sum"], ["length"], ["sum", "pooled", "length"]])
def test_every_readout_has_gradients_and_knows_padding(readouts):
    model, G, found = several(readouts).double(), molecules(), []
    assert model(G).shape == (3, len(readouts))
    sizes = Sizes.of(G, Plan(G)).rounded(steps=2)
    for graph, plan in ((G, Plan(G)), padded(G, Plan(G), sizes)):
        loss = model(graph, plan=plan)[:3].sin().sum()
        found.append(torch.autograd.grad(loss, [*model.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert a.any()


def test_lengths_alone_need_vectors():
    assert several(["sum", "pooled"], num_degrees=1).double()(molecules()).shape == (3, 2)
    with pytest.raises(ValueError, match="num_degrees must be at least 2 for lengths of vectors, got 1"):
        SE3TransformerSeveral(2, 6, 4, num_degrees=1, readouts=["length"])


def test_together_lengths_have_a_scale_alone():
    counts_of = torch.tensor([[4, 1, 0, 0, 0], [6, 2, 0, 0, 0], [2, 1, 0, 1, 0], [4, 2, 0, 1, 0], [2, 2, 0, 0, 0]])
    targets = torch.tensor([[3.0, 1], [8, 2], [1, 3], [2, 1], [4, 5]], dtype=torch.float64)
    model = ScaledTogether(several(["pooled", "length"]), 2, lengths=[1]).double()
    model.fit(targets, counts_of)
    torch.testing.assert_close(model.std[1], targets[:, 1].square().mean().sqrt())
    G = molecules()
    torch.testing.assert_close(model(G)[:, 1], model.std[1] * model.net(G)[:, 1])
    assert not torch.allclose(model(G)[:, 0], model.std[0] * model.net(G)[:, 0])


def test_together_each_target_has_its_own_unit_above_its_atoms():
    counts_of = torch.tensor([[4, 1, 0, 0, 0], [6, 2, 0, 0, 0], [2, 1, 0, 1, 0], [4, 2, 0, 1, 0], [2, 2, 0, 0, 0]])
    linear = torch.tensor([[1.0, 100.0], [2.0, 0.0], [0.5, 0.0], [7.0, -3.0], [9.0, 0.0]]).double()
    more = torch.tensor([[1.0, -10.0], [-1.0, 10.0], [0.0, 30.0], [2.0, 0.0], [-1.0, 20.0]]).double()
    targets = 5 + counts_of.double() @ linear + more
    model = ScaledTogether(TFN(2, 6, 4, num_degrees=2, edge_dim=5, output_dim=2), 2).double()
    model.fit(targets, counts_of)
    left = targets - model.without_network(counts_of)
    torch.testing.assert_close(left.mean(dim=0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(counts_of.double().T @ left, torch.zeros(5, 2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(model.std, left.std(dim=0, correction=0))
    G = molecules()
    G.ndata["f"][:, :5, 0] = torch.eye(5).double()[torch.arange(G.num_nodes()) % 5]
    sums = torch.stack([part.sum(dim=0) for part in G.ndata["f"][:, :5, 0].split(G.batch_num_nodes().tolist())])
    torch.testing.assert_close(model(G), model.without_network(sums) + model.std * model.net(G))
    again = ScaledTogether(TFN(2, 6, 4, num_degrees=2, edge_dim=5, output_dim=2), 2).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(G), model(G))


def test_together_what_the_atoms_tell_already_is_refused():
    known = torch.tensor([[4, 1, 0, 0, 0], [6, 2, 0, 0, 0], [2, 1, 0, 1, 0], [3, 3, 0, 0, 0], [8, 1, 0, 0, 0]])
    targets = torch.stack([known[:, 0] * 2.0, torch.tensor([1.0, 5, 2, 8, 3])], dim=1).double()
    with pytest.raises(ValueError, match="targets: expected more of each than what is linear in the atoms"):
        ScaledTogether(MODELS["TFN"](), 2).fit(targets, known)
