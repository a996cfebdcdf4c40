import pytest
import torch

from equivariant_attention.models import NONLINEARITIES, nonlinearity
from equivariant_attention.modules import GGate, GNormSE3
from equivariant_attention.neighbors import knn_graph
from tests.cases import MIXED
from tests.equivariant_attention.models.cases import tfn, transformer


def test_names():
    assert {name: type(nonlinearity(name)(MIXED)) for name in NONLINEARITIES} == {"norm": GNormSE3, "gate": GGate}
    assert nonlinearity("norm", num_layers=2)(MIXED).num_layers == 2


@pytest.mark.parametrize("make", [transformer, tfn])
def test_models_have_it_between_their_layers(make):
    assert all(isinstance(layer, GNormSE3) for layer in make().layers[1::2])
    assert all(isinstance(layer, GGate) for layer in make(nonlinearity="gate").layers[1::2])
    with pytest.raises(ValueError, match=r"nonlinearity must be one of \('norm', 'gate'\), got 'relu'"):
        make(nonlinearity="relu")


def methane(displacement):
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    x = torch.cat([torch.zeros(1, 3, dtype=torch.float64), corners])
    return x + displacement * torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def change(model, displacement):
    """How far the prediction moves when the atoms of an exact tetrahedron do."""

    def predict(x):
        G = knn_graph(x, 4)
        G.edata["w"] = torch.ones(G.num_edges(), 2, dtype=x.dtype)
        features = {"0": torch.ones(5, 4, 1, dtype=x.dtype), "1": torch.zeros(5, 2, 3, dtype=x.dtype)}
        return model(G, features)

    return (predict(methane(displacement)) - predict(methane(0))).abs().max().item()


@pytest.mark.parametrize("make", [transformer, tfn])
def test_with_gates_a_symmetric_molecule_that_moves_a_little_moves_the_prediction_a_little(make):
    torch.manual_seed(0)
    smooth = make(nonlinearity="gate", return_type=0).double()
    assert change(smooth, 1e-9) < 1e-8
    assert change(smooth, 1e-6) < 1e-5
    assert change(smooth, 1e-3) < 1e-2


def test_with_norms_it_jumps():
    torch.manual_seed(0)
    published = tfn(return_type=0).double()
    assert change(published, 1e-6) < 1e-5  # noise, as far as the layer is concerned
    assert change(published, 1e-3) > 1e-2
