import pytest
import torch

from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from experiments.qm9.models import TFN, SE3Transformer
from tests.cases import random_graph
from tests.experiments.models import assert_model_is_equivariant

MODELS = {
    "SE3Transformer-avg": lambda: SE3Transformer(2, 6, 4, num_degrees=4, edge_dim=5, div=2, pooling="avg"),
    "SE3Transformer-max": lambda: SE3Transformer(2, 6, 4, num_degrees=3, edge_dim=5, div=2, pooling="max", n_heads=2),
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


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling must be 'avg' or 'max', got 'sum'"):
        SE3Transformer(1, 6, 4, pooling="sum")
