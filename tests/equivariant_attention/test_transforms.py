"""Layers within what PyTorch does to functions: torch.func, tracing."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.models import SE3Transformer
from equivariant_attention.modules import GSE3Res, get_basis_and_r
from equivariant_attention.neighbors import knn_graph
from equivariant_attention.plan import Plan
from tests.cases import BACKENDS_HERE, random_features

FIBER = Fiber(2, 2)
CHOICES = [None, *(name for name in BACKENDS_HERE if name != "triton")]
# Which PyTorch's own forward derivatives use.
takes_forward_derivatives = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.fixture
def energy():
    """A function of positions, and these."""
    model = SE3Transformer({0: 2}, {0: 2, 1: 2}, {0: 1}, num_layers=1, pooling="avg", return_type=0).double()
    x, h = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, 1, dtype=torch.float64)
    src, dst = knn_graph(x, 3).edges()

    def function(x):
        G = Graph(src, dst, 5)
        G.edata["d"] = x[dst] - x[src]
        return model(G, {"0": h}).sum()

    return function, x


@takes_forward_derivatives
@pytest.mark.parametrize("backend", CHOICES)
def test_functional_derivatives_by_positions(backend, energy):
    function, x = energy
    expected, second = torch.autograd.functional.jacobian(function, x), torch.autograd.functional.hessian(function, x)
    with use_backend(backend, memory=1):
        for derivative in (grad, jacrev, jacfwd):
            torch.testing.assert_close(derivative(function)(x), expected)
        torch.testing.assert_close(jvp(function, (x,), (torch.ones_like(x),))[1], expected.sum())
        torch.testing.assert_close(hessian(function)(x), second)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
            along = torch.autograd.forward_ad.unpack_dual(function(dual)).tangent
        torch.testing.assert_close(along, expected.sum())


@pytest.mark.parametrize("backend", CHOICES)
def test_functional_derivatives_by_features_and_parameters_and_many_at_once(backend):
    """With a basis that is formed within them, and serves outside afterwards."""
    layer, G = GSE3Res(FIBER, FIBER, div=1), knn_graph(torch.randn(5, 3), 3)
    features = random_features(FIBER, 5, torch.float32)
    basis, r = get_basis_and_r(G, 1)

    def function(h1, parameters=None):
        arguments = ({**features, "1": h1}, G, r, basis)
        output = functional_call(layer, parameters or {}, arguments)
        return sum(v.square().sum() for v in output.values())

    many = torch.stack([features["1"], 2 * features["1"]])
    with use_backend(backend):
        found = grad(function)(features["1"]), vmap(function)(many)
        by_parameters = grad(function, argnums=1)(features["1"], dict(layer.named_parameters()))
    leaf = features["1"].clone().requires_grad_()
    expected = torch.autograd.grad(function(leaf), [leaf, *layer.parameters()])
    for a, b in zip([found[0], *by_parameters.values()], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], torch.stack([function(v) for v in many]), rtol=1e-4, atol=1e-4)


class OnFeatures(nn.Module):
    """A layer as a function of tensors."""

    def __init__(self, G):
        super().__init__()
        self.layer, self.G, (self.basis, self.r) = GSE3Res(FIBER, FIBER, div=1), G, get_basis_and_r(G, 1)

    def forward(self, h0, h1):
        return self.layer({"0": h0, "1": h1}, G=self.G, r=self.r, basis=self.basis)["1"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("backend", CHOICES)
def test_tracing(backend):
    module = OnFeatures(knn_graph(torch.randn(6, 3), 3))
    example, other = ([*random_features(FIBER, 6, torch.float32).values()] for _ in range(2))
    with use_backend(backend, memory=1):
        traced = torch.jit.trace(module, example, check_trace=False)
    torch.testing.assert_close(traced(*other), module(*other), rtol=1e-4, atol=1e-5)


class OnPositions(nn.Module):
    """A model on a graph whose edges stay as they are."""

    def __init__(self, G):
        super().__init__()
        self.model = SE3Transformer({0: 2}, {0: 2, 1: 2}, {0: 1}, num_layers=1)
        self.G, self.plan = G, Plan(G)

    def forward(self, x, h):
        src, dst = self.G.edges()
        G = self.G.local_var()
        G.edata["d"] = x[dst] - x[src]
        return self.model(G, {"0": h}, get_basis_and_r(G, 1, plan=self.plan))["0"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
def test_tracing_of_a_graph_with_a_plan():
    x, h = torch.randn(5, 3), torch.randn(5, 2, 1)
    module = OnPositions(knn_graph(x, 3))
    traced, moved = torch.jit.trace(module, (x, h), check_trace=False), x + 0.1 * torch.randn_like(x)
    torch.testing.assert_close(traced(moved, h), module(moved, h), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_plan_is_refused_within_a_trace():
    """It would be that of the example's edges for all others."""
    x, h = torch.randn(5, 3), torch.randn(5, 2, 1)
    module = OnPositions(knn_graph(x, 3))
    module.plan = None
    with pytest.raises(RuntimeError, match=r"a Plan cannot be made within torch\.jit\.trace.*use torch\.export"):
        torch.jit.trace(module, (x, h), check_trace=False)
