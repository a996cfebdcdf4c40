import pytest
import torch

from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.plan import Plan
from experiments.nbody.integrator import SE3Integrator
from experiments.nbody.models import TFN, SE3Transformer
from tests.cases import random_graph
from tests.experiments.models import assert_model_is_equivariant, in_dtype


def bodies(kind="own"):
    G = random_graph(torch.float64, edge_dim=1, kind=kind)
    graph = as_graph(G)
    graph.ndata["v"] = torch.randn(graph.num_nodes(), 1, 3, dtype=torch.float64)
    graph.ndata["c"] = torch.randn(graph.num_nodes(), 1, 1, dtype=torch.float64).sign()
    return G


MODELS = {
    "published": lambda: SE3Transformer(num_layers=4, num_channels=8, num_degrees=4, div=4, n_heads=2),
    "small": lambda: SE3Transformer(num_layers=1, num_channels=4, num_degrees=2, div=2, si_m="att", x_ij="cat"),
    "no layers": lambda: SE3Transformer(num_layers=0, num_channels=4, si_e="1x1", x_ij=None),
    "many heads": lambda: SE3Transformer(num_layers=1, num_channels=16, num_degrees=3, div=4, n_heads=4),
    "TFN": lambda: TFN(num_layers=4, num_channels=8, num_degrees=4),
    "integrator": lambda: SE3Integrator(num_layers=1, num_channels=8, num_steps=4),
    "deep integrator": lambda: SE3Integrator(num_layers=2, num_channels=4, num_degrees=3, num_steps=2),
}


@pytest.mark.parametrize("name", MODELS)
def test_equivariance(name, kind):
    degrees = {"x": 1, "v": 1}
    assert_model_is_equivariant(lambda m, G: m(G), MODELS[name](), bodies(kind), node_degrees=degrees, output_degree=1)


@pytest.mark.parametrize("name", MODELS)
def test_shape_and_gradients_of_every_parameter(name, dtype):
    """Also where nodes without incoming edges have features that are exactly zero."""
    model = MODELS[name]().to(dtype)
    output = model(in_dtype(bodies(), dtype))
    assert output.shape == (15, 2, 3)
    output.square().sum().backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


@pytest.mark.parametrize("name", ["small", "TFN"])
def test_a_basis_at_hand_is_used(name):
    model, G = MODELS[name]().double(), bodies()
    torch.testing.assert_close(model(G, get_basis_and_r(G, 3, plan=Plan(G))), model(G))
    with pytest.raises(ValueError, match="basis must"):
        model(G, get_basis_and_r(G, 0))


@pytest.mark.parametrize("model", [TFN, SE3Transformer])
def test_scalars_alone(model):
    """The output is a vector, whatever the degrees in the middle."""
    if model is SE3Transformer:
        with pytest.raises(ValueError, match="must share a degree"):
            model(num_layers=1, num_channels=4, num_degrees=1)
    else:
        assert model(num_layers=2, num_channels=4, num_degrees=1).double()(bodies()).shape == (15, 2, 3)


@pytest.mark.parametrize("name", ["small", "TFN"])
def test_forces_of_a_model(name):
    """First and second derivatives with respect to positions: what training on forces needs."""
    model, G = MODELS[name]().double(), bodies()
    src, dst = G.edges()

    def function(x):
        G.ndata["x"], G.edata["d"] = x, (x[dst] - x[src]).squeeze(1)
        return model(G, get_basis_and_r(G, 3, compute_gradients=True))

    x = G.ndata["x"].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


def test_steps_of_an_integrator_are_those_of_leapfrog(monkeypatch):
    """Of accelerations v + 2 x, and corrections 3 x."""
    model, G = SE3Integrator(num_layers=1, num_channels=4, num_steps=10).double(), bodies()
    model.horizon.fill_(0.5)
    monkeypatch.setattr(model, "_forces", lambda layers, G, x, v, plan: (v + 2 * x, 3 * x))
    start = torch.cat([G.ndata["x"], G.ndata["v"]], dim=1)
    x, v = start.unbind(1)
    for _ in range(10):
        x = x + 0.025 * v
        (v, x) = (v + 0.05 * (v + 2 * x), x + 0.05**2 * 3 * x)
        x = x + 0.025 * v
    torch.testing.assert_close(model(G), torch.stack([x, v], dim=1) - start)


def test_an_integrator_moves_vectors():
    with pytest.raises(ValueError, match="num_degrees: expected at least 2"):
        SE3Integrator(num_layers=1, num_channels=4, num_degrees=1)


def test_published_tfn_checkpoints_repeat_their_parameters():
    model, other = TFN(num_layers=2, num_channels=4, num_degrees=2), TFN(num_layers=2, num_channels=4, num_degrees=2)
    published = model.state_dict()
    published |= {name.replace("Gblock", "enc", 1): value for name, value in published.items()}
    other.load_state_dict(published, strict=True)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    name = next(name for name in published if name.startswith("enc"))
    published[name] = published[name] + 1
    with pytest.raises(RuntimeError, match="enc"):
        other.load_state_dict(published, strict=True)
