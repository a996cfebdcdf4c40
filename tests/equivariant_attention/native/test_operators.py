"""Operators in C++, and that of plans, as PyTorch wants them: schemas, shapes without values, derivatives."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial
from equivariant_attention.native import attention
from equivariant_attention.native.calls import not_built
from equivariant_attention.native.operators import NAMESPACE, OPERATORS
from tests.cases import VECTORS, awkward_graph, random_features, random_graph
from tests.equivariant_attention.modules.test_every_layer import EDGE_DIM, build, run, tensors

pytestmark = [
    pytest.mark.skipif(bool(not_built(attention.SOURCE)), reason=not_built(attention.SOURCE)),
    pytest.mark.no_cover,  # what checks operators is Python as well
]
WITH_SECOND = {"messages", "attention", "linear", "joined", "normalised"}
WITH_GRADIENT = {*WITH_SECOND, "norms", "rescaled", "biased"}
ALL_CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


class Calls(TorchDispatchMode):
    """Which of the library's operators are called, and with what, the last time each."""

    def __init__(self):
        super().__init__()
        self.arguments = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == NAMESPACE:
            self.arguments[function] = args
        return function(*args, **(kwargs or {}))


def calls_of(layer, fiber, G, dtype=torch.float64, second=True):
    """The calls of a layer's values and first derivatives, and of second derivatives where these are asked for."""
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    with Calls() as calls:
        loss = sum(v.square().sum() for v in tensors(run(layer, G, features)))
        found = torch.autograd.grad(loss, [*features.values()], create_graph=second)
        if second:
            sum(v.square().sum() for v in found).backward()
    return calls.arguments


def without_edges(dtype=torch.float64, edge_dim=0):
    G = Graph([], [], num_nodes=3)
    G.edata["d"], G.edata["w"] = torch.zeros(0, 3, dtype=dtype), torch.zeros(0, edge_dim, dtype=dtype)
    return G


def with_envelope(dtype=torch.float64, edge_dim=0):
    G = random_graph(dtype, edge_dim, sizes=(4,))
    G.edata["envelope"] = torch.rand(G.num_edges(), 1, dtype=dtype)
    return G


def copied(value, by_value):
    """Arguments that derivatives are taken by, where ``by_value`` says so of a tensor."""
    if isinstance(value, list | tuple):
        return [copied(v, by_value) for v in value]
    return value.detach().requires_grad_(by_value(value)) if isinstance(value, torch.Tensor) else value


def check(calls, by_value=torch.is_floating_point):
    """What has no further derivatives refuses them, which opcheck would run into."""
    for function, arguments in calls.items():
        name = function.name().split("::")[1]
        has_second = f"{name.removesuffix('_gradient')}_second" in names(calls)
        is_last = name.endswith("_second") or (name.endswith("_gradient") and not has_second)
        checks = [c for c in ALL_CHECKS if not (is_last and c == "test_autograd_registration")]
        own = tuple(copied(value, (lambda v: False) if is_last else by_value) for value in arguments)
        torch.library.opcheck(function, own, test_utils=checks)


def names(calls):
    return {function.name().split("::")[1] for function in calls}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GSE3Res-att-add", {"plan", "messages", "attention", "linear"}),
        ("GSE3Res", {"plan", "messages", "attention", "linear", "joined"}),
        ("GNormSE3-0", {"plan", "normalised"}),
        ("GNormSE3-2", {"plan", "norms", "rescaled"}),
        ("GNormBias", {"plan", "biased"}),
    ],
)
def test_the_operators_of_a_layer(name, expected):
    layer, fiber, _ = build(name)
    all_have = expected & WITH_GRADIENT <= WITH_SECOND
    calls = calls_of(layer, fiber, random_graph(edge_dim=EDGE_DIM, sizes=(4,)), second=all_have)
    assert names(calls) == {
        *expected,
        *(f"{n}_gradient" for n in expected & WITH_GRADIENT),
        *(f"{n}_second" for n in expected & WITH_SECOND if all_have),
    }
    check(calls)


def derivatives(name, number, context):
    """First, second, ... derivatives of a layer by its features and parameters."""
    torch.manual_seed(0)
    layer, fiber, _ = build(name)
    G = awkward_graph(edge_dim=EDGE_DIM)
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float64).items()}
    leaves = [*features.values(), *layer.parameters()]
    with context:
        found = tensors(run(layer, G, features))
        for _ in range(number):
            loss = sum(v.square().sum() for v in found)
            found = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
    return found


@pytest.mark.parametrize(
    ("name", "backend"), [("GSE3Res", None), ("GConvSE3Partial", None), ("GNormSE3-0", None), ("GNormBias", "frame")]
)
def test_second_derivatives_where_pytorch_records(name, backend):
    """Inside of a dispatch mode the registered operators are called."""
    with use_backend(backend):
        recorded = derivatives(name, 2, Calls())
    torch.testing.assert_close(recorded, derivatives(name, 2, nullcontext()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "number"), [("GNormBias", 2), ("GNormSE3-2", 2), ("GSE3Res", 3)])
def test_derivatives_that_are_missing_are_refused(name, number):
    """PyTorch would take them for zero."""
    derivatives(name, number - 1, Calls())
    with pytest.raises(NotImplementedError, match=r"have no (second|third) derivatives"):
        derivatives(name, number, Calls())


@pytest.mark.parametrize("make", [awkward_graph, without_edges, with_envelope])
def test_odd_graphs(make):
    layer, fiber, _ = build("GSE3Res")
    second = make is not with_envelope  # of which there are none where PyTorch records
    calls = calls_of(layer, fiber, make(edge_dim=EDGE_DIM), second=second)
    assert names(calls) >= {"plan", "messages", "messages_gradient", "attention_gradient"}
    assert ("attention_second" in names(calls)) is second
    of_edges = "::plan", "::messages", "::attention"
    check({function: args for function, args in calls.items() if any(name in function.name() for name in of_edges)})


def test_a_batch_of_calls():
    """What a user maps over, as layers are computed in PyTorch there."""
    W, values = torch.randn(3, 2), torch.randn(4, 5, 2, 3)
    (mapped,) = torch.vmap(lambda v: OPERATORS.linear([W, v], [True, True]))(values)
    torch.testing.assert_close(mapped, W @ values)


def test_absent_tensors():
    """Vectors of edges alone: of degree 1 nodes have none."""
    scalars = Fiber(structure=[(2, 0)])
    layer = GConvSE3Partial(scalars, VECTORS, edge_dim=EDGE_DIM, x_ij="cat").double()
    check(calls_of(layer, scalars, random_graph(edge_dim=EDGE_DIM, sizes=(4,))))
