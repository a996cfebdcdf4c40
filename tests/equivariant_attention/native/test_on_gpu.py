"""Attention, norms and linear maps in Triton, in its interpreter, give what PyTorch gives."""

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.kernels import launch
from equivariant_attention.modules import GMABSE3, G1x1SE3, GNormBias, GNormSE3
from equivariant_attention.native.operators import OPERATORS
from tests.cases import random_features, random_graph
from tests.equivariant_attention.native.test_operators import Calls, check, names

CPU = torch.device("cpu")
interpreted = pytest.mark.skipif(bool(launch.missing(CPU)), reason="needs Triton's interpreter")
FIBER = Fiber(structure=[(6, 0), (3, 1), (2, 2)])
EVEN = Fiber(structure=[(6, 0), (3, 1), (9, 2)])  # of three heads
LAYERS = {
    "linear": G1x1SE3(FIBER, Fiber(structure=[(3, 0), (20, 2)])),
    "norm": GNormSE3(FIBER),
    "norm of many channels": GNormSE3(Fiber(structure=[(40, 0), (1, 3)])),
    "bias": GNormBias(FIBER),
    "attention": GMABSE3(EVEN, Fiber(structure=[(3, 0), (3, 1)]), n_heads=3),
}


def function_of(layer, G, dtype, envelope):
    """A function of the layer's features, and such features; some of them are zero."""
    nodes, edges = G.num_nodes(), G.num_edges()
    if not isinstance(layer, GMABSE3):
        fiber = getattr(layer, "fiber", None) or layer.f_in
        values = random_features(fiber, nodes, dtype)
        values["0"][1] = 0
        return (lambda *tensors: layer(dict(zip(values, tensors, strict=True)))), list(values.values())
    parts = ((layer.f_value, edges), (layer.f_key, edges), (layer.f_key, nodes))
    given = [random_features(fiber, rows, dtype) for fiber, rows in parts]
    tensors = [v for part in given for v in part.values()]
    if envelope:
        tensors.append(torch.rand(edges, 1, dtype=dtype) * (torch.arange(edges)[:, None] % 3 > 0))

    def attended(*tensors):
        rest = iter(tensors)
        v, k, q = ({degree: next(rest) for degree in part} for part in given)
        if envelope:
            G.edata["envelope"] = next(rest)
        return layer(v, k=k, q=q, G=G)

    return attended, tensors


def values_and_gradients(backend, function, tensors, layer):
    leaves = [*(v.clone().requires_grad_() for v in tensors), *layer.parameters()]
    with use_backend(backend):
        output = list(function(*leaves[: len(tensors)]).values())
        loss = sum((i + 1) * v.square().sum() for i, v in enumerate(output[:-1]))  # the last is not used
        return [*output, *torch.autograd.grad(loss, leaves, allow_unused=True)]


@interpreted
@pytest.mark.parametrize(("name", "envelope"), [*((name, False) for name in LAYERS), ("attention", True)])
def test_values_and_gradients_are_those_in_pytorch(name, envelope, dtype):
    layer, G = LAYERS[name].to(dtype), random_graph(dtype, sizes=(4, 3))
    given = (*function_of(layer, G, dtype, envelope), layer)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for found, expected in zip(*(values_and_gradients(b, *given) for b in ("triton", "frame")), strict=True):
        expected = torch.zeros_like(found) if expected is None and found is not None else expected
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(
                found, expected, rtol=0, atol=tolerance * (1 + float(expected.detach().abs().max()))
            )


@pytest.mark.parametrize("name", LAYERS)
def test_one_launch_for_all_degrees(name):
    pytest.importorskip("triton")
    layer, G = LAYERS[name].to(torch.float32), random_graph(torch.float32)
    function, tensors = function_of(layer, G, torch.float32, envelope=False)
    with launch.recorded() as record, use_backend("triton"):
        output = function(*(v.requires_grad_() for v in tensors))
        assert len(record) == 1
        record.clear()
        sum(v.sum() for v in output.values()).backward()
    assert len(record) == (2 if name == "linear" else 1)


OPERATORS_OF = {"norm": "normalised", "bias": "biased"}  # by the name of the layer, where it is another


@interpreted
@pytest.mark.no_cover
@pytest.mark.parametrize("name", ["linear", "norm", "bias", "attention"])
def test_operators_are_as_pytorch_wants_them(name):
    layer, G = LAYERS[name].double(), random_graph(torch.float64, sizes=(3,))
    function, tensors = function_of(layer, G, torch.float64, envelope=True)
    with Calls() as calls, use_backend("triton"):
        output = function(*(v.requires_grad_() for v in tensors))
        sum(v.square().sum() for v in output.values()).backward()
    operator = f"{OPERATORS_OF.get(name, name)}_on_gpu"
    assert names(calls.arguments) == {operator, f"{operator}_gradient"}
    check(calls.arguments)


def test_every_operator_is_registered():
    assert all(
        hasattr(OPERATORS, f"{name}_on_gpu_gradient") for name in ("attention", "linear", "normalised", "biased")
    )
