"""The layers in C++ against the same in PyTorch."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GMABSE3, G1x1SE3, GNormBias, GNormSE3
from equivariant_attention.native import attention, calls, compiler, linear, norm
from tests.cases import MIXED, VECTORS, random_features

LIBRARIES = (attention, linear, norm)
reason = "; ".join(filter(None, (calls.not_built(library.SOURCE) for library in LIBRARIES)))
runs = pytest.mark.skipif(bool(reason), reason=reason)
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
    rows = ((f_value, edges), (f_key, edges), (f_key, nodes))
    leaves = [v for fiber, count in rows for v in random_features(fiber, count, torch.float64).values()]
    if envelope:
        u = torch.rand(edges, 1, dtype=torch.float64)
        u[::3] = u[dst == 0] = 0
        leaves.append(u)

    def function(*tensors):
        G, rest = Graph(torch.zeros_like(dst), dst, num_nodes=nodes), iter(tensors)
        v, k, q = ({str(d): next(rest) for d in fiber.degrees} for fiber, _ in rows)
        if envelope:
            G.edata["envelope"] = next(rest)
        output, weights = layer(v, k=k, q=q, G=G, return_attention=True)
        return [*output.values(), weights]

    return function, leaves


CASES = {
    "linear": lambda: on_nodes(G1x1SE3(MIXED, MIXED), MIXED),
    "linear-wide": lambda: on_nodes(G1x1SE3(WIDE, WIDE), WIDE, nodes=600),
    "linear-high": lambda: on_nodes(G1x1SE3(HIGH, HIGH), HIGH),
    "linear-to-fewer": lambda: on_nodes(G1x1SE3(MIXED, VECTORS), MIXED),
    "linear-no-nodes": lambda: on_nodes(G1x1SE3(MIXED, MIXED), MIXED, nodes=0),
    "norm": lambda: on_nodes(GNormSE3(MIXED), MIXED),
    "norm-network": lambda: on_nodes(GNormSE3(WIDE, nonlin=nn.SiLU, num_layers=2), WIDE),
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


def case(name, dtype=torch.float64):
    function, leaves = CASES[name]()
    return function, [v.detach().to(dtype) for v in leaves]


def assert_same_in_both(compute, dtype=torch.float64):
    """In PyTorch and in C++."""
    found = []
    for backend in ("frame", "compiled"):
        with use_backend(backend):
            found.append(compute())
    assert [v is None for v in found[0]] == [v is None for v in found[1]]
    expected, values = ([v.detach() for v in side if v is not None] for side in found)
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
    """By every tensor alone, and by all."""
    function, leaves = case(name, dtype)
    before = [v.clone() for v in leaves]
    torch.set_num_threads(threads)
    try:
        assert_same_in_both(lambda: function(*leaves), dtype)
        weights = [torch.randn_like(v) for v in function(*leaves)]
        for by in [*([i] for i in range(len(leaves))), range(len(leaves))]:
            given = [v.clone() for v in leaves]
            assert_same_in_both(lambda g=given, by=by: derivatives(function, g, by, weights), dtype)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves, strict=True))


@runs
@pytest.mark.parametrize("name", ["linear", "norm", "norm-bias", "attention", "attention-envelope"])
def test_second_derivatives(name):
    function, leaves = case(name)
    weights = [torch.randn_like(v) for v in function(*leaves)]

    def compute():
        first = derivatives(function, leaves, range(len(leaves)), weights, create_graph=True)
        return torch.autograd.grad(sum(v.square().sum() for v in first), leaves, allow_unused=True)

    assert_same_in_both(compute)


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
            library, "call", lambda s, name, *rest: made.append(f"{s.stem}.{name}") or calls.call(s, name, *rest)
        )
    return made


@runs
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own forward derivatives use it
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", ["linear.forward", "linear.gradient"]),
        ("norm", ["norm.norms", "norm.rescaled", "norm.rescaled_gradient", "norm.norms_gradient"]),
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
    run(torch.compile(function, backend="eager"))
    function(*(v.bfloat16() for v in leaves))
    torch.func.vmap(lambda *v: function(*v)[0])(*(v[None] for v in leaves))
    torch.func.grad(lambda v: function(v, *leaves[1:])[0].sum())(leaves[0])
    torch.func.jvp(lambda v: function(v, *leaves[1:])[0], (leaves[0],), (leaves[0],))
    with torch.autograd.forward_ad.dual_level():
        function(torch.autograd.forward_ad.make_dual(leaves[0], leaves[0]), *leaves[1:])
    assert calls_of == []


def test_without_a_compiler(calls_of, monkeypatch):
    def fails(source):
        raise compiler.BuildError("there is no C++ compiler")

    monkeypatch.setattr(compiler, "library", fails)
    calls.not_built.cache_clear()
    try:
        function, leaves = case("attention")
        assert function(*leaves)[0].isfinite().all()
        assert calls_of == []
    finally:
        calls.not_built.cache_clear()


@runs
def test_edges_may_be_numbered_in_32_bits():
    v, q = random_features(VECTORS, 6, torch.float32), random_features(VECTORS, 4, torch.float32)
    dst = torch.tensor([0, 2, 2, 1, 0, 2])
    found = [
        GMABSE3(VECTORS, VECTORS, 1)(v, k=v, q=q, G=Graph(ends, ends, num_nodes=4))["1"] for ends in (dst, dst.int())
    ]
    torch.testing.assert_close(*found)
