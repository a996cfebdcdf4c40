import pytest
import torch
from torch import nn
from torch.func import grad, jvp

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GAttentiveSelfInt, GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.modules.layer_norm import LayerNorm
from tests.cases import BACKENDS_HERE, random_features, random_graph

FIBER = Fiber(2, 2)
SHAPES = [((5, 4), (4,)), ((2, 3, 4), (3, 4)), ((4,), (4,)), ((0, 4), (4,))]


def both(shape, **options):
    """The layer and PyTorch's, with the same parameters."""
    layer, theirs = LayerNorm(shape, **options).double(), nn.LayerNorm(shape, **options).double()
    with torch.no_grad():
        for p, q in zip(layer.parameters(), theirs.parameters(), strict=True):
            p += torch.randn_like(p)
            q.copy_(p)
    return layer, theirs


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.5}])
@pytest.mark.parametrize(("size", "shape"), SHAPES)
def test_values_and_first_two_derivatives_are_those_of_pytorch(size, shape, options):
    x, dy = (torch.randn(size, dtype=torch.float64) for _ in range(2))
    found = []
    for layer in both(shape, **options):
        leaves = [x.clone().requires_grad_(), *layer.parameters()]
        y = layer(leaves[0])
        first = torch.autograd.grad(y, leaves, dy, retain_graph=True)
        again = torch.autograd.grad(y, leaves, dy, create_graph=True)
        second = torch.autograd.grad(sum(v.square().sum() for v in again), leaves, allow_unused=True)
        found.append([y, *first, *again, *(d for d in second if d is not None)])
        with torch.no_grad():
            found[-1].append(layer(x))
    for a, b in zip(*found, strict=False):  # PyTorch gives zeros where nothing depends
        torch.testing.assert_close(a, b)


def test_derivatives_of_any_order():
    layer, _ = both((3,))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradgradcheck(layer, x)

    def second(x):
        (first,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        (found,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        return found

    torch.autograd.gradcheck(second, x)  # third
    torch.autograd.gradgradcheck(second, x)  # and fourth


def third_derivatives_are_exact(energy, x):
    """Those along a direction, against differences of second ones."""
    direction = torch.randn_like(x)

    def second(x, create_graph):
        x = x.requires_grad_() if x.is_leaf else x
        (first,) = torch.autograd.grad(energy(x), x, create_graph=True)
        (found,) = torch.autograd.grad((first * direction).sum(), x, create_graph=create_graph)
        return (found * direction).sum()

    (found,) = torch.autograd.grad(second(x, True), x)
    step, towards = 1e-5, torch.randn_like(x)
    ends = [second((x + k * step * towards).detach(), False) for k in (-2, -1, 1, 2)]
    # To fourth order in the step: a norm that happens to be small bends the function within the step.
    expected = float(ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * step)
    assert abs(float((found * towards).sum()) - expected) < 1e-5 * max(1.0, abs(expected))


@pytest.mark.parametrize("layer", [GNormSE3(FIBER), GNormSE3(FIBER, nn.SiLU, 2), GAttentiveSelfInt(FIBER, FIBER)])
def test_third_derivatives_of_layers_that_have_it(layer):
    features, layer = random_features(FIBER, 4, torch.float64), layer.double()

    def energy(x):
        h = layer({d: v * (1 + x.square().sum()) + x.sum() * v.square() for d, v in features.items()})
        return sum(v.square().sum() for v in h.values())

    third_derivatives_are_exact(energy, torch.randn(3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("backend", [None, *BACKENDS_HERE])
def test_third_derivatives_by_positions(backend):
    """Of an attention layer: training on force constants needs them."""
    layer, G = GSE3Res(FIBER, FIBER, div=1, selfint="att").double(), random_graph(torch.float64, sizes=(4,))
    features, (src, dst) = random_features(FIBER, 4, torch.float64), G.edges()

    def energy(x):
        G.edata["d"] = x[dst] - x[src]
        basis, r = get_basis_and_r(G, 1, compute_gradients=True)
        return sum(v.square().sum() for v in layer(features, G=G, r=r, basis=basis).values())

    with use_backend(backend):
        third_derivatives_are_exact(energy, G.ndata["x"].squeeze(1).clone().requires_grad_())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own forward derivatives use it
def test_transforms():
    layer, theirs = both((3,))
    x = torch.randn(2, 3, dtype=torch.float64)
    expected = grad(lambda x: theirs(x).pow(3).sum())(x)
    torch.testing.assert_close(grad(lambda x: layer(x).pow(3).sum())(x), expected)
    _, along = jvp(lambda x: layer(x).pow(3).sum(), (x,), (torch.ones_like(x),))
    torch.testing.assert_close(along, expected.sum())
    torch.testing.assert_close(torch.func.vmap(layer)(x), theirs(x))
    leaf = x.clone().requires_grad_()
    many = torch.randn(4, 2, 3, dtype=torch.float64)
    found, wanted = (torch.autograd.grad(f(leaf), leaf, many, is_grads_batched=True)[0] for f in (layer, theirs))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_under_autocast_it_is_as_pytorch_has_it(dtype):
    layer, theirs = (f.float() for f in both((4,)))
    found = []
    for f in (layer, theirs):
        x = torch.linspace(-1, 1, 8).view(2, 4).to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = f(x)
        found.append([y, *torch.autograd.grad(y.float().pow(3).sum(), [x, *f.parameters()])])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b)
