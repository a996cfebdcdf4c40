"""Derivatives of derivatives of messages in C++: by everything that messages are a function of, up to the third."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from equivariant_attention.contraction import Inputs, blockwise, contract, cpp, use_backend
from equivariant_attention.contraction.convolution import Convolution, Pair, pairwise
from equivariant_attention.contraction.radial import HIDDEN, Anatomy
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial, PairwiseConv, get_basis_and_r
from equivariant_attention.modules.layer_norm import LayerNorm  # PyTorch's own has wrong third derivatives
from equivariant_attention.native.calls import not_built
from tests.cases import MIXED, awkward_graph, random_features, random_graph
from tests.equivariant_attention.contraction.test_contraction import PAIRS, undirected_graph
from tests.equivariant_attention.contraction.test_cpp import graph

pytestmark = pytest.mark.skipif(bool(not_built(cpp.SOURCES["cpp"])), reason=not_built(cpp.SOURCES["cpp"]))
EDGE_DIM = 1


class Messages(nn.Module):
    """Those of a convolution, as a function of features of nodes and of edges, and of positions."""

    def __init__(self, convolution, networks, first=None):
        super().__init__()
        self.convolution, self.networks, self.first = convolution, nn.ModuleList(networks), first or {}

    def forward(self, G, d, features, on_edges):
        G.edata["d"] = d
        basis, r = get_basis_and_r(G, 4, compute_gradients=True)
        scalars = torch.cat([G.edata["w"], r], dim=-1)
        inputs = Inputs(features, G.edges()[0], scalars, basis, True, on_edges, self.first)
        return contract(self.convolution, [*self.networks], inputs)


class Network(nn.Module):
    """A radial network that may serve several pairs, and may have neither bias nor LayerNorms."""

    def __init__(self, rows, has_norm, has_bias):
        super().__init__()
        layers = []
        for width in (EDGE_DIM + 1, HIDDEN):
            layers += [nn.Linear(width, HIDDEN), *([LayerNorm(HIDDEN)] if has_norm else []), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(HIDDEN, rows, bias=has_bias))
        numbers = [i for i, layer in enumerate(self.net) if isinstance(layer, nn.Linear)]
        self.anatomy = Anatomy(
            names=("", ".net", *(f".net.{i}" for i in range(len(self.net)))),
            classes=(Network, nn.Sequential, *map(type, self.net)),
            linears=tuple(2 + i for i in numbers),
            norms=tuple(3 + i for i in numbers[:2]) if has_norm else (),
            has_bias=has_bias,
        )

    forms_kernels = False

    def radial_weights(self, scalars):
        return self.net(scalars)

    def radial_modules(self):
        return self, self.net, *self.net


def shared_convolution(has_norm, has_bias):
    """One network for messages of degrees 0 and 1, another for one of degree 2; outputs are left over."""
    features, messages = ((0, 2), (1, 3)), ((0, 2), (1, 1), (2, 2))
    pairs = [
        Pair(feature, message, message // 2, first=15 * (message % 2 * 2) + 3 * (2 * feature), step_out=15, step_in=3)
        for message in range(3)
        for feature in range(2)
    ]
    pairs[3] = Pair(1, 1, 0, pairs[3].first, 15, 3, scales=(0.5, -1.0, 2.0))
    convolution = Convolution(features, messages, tuple(pairs), (60, 30), has_norm, has_bias)
    return Messages(convolution, [Network(rows, has_norm, has_bias) for rows in convolution.rows])


def derivatives(function, leaves, order=3):
    """The values of a function; then derivatives of all that is there in a random direction, again and again."""
    generator = torch.Generator().manual_seed(0)
    found, values = [], [*function()]
    for step in range(order):
        found += values
        directions = [torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in values]
        loss = sum((d * v).sum() for d, v in zip(directions, values, strict=True) if v.requires_grad)
        values = torch.autograd.grad(
            loss, leaves, create_graph=step < order - 1, allow_unused=True, materialize_grads=True
        )
    return [*found, *values]


def check_derivatives(function, leaves, other="oracle", tolerance=1e-11, **options):
    """Those of C++ are the others', each within a part of its largest number, or of one."""
    found = []
    for backend in (other, "cpp"):
        with use_backend(backend):
            found.append(derivatives(function, leaves, **options))
    for expected, value in zip(*found, strict=True):
        largest = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance * largest)


def function_of(layer, G, fiber, dtype=torch.float64):
    """The messages of a layer, and all that they are a function of."""
    G.ndata.pop("x", None)  # so that every derivative flows to d
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    d, w = G.edata["d"].clone().requires_grad_(), G.edata["w"]

    def function():
        G.edata["d"] = d
        basis, r = get_basis_and_r(G, 4, compute_gradients=True)
        return layer(features, G=G, r=r, basis=basis).values()

    return function, [*features.values(), d, *([w] if w.requires_grad else []), *layer.parameters()]


@pytest.mark.parametrize("make", [random_graph, awkward_graph, undirected_graph])
@pytest.mark.parametrize("x_ij", [None, "cat", "add"])
def test_second_and_third_derivatives_are_the_oracles(make, x_ij):
    layer = GConvSE3Partial(MIXED, Fiber(3, 2), edge_dim=EDGE_DIM, x_ij=x_ij).double()
    function, leaves = function_of(layer, make(edge_dim=EDGE_DIM), MIXED)
    check_derivatives(function, leaves)
    check_derivatives(function, leaves[:3], order=2)  # of some of them alone
    check_derivatives(function, leaves[4:], order=2)


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("make", [awkward_graph, undirected_graph])
def test_networks_that_serve_several_pairs(make, has_norm, has_bias):
    model, G = shared_convolution(has_norm, has_bias).double(), make(edge_dim=EDGE_DIM)
    features = {"0": torch.randn(G.num_nodes(), 2, 1), "1": torch.randn(G.num_nodes(), 2, 3)}
    on_edges = {"1": torch.randn(G.num_edges(), 1, 3)}
    model.first = {"1": 2}
    features, on_edges = ({k: v.double().requires_grad_() for k, v in part.items()} for part in (features, on_edges))
    d = G.edata["d"].requires_grad_()
    leaves = [*features.values(), *on_edges.values(), d, *model.parameters()]
    check_derivatives(lambda: model(G, d, features, on_edges), leaves)


@pytest.mark.parametrize(("k", "l"), PAIRS)
def test_second_derivatives_of_every_pair_by_everything(k, l):
    networks = [PairwiseConv(k, 3, l, 2, edge_dim=EDGE_DIM)]
    model = Messages(pairwise(Fiber(structure=[(3, k)]), (Fiber(structure=[(2, l)]),)), networks, {str(k): 1}).double()
    full, keep = awkward_graph(edge_dim=EDGE_DIM), torch.tensor([0, 4, 7, 13, 24])
    G = Graph(*(ends[keep] for ends in full.edges()), num_nodes=full.num_nodes())  # one edge is of length zero
    G.edata["w"], d = full.edata["w"][keep], full.edata["d"][keep]
    moving = d.any(-1).nonzero()[:, 0]
    names, parameters = zip(*model.named_parameters(), strict=True)

    def function(moved, of_nodes, of_edges, *parameters):
        args = G, d.index_put((moving,), moved), {str(k): of_nodes}, {str(k): of_edges}
        with use_backend("cpp"):
            return tuple(functional_call(model, dict(zip(names, parameters, strict=True)), args))

    of_nodes, of_edges = (torch.randn(n, 2, 2 * k + 1, dtype=torch.float64) for n in (G.num_nodes(), G.num_edges()))
    inputs = [v.detach().clone().requires_grad_() for v in (d[moving], of_nodes, of_edges, *parameters)]
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("num_edges", [0, 1, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_edges_and_threads(num_edges, threads, dtype):
    layer = GConvSE3Partial(MIXED, Fiber(2, 3), edge_dim=2, x_ij="add").to(dtype)
    G = graph(9, num_edges, dtype=dtype)
    G.edata["w"].requires_grad_(num_edges % 2 == 1)
    torch.set_num_threads(threads)
    try:
        function, leaves = function_of(layer, G, MIXED, dtype)
        tolerance = 1e-3 if dtype == torch.float32 else 1e-11
        check_derivatives(function, leaves, "frame", tolerance, order=2)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("channels", [1, 17, 32])
def test_any_number_of_channels(channels, dtype):
    fiber = Fiber(2, channels)
    function, leaves = function_of(
        GConvSE3Partial(fiber, fiber, edge_dim=EDGE_DIM).to(dtype), undirected_graph(dtype, EDGE_DIM), fiber, dtype
    )
    check_derivatives(function, leaves, "frame", 1e-3 if dtype == torch.float32 else 1e-11, order=2)


@pytest.mark.parametrize("memory", [1, 30_000])
def test_small_blocks_give_the_same(memory):
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=EDGE_DIM).double()
    function, leaves = function_of(layer, undirected_graph(edge_dim=EDGE_DIM), MIXED)
    found = []
    for limit in (None, memory):
        with use_backend("cpp", memory=limit):
            found.append(derivatives(function, leaves, order=2))
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-11 * float(expected.detach().abs().max()))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_again(threads):
    """No sum depends on which thread comes first."""
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=2)
    function, leaves = function_of(layer, graph(20, 300, dtype=torch.float32), MIXED, torch.float32)
    torch.set_num_threads(threads)
    try:
        with use_backend("cpp"):
            first, *others = (derivatives(function, leaves, order=2) for _ in range(3))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def test_second_derivatives_of_some_of_the_messages():
    """Of which edges of length zero carry others too."""
    layer = GConvSE3Partial(MIXED, Fiber(3, 2), edge_dim=EDGE_DIM).double()
    function, leaves = function_of(layer, awkward_graph(edge_dim=EDGE_DIM), MIXED)
    check_derivatives(lambda: [*function()][1:2], leaves, order=2)


def forces(layer, G):
    """Minus the derivative by d of an energy, which can be differentiated again, and the basis."""
    G.edata["d"] = d = G.edata["d"].detach().requires_grad_()
    basis, r = get_basis_and_r(G, 2, compute_gradients=True)
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    with use_backend("cpp"):
        energy = sum(v.square().sum() for v in layer(features, G=G, r=r, basis=basis).values())
    return -torch.autograd.grad(energy, d, create_graph=True)[0], basis


def graph_and_layer():
    return random_graph(edge_dim=1), GConvSE3Partial(MIXED, MIXED, edge_dim=1).double()


def test_up_to_second_derivatives_nothing_is_made_in_pytorch(monkeypatch):
    G, layer = graph_and_layer()

    def fails(*args):
        raise AssertionError("blockwise runs")

    monkeypatch.setattr(blockwise.Problem, "gradient", fails)
    loss, leaves = forces(layer, G)[0].square().sum(), [*layer.parameters()]
    gradients = torch.autograd.grad(loss, leaves, create_graph=True)
    assert any(d.any() for d in gradients)
    with pytest.raises(AssertionError, match="blockwise runs"):  # third derivatives are
        torch.autograd.grad(sum(d.sum() for d in gradients), leaves, allow_unused=True)


def test_derivatives_by_parameters_are_made_where_they_are_asked_for(monkeypatch):
    """By torch.autograd.grad of some, or by backward of all; forces need none."""
    (G, layer), asked, empty = graph_and_layer(), [], cpp._empty_derivatives
    monkeypatch.setattr(
        cpp, "_empty_derivatives", lambda t, needed: asked.append(any(needed.parameters)) or empty(t, needed)
    )
    loss, weight = forces(layer, G)[0].square().sum(), layer.kernel_unary["(1,1)"].rp.net[0].weight
    (by_weight,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (by_d,) = torch.autograd.grad(loss, G.edata["d"], retain_graph=True)
    loss.backward()
    assert asked == [False, True, True, False, False, True, True]  # after the first, by forces and by messages each
    torch.testing.assert_close(weight.grad, by_weight)
    torch.testing.assert_close(G.edata["d"].grad, by_d)


def test_what_is_kept_grows_with_channels_and_not_with_their_square():
    """Of every edge, for second derivatives; parameters are kept anyway."""
    G, sizes = random_graph(edge_dim=1, sizes=(12, 12)), []
    for channels in (8, 16):
        fiber, kept = Fiber(2, channels), {}
        layer = GConvSE3Partial(fiber, fiber, edge_dim=1).double()
        own = {p.data_ptr() for p in layer.parameters()}
        function, _ = function_of(layer, G, fiber)

        def keep(v, kept=kept):
            kept[v.data_ptr()] = v
            return v

        with use_backend("cpp"), torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
            loss = sum(v.square().sum() for v in function())
            torch.autograd.grad(loss, G.edata["d"], create_graph=True)
        sizes.append(sum(v.numel() for address, v in kept.items() if address not in own))
    assert sizes[1] < 2 * sizes[0]


@pytest.mark.parametrize("order", [2, 3])
def test_a_plan_that_was_written_to_is_refused(order):
    G, layer = graph_and_layer()
    value, basis = forces(layer, G)
    if order == 3:
        (value,) = torch.autograd.grad(value.square().sum(), G.edata["d"], create_graph=True)
    basis.plan.dst.zero_()
    with pytest.raises(RuntimeError, match="plan must not be written to"):
        value.square().sum().backward()


@pytest.mark.parametrize("change", [lambda v: v.float(), lambda v: v[:1]], ids=["dtype", "shape"])
def test_a_gradient_of_which_other_tensors_were_kept(change):
    """Hooks of saved tensors may compress them, say."""
    G, layer = graph_and_layer()
    features = {k: v.requires_grad_() for k, v in random_features(MIXED, G.num_nodes(), torch.float64).items()}
    basis, r = get_basis_and_r(G, 2)
    with use_backend("cpp"):
        output = layer(features, G=G, r=r, basis=basis)
    with torch.autograd.graph.saved_tensors_hooks(lambda v: v, change):
        first = torch.autograd.grad(sum(v.sum() for v in output.values()), [*features.values()], create_graph=True)
    with pytest.raises((TypeError, ValueError), match=r"must be (a|of)|must have shape"):
        sum(v.square().sum() for v in first).backward()


def test_many_second_derivatives_at_once_are_refused():
    G, layer = graph_and_layer()
    force, _ = forces(layer, G)
    many = torch.ones(3, *force.shape, dtype=force.dtype)
    with pytest.raises(NotImplementedError, match=r"use_backend\('edge'\)"):
        torch.autograd.grad(force, G.edata["d"], many, is_grads_batched=True)
