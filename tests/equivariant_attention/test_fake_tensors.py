"""FakeTensorMode: every layer and model has the shapes that it has with numbers, forward and backward."""

import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from equivariant_attention.contraction import use_backend
from tests.cases import BACKENDS_HERE, random_features, random_graph
from tests.equivariant_attention.modules.test_every_layer import EDGE_DIM, LAYERS, build, run, tensors
from tests.equivariant_attention.test_compile import MODELS, outputs

# PyTorch says this of every input that is not a leaf; only where warnings are errors is it heard.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
with_or_without_symbols = pytest.mark.parametrize("symbols", [None, ShapeEnv])


def shapes(values):
    return [None if v is None else (v.shape, v.dtype) for v in values]


def values_and_gradients(evaluate, module, *given):
    """The values, and derivatives by the parameters."""
    values = evaluate(module, *given)
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        return values
    loss = sum(v.square().sum() for v in values)
    return [*values, *torch.autograd.grad(loss, parameters, allow_unused=True)]


def assert_same_shapes(symbols, *function_and_inputs):
    expected, mode = values_and_gradients(*function_and_inputs), FakeTensorMode(shape_env=symbols and symbols())
    with FakeCopyMode(mode):
        evaluate, *given = copy.deepcopy(function_and_inputs)
    with mode:
        found = values_and_gradients(evaluate, *given)
    assert shapes(found) == shapes(expected)
    assert all(isinstance(v, FakeTensor) for v in found if v is not None)


def layer_and_inputs(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM)
    return (
        (lambda layer, *given: tensors(run(layer, *given))),
        layer,
        G,
        random_features(fiber, G.num_nodes(), torch.float64),
    )


@with_or_without_symbols
@pytest.mark.parametrize("name", LAYERS)
def test_every_layer(name, symbols):
    assert_same_shapes(symbols, *layer_and_inputs(name))


@pytest.mark.parametrize("backend", [b for b in BACKENDS_HERE if b != "triton"])
def test_every_backend(backend):
    with use_backend(backend):
        assert_same_shapes(None, *layer_and_inputs("GSE3Res"))


@with_or_without_symbols
@pytest.mark.parametrize("name", MODELS)
def test_every_model(name, symbols):
    _, make, graph = MODELS[name]
    assert_same_shapes(symbols, outputs, make().double(), graph())
