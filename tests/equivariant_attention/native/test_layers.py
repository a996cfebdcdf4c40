"""The layers in C++ against the same in PyTorch."""

import multiprocessing
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GMABSE3, G1x1SE3, GCat, GNormBias, GNormSE3
from equivariant_attention.modules.linear import mixed_without_joining
from equivariant_attention.native import attention, calls, compiler, linear, norm
from tests.cases import MIXED, VECTORS, random_features

LIBRARIES = (attention, linear, norm)
reason = "; ".join(filter(None, (calls.not_built(library.SOURCE) for library in LIBRARIES)))
runs = pytest.mark.skipif(bool(reason), reason=reason)
# Which use it in PyTorch itself.
takes_forward_derivatives = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
HIGH = Fiber(structure=[(4, 0), (6, 4), (6, 9)])  # more orders than a vector register has values
WIDE = Fiber(structure=[(40, 0), (17, 1), (33, 3)])
HEADS = Fiber(structure=[(6, 0), (3, 1), (9, 2)])


def on_nodes(layer, fiber, nodes=10):
    """A layer on nodes as a function of features and parameters, and these."""
    names, count = [name for name, _ in layer.named_parameters()], len(fiber.degrees)

    def function(*tensors):
        features = dict(zip(map(str, fiber.degrees), tensors[:count], strict=True))
        return [*functional_call(layer, dict(zip(names, tensors[count:], strict=True)), features).values()]

    return function, [*random_features(fiber, nodes, torch.float64).values(), *layer.parameters()]


def on_edges(f_value, f_key, heads, nodes, edges, envelope=False):
    """Attention as a function of values, keys, queries and the envelope, and these; some nodes have no edges."""
    layer, dst = GMABSE3(f_value, f_key, heads), torch.randint(max(1, nodes - 2), (edges,))
    G = Graph(torch.zeros_like(dst), dst, num_nodes=nodes)
    rows = ((f_value, edges), (f_key, edges), (f_key, nodes))
    leaves = [v for fiber, count in rows for v in random_features(fiber, count, torch.float64).values()]
    if envelope:
        u = torch.rand(edges, 1, dtype=torch.float64)
        u[::3] = u[dst == 0] = 0
        leaves.append(u)

    def function(*tensors):
        rest = iter(tensors)
        v, k, q = ({str(d): next(rest) for d in fiber.degrees} for fiber, _ in rows)
        if envelope:
            G.edata["envelope"] = next(rest)
        return [*layer(v, k=k, q=q, G=G).values()]

    return function, leaves


def joined():
    """Two features mixed as one, as a function of these and the matrices; the second lacks a degree."""
    first, second = MIXED, VECTORS
    cat = GCat(first, second)
    layer = G1x1SE3(cat.f_out, MIXED)
    names = [name for name, _ in layer.named_parameters()]

    def function(*tensors):
        rest = iter(tensors)
        x, y = ({str(d): next(rest) for d in fiber.degrees} for fiber in (first, second))
        matrices = dict(zip(layer.transform, rest, strict=True))
        found = mixed_without_joining(matrices, x, y)
        if found is None:
            found = functional_call(layer, dict(zip(names, matrices.values(), strict=True)), cat(x, y))
        return [*found.values()]

    leaves = [v for fiber in (first, second) for v in random_features(fiber, 10, torch.float64).values()]
    return function, [*leaves, *layer.parameters()]


CASES = {
    "linear": lambda: on_nodes(G1x1SE3(MIXED, MIXED), MIXED),
    "linear-wide": lambda: on_nodes(G1x1SE3(WIDE, WIDE), WIDE, nodes=600),
    "linear-high": lambda: on_nodes(G1x1SE3(HIGH, HIGH), HIGH),
    "linear-to-fewer": lambda: on_nodes(G1x1SE3(MIXED, VECTORS), MIXED),
    "linear-no-nodes": lambda: on_nodes(G1x1SE3(MIXED, MIXED), MIXED, nodes=0),
    "joined": joined,
    "norm": lambda: on_nodes(GNormSE3(MIXED), MIXED),
    "norm-network": lambda: on_nodes(GNormSE3(WIDE, nonlin=nn.SiLU, num_layers=2), WIDE),
    "norm-tanh": lambda: on_nodes(GNormSE3(HEADS, nonlin=nn.Tanh), HEADS),
    "norm-high": lambda: on_nodes(GNormSE3(HIGH), HIGH),
    "norm-bias": lambda: on_nodes(GNormBias(MIXED), MIXED),
    "norm-no-nodes": lambda: on_nodes(GNormBias(MIXED), MIXED, nodes=0),
    "attention": lambda: on_edges(HEADS, HEADS, 3, nodes=9, edges=60),
    "attention-few-keys": lambda: on_edges(HEADS, VECTORS, 1, nodes=9, edges=60),
    "attention-wide": lambda: on_edges(Fiber(3, 64), Fiber(2, 32), 32, nodes=5, edges=40),
    "attention-high": lambda: on_edges(HIGH, HIGH, 2, nodes=5, edges=20),
    "attention-envelope": lambda: on_edges(HEADS, HEADS, 3, nodes=9, edges=60, envelope=True),
    "attention-no-edges": lambda: on_edges(HEADS, HEADS, 3, nodes=4, edges=0),
    "attention-no-nodes": lambda: on_edges(HEADS, HEADS, 3, nodes=0, edges=0),
    "attention-one-node": lambda: on_edges(HEADS, HEADS, 3, nodes=1, edges=200),
}
SMALL = ["linear", "joined", "norm", "norm-bias", "norm-tanh", "attention", "attention-envelope"]


def case(name, dtype=torch.float64):
    function, leaves = CASES[name]()
    return function, [v.detach().to(dtype) for v in leaves]


def assert_same_in_both(compute, dtype=torch.float64):
    """In PyTorch and in C++."""
    assert_cpp_gives(compute, compute, dtype)


def assert_cpp_gives(in_pytorch, in_cpp, dtype):
    """What one function gives in PyTorch, another gives in C++."""
    found = []
    for backend, compute in (("frame", in_pytorch), ("cpp", in_cpp)):
        with use_backend(backend):
            found.append(compute())
    assert [v is None for v in found[0]] == [v is None for v in found[1]]
    expected, values = ([v.detach().to(dtype) for v in side if v is not None] for side in found)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    largest = max((float(v.abs().max()) for v in expected if v.numel()), default=0.0)
    for a, b in zip(expected, values, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=tolerance * max(1.0, largest))


def derivatives(function, leaves, by, weights, **options):
    inputs = [v.requires_grad_() if i in by else v for i, v in enumerate(leaves)]
    pairs = [(v, w) for v, w in zip(function(*inputs), weights, strict=True) if v.requires_grad]
    if not pairs:
        return []
    values, by_values = zip(*pairs, strict=True)
    return torch.autograd.grad(values, [inputs[i] for i in by], by_values, allow_unused=True, **options)


@runs
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("threads", [1, 3])
def test_values_and_derivatives(name, threads, dtype):
    """By every tensor alone, and by all; in float32 they are held against those of float64."""
    function, leaves = case(name, dtype)
    before, exact = [v.clone() for v in leaves], [v.double() for v in leaves]
    torch.set_num_threads(threads)
    try:
        assert_cpp_gives(lambda: function(*exact), lambda: function(*leaves), dtype)
        weights = [torch.randn_like(v) for v in function(*leaves)]
        for by in [*([i] for i in range(len(leaves))), range(len(leaves))]:
            assert_cpp_gives(
                lambda by=by: derivatives(function, [v.clone() for v in exact], by, [w.double() for w in weights]),
                lambda by=by: derivatives(function, [v.clone() for v in leaves], by, weights),
                dtype,
            )
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves, strict=True))


@runs
@pytest.mark.parametrize("name", SMALL)
def test_second_derivatives(name):
    function, leaves = case(name)
    weights = [torch.randn_like(v) for v in function(*leaves)]

    def compute():
        first = derivatives(function, leaves, range(len(leaves)), weights, create_graph=True)
        return torch.autograd.grad(sum(v.square().sum() for v in first), leaves, allow_unused=True)

    assert_same_in_both(compute)


@runs
@pytest.mark.parametrize("name", SMALL)
def test_what_no_value_depends_on_has_no_derivative(name):
    """A parameter without one is left alone by an optimiser; one of 0 decays."""
    function, leaves = case(name)

    def compute():
        inputs = [v.clone().requires_grad_() for v in leaves]
        found = []
        for value in function(*inputs):
            first = torch.autograd.grad(value.square().sum(), inputs, create_graph=True, allow_unused=True)
            total = sum(v.square().sum() for v in first if v is not None)
            found += [*first, *torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)]
        return found

    assert_same_in_both(compute)


@runs
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_value_that_is_made_of_nothing_that_has_derivatives(create_graph):
    function, leaves = case("linear")
    output = function(leaves[0], leaves[1].requires_grad_(), *(v.detach() for v in leaves[2:]))[0]
    found = torch.autograd.grad(output.sum(), leaves[1], create_graph=create_graph, allow_unused=True)
    assert found == (None,)


@runs
@takes_forward_derivatives
@pytest.mark.parametrize("name", SMALL)
def test_derivatives_by_many_at_once_and_their_own_forward_derivatives(name):
    function, leaves = case(name)

    def compute():
        inputs = [v.clone().requires_grad_() for v in leaves]
        value = function(*inputs)[0]
        many = torch.linspace(-1, 1, 3 * value.numel(), dtype=value.dtype).view(3, *value.shape)
        found = torch.autograd.grad(value, inputs, many, is_grads_batched=True, retain_graph=True, allow_unused=True)
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(many[0], many[1])
            (by_first,) = torch.autograd.grad(value, inputs[0], dual)
            return [*found, *torch.autograd.forward_ad.unpack_dual(by_first)]

    assert_same_in_both(compute)


@runs
def test_negated_numbers():
    """Of a lazily conjugated tensor, say; with one number it is contiguous."""
    v = {"1": torch._neg_view(torch.ones(1, 1, 3))}
    layer = G1x1SE3(Fiber(structure=[(1, 1)]), Fiber(structure=[(1, 1)]))
    torch.testing.assert_close(layer(v)["1"], -layer({"1": torch.ones(1, 1, 3)})["1"])


@runs
def test_edges_that_are_changed_in_place():
    dst = torch.tensor([0, 1, 1, 2])
    G, layer = Graph(dst, dst, num_nodes=4), GMABSE3(VECTORS, VECTORS, 1)
    v, q = ({"1": random_features(VECTORS, 4, torch.float32)["1"].requires_grad_()} for _ in range(2))
    output = layer(v, k=v, q=q, G=G)["1"].sum()
    G.edges()[1][0] = 3
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()
    for wrong in (4, -1, 10**12):
        G.edges()[1][0] = wrong
        with pytest.raises(IndexError, match="an edge leads to a node that the graph does not have"):
            layer(v, k=v, q=q, G=G)


@runs
def test_inputs_that_are_not_contiguous():
    for name in ("linear", "norm", "attention"):
        function, leaves = case(name)
        leaves = [v.transpose(0, -1).contiguous().transpose(0, -1) for v in leaves]
        assert_same_in_both(lambda f=function, g=leaves: f(*g))
        # The derivative of a sum is a tensor of one number, expanded.
        ones = [torch.ones(()).double().expand_as(v) for v in function(*leaves)]
        assert_same_in_both(lambda f=function, g=leaves, w=ones: derivatives(f, g, range(len(g)), w))


@runs
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e25, 1e-25, 0.0])
@pytest.mark.parametrize("name", ["linear", "norm", "norm-bias", "attention"])
def test_what_is_not_finite_large_or_small(name, value):
    """It is what it is in PyTorch, in the values, and in the derivatives where these are finite."""
    function, leaves = case(name, torch.float32)
    for v in leaves:
        v[0] = value
    assert_same_in_both(lambda: [v.isnan().float() for v in function(*leaves)])
    assert_same_in_both(lambda: [v.isinf() * v.sign() for v in function(*leaves)])
    assert_same_in_both(lambda: [v.nan_to_num(0, 0, 0) for v in function(*leaves)], torch.float32)
    if value < 1:
        weights = [torch.randn_like(v) for v in function(*leaves)]
        assert_same_in_both(lambda: derivatives(function, leaves, range(len(leaves)), weights), torch.float32)


@pytest.fixture
def calls_of(monkeypatch):
    """The names of all functions in C++ that were called."""
    made = []
    for library in LIBRARIES:
        monkeypatch.setattr(
            library, "call", lambda s, name, *rest: made.append(f"{Path(s).stem}.{name}") or calls.call(s, name, *rest)
        )
    return made


@runs
@takes_forward_derivatives
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", ["linear.forward", "linear.gradient"]),
        ("joined", ["linear.forward", "linear.gradient"]),
        ("norm", ["norm.normalised", "norm.normalised_gradient"]),
        ("norm-bias", ["norm.biased", "norm.biased_gradient"]),
        ("norm-network", ["norm.norms", "norm.rescaled", "norm.rescaled_gradient", "norm.norms_gradient"]),
        ("attention", ["attention.forward", "attention.gradient"]),
    ],
)
def test_it_runs_by_default_and_where_it_can(name, expected, calls_of):
    function, leaves = case(name, torch.float32)

    def run(f):
        sum(v.sum() for v in f(*(v.clone().requires_grad_() for v in leaves))).backward()

    run(function)
    assert calls_of == expected
    calls_of.clear()
    for backend in ("frame", "oracle"):
        with use_backend(backend):
            run(function)
    function(*(v.bfloat16() for v in leaves))
    torch.func.vmap(lambda *v: function(*v)[0])(*(v[None] for v in leaves))
    torch.func.grad(lambda v: function(v, *leaves[1:])[0].sum())(leaves[0])
    torch.func.jvp(lambda v: function(v, *leaves[1:])[0], (leaves[0],), (leaves[0],))
    with torch.autograd.forward_ad.dual_level():
        function(torch.autograd.forward_ad.make_dual(leaves[0], leaves[0]), *leaves[1:])
    with FakeTensorMode(allow_non_fake_inputs=True):
        run(function)
    assert calls_of == []
    torch._dynamo.reset()
    for watched in (torch.compile(function, backend="eager", fullgraph=True), function):
        with FlopCounterMode(display=False) if watched is function else nullcontext():
            run(watched)
        assert calls_of == expected
        calls_of.clear()
    recorded = make_fx(lambda *v: function(*v))(*leaves)
    torch.testing.assert_close(recorded(*(v / 2 for v in leaves)), function(*(v / 2 for v in leaves)))


def test_without_a_compiler(calls_of, monkeypatch):
    def fails(source):
        raise compiler.BuildError("there is no C++ compiler")

    monkeypatch.setattr(compiler, "library", fails)
    calls._not_built.cache_clear()
    try:
        function, leaves = case("attention")
        assert function(*leaves)[0].isfinite().all()
        assert calls_of == []
    finally:
        calls._not_built.cache_clear()


@runs
def test_edges_may_be_numbered_in_32_bits():
    v, q = random_features(VECTORS, 6, torch.float32), random_features(VECTORS, 4, torch.float32)
    dst = torch.tensor([0, 2, 2, 1, 0, 2])
    found = [
        GMABSE3(VECTORS, VECTORS, 1)(v, k=v, q=q, G=Graph(ends, ends, num_nodes=4))["1"] for ends in (dst, dst.int())
    ]
    torch.testing.assert_close(*found)


@runs
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of processes with threads, in Python 3.12
def test_in_a_process_that_was_forked_after_its_threads_were_used():
    function, leaves = case("linear")
    torch.set_num_threads(2)
    try:
        function(*leaves)
        child = multiprocessing.get_context("fork").Process(target=function, args=leaves)
        child.start()
        child.join(30)
    finally:
        torch.set_num_threads(1)
    if child.exitcode is None:
        child.kill()
        pytest.fail("it waits forever")
    assert child.exitcode == 0


@runs
def test_linear_maps_of_other_sizes_are_refused():
    """As PyTorch refuses them."""
    layer, features = G1x1SE3(VECTORS, VECTORS), random_features(VECTORS, 3, torch.float32)
    for shape in ((2, 40), (2, 1)):
        layer.transform["1"] = nn.Parameter(torch.randn(shape))
        with pytest.raises(RuntimeError):
            layer(features)


@runs
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("other", [torch.float64, torch.float16, "shorter"])
def test_what_was_kept_must_come_back_as_it_was(name, other):
    """Hooks of saved tensors may compress them, say."""
    function, leaves = case(name, torch.float32)
    inputs = [v.requires_grad_() for v in leaves]

    def unpacked(v):
        return v[:1] if other == "shorter" else v.to(other) if v.is_floating_point() else v

    with torch.autograd.graph.saved_tensors_hooks(lambda v: v, unpacked):
        output = function(*inputs)
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        sum(v.sum() for v in output).backward()


@runs
@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("envelope", [False, True])
def test_gradients_in_float32_where_a_softmax_is_saturated(scale, envelope):
    """There all derivatives by keys and queries are 0, and rounding errors of large products must not be left."""
    nodes, dst = 6, torch.arange(30) % 6
    u = torch.rand(30, 1) if envelope else None
    leaves = [scale * torch.randn(rows, 4, 3) for rows in (30, 30, nodes)]
    weights = torch.randn(nodes, 4, 3)

    def gradients(dtype):
        G = Graph(torch.zeros_like(dst), dst, num_nodes=nodes)
        if envelope:
            G.edata["envelope"] = u.to(dtype)
        v, k, q = (w.to(dtype).requires_grad_() for w in leaves)
        output = GMABSE3(Fiber(structure=[(4, 1)]), Fiber(structure=[(4, 1)]), 2)({"1": v}, {"1": k}, {"1": q}, G=G)
        return torch.autograd.grad((output["1"] * weights.to(dtype)).sum(), [v, k, q])

    for found, exact in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max()) + 1e-30)
