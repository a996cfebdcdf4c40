"""Backend 'triton' in Triton's interpreter; ``test_contraction`` compares it with the oracle, as all backends."""

from collections import Counter
from functools import cache

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

from equivariant_attention import contraction
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.kernels import launch
from equivariant_attention.modules import GConvSE3, GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.native.operators import OPERATORS
from tests.cases import random_features, random_graph
from tests.equivariant_attention.contraction.test_contraction import undirected_graph
from tests.equivariant_attention.native.test_operators import Calls, check, names

FIBER, OUT = Fiber(3, 4), Fiber(structure=[(4, 0), (4, 2)])
FEW = (4,)  # nodes: the interpreter takes a second for some ten programs
interpreted = pytest.mark.skipif(bool(launch.missing(torch.device("cpu"))), reason="needs Triton's interpreter")


def values_and_gradients(backend, layer, G, features):
    """Of a layer, by features and parameters, where the two directions of an edge share radial weights."""
    leaves = [*features.values(), *layer.parameters()]
    basis, r = get_basis_and_r(G, 2)
    with use_backend(backend):
        output = list(layer(features, G=G, r=r, basis=basis).values())
    loss = sum((i + 1) * v.square().sum() for i, v in enumerate(output))
    return [*output, *torch.autograd.grad(loss, leaves, allow_unused=True)]


def are_alike(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            tolerance = 1e-5 if b.dtype == torch.float32 else 1e-12
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.detach().abs().max()))


def case(dtype, **options):
    G = undirected_graph(dtype, edge_dim=2, **options)
    layer = GSE3Res(FIBER, OUT, edge_dim=2, div=2, n_heads=2, x_ij="add").to(dtype)
    return layer, G, {d: v.requires_grad_() for d, v in random_features(FIBER, G.num_nodes(), dtype).items()}


@interpreted
def test_a_layer_is_the_oracles_where_edges_share_radial_weights(dtype):
    given = case(dtype, sizes=FEW)
    are_alike(*(values_and_gradients(backend, *given) for backend in ("triton", "oracle")))


@interpreted
def test_many_channels_are_the_oracles():
    """More than a program takes at a time; and the same input gives the same bits."""
    fiber, G = Fiber(structure=[(36, 0), (36, 1)]), undirected_graph(torch.float32, edge_dim=2, sizes=FEW)
    layer = GConvSE3(fiber, Fiber(structure=[(2, 1)]), edge_dim=2)
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float32).items()}
    found, expected, again = (
        values_and_gradients(backend, layer, G, features) for backend in ("triton", "oracle", "triton")
    )
    are_alike(found, expected)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(found, again, strict=True))


@interpreted
@pytest.mark.parametrize("made", [GSE3Res, GConvSE3])
def test_a_graph_without_edges(made):
    """As that of a single atom: derivatives of what edges do are zero."""
    fiber = Fiber(2, 4)
    layer, features = made(fiber, fiber), random_features(fiber, 3, torch.float32)
    G = Graph([], [], num_nodes=3)
    G.edata["d"] = torch.zeros(0, 3)
    basis, r = get_basis_and_r(G, 1)
    found = {}
    for backend in ("triton", "oracle"):
        leaves = [*({d: v.detach().requires_grad_() for d, v in features.items()}).values(), *layer.parameters()]
        with use_backend(backend):
            output = layer(dict(zip(features, leaves, strict=False)), G=G, r=r, basis=basis)
        loss = sum(v.square().sum() for v in output.values())
        found[backend] = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    for a, b in zip(found["triton"], found["oracle"], strict=True):
        torch.testing.assert_close(a, b)


@pytest.fixture
def recorded():
    pytest.importorskip("triton")
    with launch.recorded() as record:
        yield record


def test_launches_of_a_layer(recorded):
    """Each kernel once for all degrees; those that mix for edges that share radial weights, and for others."""
    layer, G, features = case(torch.float32)
    basis, r = get_basis_and_r(G, 2)
    with use_backend("triton"):
        output = layer(features, G=G, r=r, basis=basis)
    forward = Counter(one.name for one in recorded)
    expected = {"turned": 1, "networks": 1, "messages": 2, "attended": 1}
    expected |= {"mixed": 2}  # queries and projection
    assert forward == expected
    recorded.clear()
    sum(v.sum() for v in output.values()).backward()
    expected |= {"by_weights": 2 + 2, "by_hidden": 2, "last_layers_gradient": 1, "hidden_gradient": 1}
    expected |= {"summed_at_nodes": 1, "by_values": 2, "attended_gradient": 1}
    for name in ("attended", "mixed"):
        del expected[name]
    assert Counter(one.name for one in recorded) == expected


@pytest.mark.parametrize("by_positions", [True, False])
def test_messages_are_written_where_frames_have_derivatives_or_an_edge_has_no_frame(recorded, by_positions):
    layer, G, features = case(torch.float32)
    G.edata["d"] = G.edata["d"].clone()
    if not by_positions:
        G.edata["d"][0] = 0
    G.edata["d"].requires_grad_(by_positions)
    basis, r = get_basis_and_r(G, 2, compute_gradients=by_positions)
    with use_backend("triton"):
        layer(features, G=G, r=r, basis=basis)
    assert {"turned_back", "forward"} <= {one.name for one in recorded}
    assert "attended" not in {one.name for one in recorded}


def test_a_layer_with_hooks_calls_its_parts(recorded):
    layer, G, features = case(torch.float32)
    seen = []
    layer.GMAB["attn"].register_forward_pre_hook(lambda *given: seen.append(given))
    basis, r = get_basis_and_r(G, 2)
    with use_backend("triton"):
        layer(features, G=G, r=r, basis=basis)
    assert len(seen) == 1
    assert "attended" not in {one.name for one in recorded}


@interpreted
@pytest.mark.parametrize("envelope", [True, False])
def test_attention_in_frames_has_the_oracles_second_derivatives(envelope):
    fiber, G = Fiber(structure=[(4, 2)]), undirected_graph(torch.float64, edge_dim=2, sizes=FEW)
    layer = GSE3Res(fiber, fiber, edge_dim=2, div=2, n_heads=2).double()
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float64).items()}
    leaves = [*features.values(), layer.GMAB["q"].transform["2"], *layer.GMAB["k"].kernel_unary["(2,2)"].parameters()]
    if envelope:
        G.edata["envelope"] = torch.rand(G.num_edges(), 1, dtype=torch.float64).requires_grad_()
        leaves.append(G.edata["envelope"])
    basis, r = get_basis_and_r(G, 2)
    found = {}
    for backend in ("triton", "oracle"):
        with use_backend(backend):
            output = layer(features, G=G, r=r, basis=basis)
            loss = sum((i + 1) * v.square().sum() for i, v in enumerate(output.values()))
            first = torch.autograd.grad(loss, leaves, create_graph=True)
            found[backend] = torch.autograd.grad(sum(d.square().sum() for d in first), leaves)
    for a, b in zip(found["triton"], found["oracle"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10 * float(b.abs().max()))


def test_only_what_is_needed_is_launched(recorded):
    layer, G, features = case(torch.float32)
    basis, r = get_basis_and_r(G, 2)
    with use_backend("triton"):
        output = layer.requires_grad_(False)(features, G=G, r=r, basis=basis)
    recorded.clear()
    sum(v.sum() for v in output.values()).backward()
    assert not {one.name for one in recorded} & {"by_weights", "by_hidden", "hidden_gradient"}


@cache
def calls_of_a_layer(by_positions):
    """Of its values and first derivatives; with those by positions, and an edge of length zero."""
    fiber, G = Fiber(structure=[(2, 1)]), random_graph(torch.float64, edge_dim=1, sizes=(3,))
    G.ndata.pop("x")
    G.edata["d"] = G.edata["d"].clone()
    if by_positions:
        G.edata["d"][0] = 0
    layer = GSE3Res(fiber, fiber, edge_dim=1, div=1, x_ij="add" if by_positions else "cat").double()
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float64).items()}
    leaves = [*features.values(), *layer.parameters()]
    if by_positions:
        leaves.append(G.edata["d"].requires_grad_())
    with Calls() as calls, use_backend("triton"):
        basis, r = get_basis_and_r(G, 1, compute_gradients=by_positions)
        loss = sum(v.square().sum() for v in layer(features, G=G, r=r, basis=basis).values())
        torch.autograd.grad(loss, leaves)
    return calls.arguments


@interpreted
@pytest.mark.no_cover
@pytest.mark.parametrize("by_positions", [False, True])
def test_operators_are_as_pytorch_wants_them(by_positions):
    calls = calls_of_a_layer(by_positions)
    expected = (
        {"messages_in_triton", "attention_on_gpu"} if by_positions else {"messages_by_order", "attention_by_order"}
    )
    expected.add("joined_on_gpu")
    calls = {function: arguments for function, arguments in calls.items() if "plan" not in function.name()}
    assert {name for name in names(calls) if "linear" not in name} == {*expected, *(f"{n}_gradient" for n in expected)}
    check(calls, by_value=lambda v: v.requires_grad)


@interpreted
def test_derivatives_by_frames_are_refused_where_there_are_none():
    """PyTorch would take them for zero."""
    for function, arguments in calls_of_a_layer(by_positions=False).items():
        if function in (OPERATORS.messages_by_order.default, OPERATORS.attention_by_order.default):
            tensors = [v.detach().requires_grad_(v.is_floating_point()) for v in arguments[0]]
            values = function(tensors, *arguments[1:])
            with pytest.raises(NotImplementedError, match="frames"):
                torch.autograd.grad(sum(v.sum() for v in values), [v for v in tensors if v.requires_grad])


class Compiled:
    """A layer and a norm with their basis, compiled as one graph for all sizes, and the operators in it."""

    def __init__(self):
        torch._dynamo.reset()
        counters.clear()
        self.fiber, self.operators = Fiber(structure=[(2, 1)]), []
        layers = GSE3Res(self.fiber, self.fiber, edge_dim=1, div=1, x_ij="cat"), GNormSE3(self.fiber)
        self.layer, self.norm = (layer.double() for layer in layers)
        self.compiled = torch.compile(self.__call__, backend=self._kept, fullgraph=True, dynamic=True)

    def _kept(self, graph_module, inputs):
        targets = (str(node.target) for node in graph_module.graph.nodes)
        self.operators = [t.split(".")[1] for t in targets if t.startswith("equivariant_attention.")]
        return aot_eager(graph_module, inputs)

    def __call__(self, h, G):
        basis, r = get_basis_and_r(G, 1)
        return self.norm(self.layer(h, G=G, r=r, basis=basis))

    def results(self, function, G, h):
        leaves = [*h.values(), *self.layer.parameters(), *self.norm.parameters()]
        values = list(function(h, G).values())
        return [*values, *torch.autograd.grad(sum(v.square().sum() for v in values), leaves)]

    def given(self, sizes):
        G = random_graph(torch.float64, edge_dim=1, sizes=sizes)
        return G, {d: v.requires_grad_() for d, v in random_features(self.fiber, G.num_nodes(), torch.float64).items()}


KERNELS = ["plan", "linear_on_gpu", "messages_in_triton", "attention_on_gpu", "joined_on_gpu", "normalised_on_gpu"]
recorded_by_the_compiler = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@interpreted
@pytest.mark.no_cover
@recorded_by_the_compiler
def test_compiled_layers_are_one_graph_with_kernels_inside():
    """Forward and backward, for graphs of several sizes, with the values and gradients of layers in PyTorch."""
    model = Compiled()
    for sizes in ((4,), (3, 2), (2, 4)):
        given = model.given(sizes)
        with use_backend("triton"):
            found = model.results(model.compiled, *given)
        with use_backend("frame"):
            expected = model.results(model, *given)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert counters["stats"]["unique_graphs"] == 1
    assert model.operators == KERNELS


@pytest.mark.no_cover
@recorded_by_the_compiler
def test_the_library_chooses_kernels_for_compiled_code_on_a_gpu(recorded, monkeypatch):
    """Those of the registered operators; where a dispatch mode asks for operations one by one, those of PyTorch."""
    monkeypatch.setattr(contraction, "runs_in_cpp", lambda *tensors: False)  # as for tensors on CUDA
    model = Compiled()
    model.results(model.compiled, *model.given((4, 3)))
    assert model.operators == KERNELS
    assert {"networks", "messages", "forward", "hidden_gradient", "by_weights"} <= {one.name for one in recorded}
    recorded.clear()
    with Calls() as calls:
        model.results(model, *model.given((4, 3)))
    assert not names(calls.arguments) & {*KERNELS[1:]}
    assert not recorded
