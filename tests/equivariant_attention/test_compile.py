"""``torch.compile``: every layer and model is one graph, for graphs of all sizes, and computes the same."""

import shutil
from functools import partial

import pytest
import torch
import torch._dynamo
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters
from torch._functorch.aot_autograd import make_boxed_func

import experiments.nbody.models as nbody
import experiments.qm9.models as qm9
import experiments.toy_optimisation.models as toy
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.models import SE3Transformer
from equivariant_attention.modules import GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.native import attention
from equivariant_attention.native.calls import not_built
from equivariant_attention.plan import Plan
from tests.cases import awkward_graph, random_features, random_graph
from tests.equivariant_attention.modules.test_every_layer import EDGE_DIM, LAYERS, build, run, tensors
from tests.experiments.models import in_dtype
from tests.experiments.nbody.test_models import bodies
from tests.experiments.toy_optimisation.test_models import points

# PyTorch says this of every input that is not a leaf; only where warnings are errors is it heard.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.no_cover,  # PyTorch's compiler is Python as well
]

MODELS = {
    "nbody SE3Transformer": (nbody, lambda: nbody.SE3Transformer(1, 4, num_degrees=2, div=2), bodies),
    "nbody TFN": (nbody, lambda: nbody.TFN(2, 4, num_degrees=2), bodies),
    "qm9 SE3Transformer": (qm9, lambda: qm9.SE3Transformer(1, 6, 4, num_degrees=2, edge_dim=1, div=2), lambda: atoms()),
    "qm9 TFN": (qm9, lambda: qm9.TFN(2, 6, 4, num_degrees=2, edge_dim=1), lambda: atoms()),
    "iterative": (toy, lambda: toy.SE3TransformerIterative(1, num_degrees=2, num_iter=1, div=2), points),
}
# Tracing takes seconds: these differ from others in little.
LIKE_OTHERS = {
    "GConvSE3", "GConvSE3-TFN", "GConvSE3Partial", "GConvSE3Partial-cat", "GConvSE3Partial-add",
    "GSE3Res", "GSE3Res-sum", "GSE3Res-none",
    "nbody TFN", "qm9 SE3Transformer", "qm9 TFN",
}  # fmt: skip


def fast_and_slow(names):
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow) if name in LIKE_OTHERS else name for name in names]
    )


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def atoms():
    G = random_graph(edge_dim=1)
    G.ndata["f"] = torch.randn(G.num_nodes(), 6, 1, dtype=torch.float64)
    return G


def outputs(model, G):
    found = model(G.local_var())
    return [found] if torch.is_tensor(found) else found[1]


def assert_same(make_outputs, compiled, module, leaves, tolerance=1e-10):
    """Values, and gradients by the leaves and all parameters."""
    leaves = [*leaves, *(p for p in module.parameters() if p.requires_grad)]
    results = []
    for function in (module, compiled):
        values = make_outputs(function)
        gradients = torch.autograd.grad(sum(v.square().sum() for v in values), leaves, allow_unused=True)
        results.append([*values, *gradients])
    torch.testing.assert_close(results[1], results[0], rtol=tolerance, atol=tolerance)


def assert_layer_compiles(name, G, backend):
    layer, fiber, _ = build(name)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    leaves = [v.requires_grad_() for v in (*features.values(), G.edata["d"], G.edata["w"])]
    G.ndata.pop("x")  # so that derivatives flow to d
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    assert_same(lambda f: tensors(run(f, G, features)), compiled, layer, leaves)


@fast_and_slow(LAYERS)
def test_every_layer_is_one_graph(name):
    """With the compiler's own derivatives as well, which are made of this graph."""
    assert_layer_compiles(name, random_graph(edge_dim=EDGE_DIM), "eager" if name in LIKE_OTHERS else "aot_eager")


def test_edges_of_length_zero():
    """Whose derivatives PyTorch makes within an operator."""
    assert_layer_compiles("GConvSE3", awkward_graph(edge_dim=EDGE_DIM), "aot_eager")


@pytest.mark.slow
def test_an_envelope():
    G = random_graph(edge_dim=EDGE_DIM)
    G.edata["envelope"] = torch.rand(G.num_edges(), 1, dtype=torch.float64)
    assert_layer_compiles("GSE3Res", G, "eager")


@fast_and_slow(MODELS)
def test_every_model_is_one_graph(name):
    _, make, graph = MODELS[name]
    model, G = make().double(), graph()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(lambda f: outputs(f, G), compiled, model, [])


def test_a_model_with_its_plan_given_is_one_graph(monkeypatch):
    where, make, graph = MODELS["nbody SE3Transformer"]
    model, G = make().double(), graph()
    monkeypatch.setattr(where, "get_basis_and_r", partial(get_basis_and_r, plan=Plan(G)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(lambda f: outputs(f, G), compiled, model, [])


def batch_of(sizes, edge_dim=1):
    """A batch of random graphs with features of all models, as floats."""
    G = random_graph(torch.float32, edge_dim, sizes=sizes)
    for name, *shape in (("f", 6, 1), ("v", 1, 3), ("c", 1, 1)):
        G.ndata[name] = torch.randn(G.num_nodes(), *shape)
    return G


@pytest.mark.parametrize(
    ("name", "dynamic", "expected"),
    [
        ("nbody SE3Transformer", True, 1),
        ("nbody SE3Transformer", None, 2),
        *(
            pytest.param(name, True, 1, marks=pytest.mark.slow)
            for name in ("nbody TFN", "qm9 SE3Transformer", "qm9 TFN")
        ),
    ],
)
def test_one_compilation_for_batches_of_all_sizes(name, dynamic, expected):
    """With ``dynamic=True``, or from the second size on; a model that moves points writes to its graph."""
    model, counter = MODELS[name][1](), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=dynamic)
    for sizes in ((4, 3), (5, 4, 6), (3, 3, 4, 7), (9, 4)):
        G = batch_of(sizes)
        torch.testing.assert_close(compiled(G), model(G))
    assert counter.frame_count == expected


def test_one_compilation_of_the_backward_pass_for_batches_of_all_sizes():
    """As backend 'aot_eager', with a look at both graphs: they hold the operators in C++."""
    graphs = {"forward": [], "backward": []}

    def keep(name):
        def compiler(graph_module, inputs):
            targets = (str(node.target) for node in graph_module.graph.nodes)
            graphs[name].append({t.split(".")[1] for t in targets if t.startswith("equivariant_attention.")})
            return make_boxed_func(graph_module.forward)

        return compiler

    counters.clear()
    model = MODELS["nbody SE3Transformer"][1]().double()
    backend = aot_autograd(fw_compiler=keep("forward"), bw_compiler=keep("backward"))
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for sizes in ((4, 3), (5, 4, 6), (9,)):
        G = in_dtype(batch_of(sizes), torch.float64)  # in float32, some processors round by more than 1e-5
        assert_same(lambda f, G=G: outputs(f, G), compiled, model, [])
    assert counters["stats"]["unique_graphs"] == 1
    if not not_built(attention.SOURCE):
        operators = {"messages", "attention", "linear", "joined", "biased"}
        assert graphs == {"forward": [{"plan", *operators}], "backward": [{f"{name}_gradient" for name in operators}]}


def test_one_compilation_where_the_graph_is_made_within():
    model, counter = (
        SE3Transformer({0: 2}, {0: 2, 1: 2}, {0: 1}, num_layers=1, pooling="avg", return_type=0),
        CompileCounter(),
    )

    def function(d, h, src, dst, sizes):
        G = Graph(src, dst, h.shape[0])
        G.set_batch_num_nodes(sizes)
        G.edata["d"] = d
        return model(G, {"0": h})

    compiled = torch.compile(function, backend=counter, fullgraph=True, dynamic=True)
    for sizes in ((4, 3, 4, 4), (5, 4, 6)):
        G, h = random_graph(torch.float32, sizes=sizes), torch.randn(sum(sizes), 2, 1)
        args = G.edata["d"], h, *G.edges(), torch.tensor(sizes)
        torch.testing.assert_close(compiled(*args), function(*args))
    assert counter.frame_count == 1
    with pytest.raises(ValueError, match=r"dst must hold nodes in \[0, 15\)"):
        compiled(*args[:3], args[3] + 20, args[4])
    with pytest.raises(RuntimeError, match="batch_num_nodes must be at least 0 each and add up"):
        compiled(*args[:4], args[4] + 1)


def test_a_basis_made_in_compiled_code_serves_outside():
    layer, fiber, _ = build("GConvSE3")
    G = random_graph(edge_dim=EDGE_DIM)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    basis, r = torch.compile(get_basis_and_r, backend="eager", fullgraph=True)(G, 3)
    torch.testing.assert_close(layer(features, G=G, r=r, basis=basis), run(layer, G, features))


def test_a_named_backend_and_a_plain_dict_compile():
    G = random_graph(edge_dim=EDGE_DIM)
    layer, fiber, _ = build("GConvSE3")
    features = random_features(fiber, G.num_nodes(), torch.float64)
    basis, r = get_basis_and_r(G, 3)
    expected = layer(features, G=G, r=r, basis=basis)
    with use_backend("edge"):
        found = torch.compile(layer, backend="eager", fullgraph=True)(features, G=G, r=r, basis=dict(basis))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("is_skipped", [True, False])
def test_hooks_are_looked_for_when_pytorch_looks_for_them(is_skipped):
    G = random_graph()
    layer = GConvSE3Partial(Fiber(1, 2), Fiber(1, 2)).double()
    h, (basis, r) = random_features(Fiber(1, 2), G.num_nodes(), torch.float64), get_basis_and_r(G, 0)
    assert basis.frames  # made now: that they are there would compile anew
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    last = layer.kernel_unary["(0,0)"].rp.net[6]
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=is_skipped):
        before = compiled(h, G=G, r=r, basis=basis)["0"]
        last.register_forward_hook(lambda module, args, output: 2 * output)
        after = compiled(h, G=G, r=r, basis=basis)["0"]
    torch.testing.assert_close(after, before if is_skipped else 2 * before)
    torch._dynamo.reset()
    again = torch.compile(layer, backend="eager", fullgraph=True)(h, G=G, r=r, basis=basis)["0"]
    torch.testing.assert_close(again, 2 * before)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="on a CPU, PyTorch's default compiler needs a C++ compiler")
@pytest.mark.filterwarnings("default")
def test_default_compiler():
    fiber, G = Fiber(2, 2), random_graph()
    layer, features = GSE3Res(fiber, fiber, div=1).double(), random_features(fiber, G.num_nodes(), torch.float64)
    assert_same(lambda f: tensors(run(f, G, features)), torch.compile(layer), layer, [])
