"""``torch.export``: programs for graphs of all sizes, of a model that makes its graph, compute what the model does."""

import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from equivariant_attention.contraction import BACKENDS, use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph, batch
from equivariant_attention.models import TFN, SE3Transformer
from equivariant_attention.modules import GSE3Res, get_basis_and_r
from equivariant_attention.native import attention
from equivariant_attention.native.calls import not_built
from equivariant_attention.native.operators import NAMESPACE
from equivariant_attention.neighbors import knn_graph
from equivariant_attention.plan import Plan
from equivariant_attention.so3 import aligned_coupling
from tests.cases import random_graph

pytestmark = pytest.mark.no_cover  # PyTorch's exporter is Python as well

needs_cpp = pytest.mark.skipif(bool(not_built(attention.SOURCE)), reason=not_built(attention.SOURCE))
MODELS = {
    "SE3Transformer": lambda: SE3Transformer(
        {0: 2}, {0: 2, 1: 2}, {0: 3}, num_layers=1, edge_dim=1, x_ij="cat", pooling="avg", return_type=0
    ),
    "TFN": lambda: TFN({0: 2}, {0: 2, 1: 2}, {0: 3}, num_layers=2, edge_dim=1, pooling="max", return_type=0),
}


class OnEdges(nn.Module):
    """A model as a function of tensors, edges and sizes of graphs among them."""

    def __init__(self, name="SE3Transformer"):
        super().__init__()
        self.model = MODELS[name]()

    def forward(self, x, h, src, dst, w, nodes):
        G = Graph(src, dst, x.shape[0])
        G.set_batch_num_nodes(nodes)
        G.edata["d"], G.edata["w"] = x[dst] - x[src], w
        return self.model(G, {"0": h})


def inputs(*sizes):
    """Of a batch of graphs, one of whose edges is of length zero."""
    G = random_graph(torch.float32, edge_dim=1, sizes=sizes)
    x = G.ndata["x"][:, 0]
    x[0] = x[1]
    return x, torch.randn(len(x), 2, 1), *G.edges(), G.edata["w"], torch.tensor(sizes)


def exported(module, strict, is_dynamic, example=(4, 3, 5, 2)):
    nodes, edges, graphs = (torch.export.Dim(name, min=2) for name in ("nodes", "edges", "graphs"))
    shapes = ({0: nodes}, {0: nodes}, {0: edges}, {0: edges}, {0: edges}, {0: graphs})
    return torch.export.export(module, inputs(*example), dynamic_shapes=shapes if is_dynamic else None, strict=strict)


def assert_same(program, module, *batches):
    for sizes in batches:
        given = inputs(*sizes)
        torch.testing.assert_close(program(*given), module(*given))


def operators(program):
    """All that a program calls, also in its parts."""
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, torch.fx.GraphModule)]
    return {n.target for graph in graphs for n in graph.nodes if isinstance(n.target, torch._ops.OpOverload)}


def own(program):
    """The library's own ones."""
    return {target.name().split("::")[1] for target in operators(program) if target.namespace == NAMESPACE}


@pytest.mark.parametrize("order", [(False, True), (True, False)])
def test_again_and_again_in_one_process(order):
    """What is constant is not taken from another export, of one size or of all, where tensors hold no numbers."""
    aligned_coupling.cache_clear()
    module, given = OnEdges(), inputs(4, 3, 5, 2)
    program = torch.export.export(module, given, strict=order[0]).module()
    torch.testing.assert_close(program(*given), module(*given))
    assert_same(exported(module, order[1], is_dynamic=True).module(), module, (4, 3, 5, 2), (3, 3), (6, 5, 4, 3, 2))


@pytest.mark.parametrize("name", MODELS)
def test_of_one_size(name):
    module = OnEdges(name)
    x, h, src, dst, w, nodes = inputs(4, 3, 5, 2)
    program = torch.export.export(module, (x, h, src, dst, w, nodes)).module()
    turned = torch.roll(src, 1), torch.roll(dst, 1)  # other edges, as many
    for edges in ((src, dst), turned):
        torch.testing.assert_close(program(x, h, *edges, w, nodes), module(x, h, *edges, w, nodes))


@needs_cpp
def test_what_runs_in_cpp_is_in_the_program():
    assert own(exported(OnEdges(), False, True)) == {"plan", "messages", "attention", "linear", "joined", "normalised"}


def test_derivatives_of_a_program():
    module = OnEdges()
    program, (x, *others) = exported(module, False, True).module(), inputs(3, 4, 3)
    found = []
    for function in (module, program):
        parameters, at = [*function.parameters()], x.clone().requires_grad_()
        loss = function(at, *others).square().sum()
        first = torch.autograd.grad(loss, [at, *parameters], create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), parameters, materialize_grads=True)
        found.append([*first, *second])
    torch.testing.assert_close(found[1], found[0])


def test_a_program_looks_at_what_it_is_given():
    x, h, src, dst, w, nodes = inputs(3, 4, 3)
    program = exported(OnEdges(), False, True).module()
    with pytest.raises(ValueError, match=r"edata\['w'\] must be finite and at most 1e\+18"):
        program(x, h, src, dst, w * torch.inf, nodes)
    with pytest.raises(RuntimeError, match="batch_num_nodes must be at least 0 each and add up"):
        program(x, h, src, dst, w, nodes + 1)


@needs_cpp
def test_a_saved_program_runs_in_a_process_that_imports_the_library(tmp_path):
    module, given = OnEdges(), inputs(3, 4, 3)
    torch.export.save(exported(module, False, True), tmp_path / "program.pt2")
    torch.save((given, module(*given)), tmp_path / "both.pt")
    code = """
import sys, torch, equivariant_attention
inputs, expected = torch.load(sys.argv[1] + "/both.pt")
torch.testing.assert_close(torch.export.load(sys.argv[1] + "/program.pt2").module()(*inputs), expected)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


class OnFixedEdges(nn.Module):
    """A layer on a graph whose edges stay as they are."""

    def __init__(self, G):
        super().__init__()
        fiber = Fiber(2, 2)
        self.layer, self.G, self.plan = GSE3Res(fiber, fiber, div=1), G, Plan(G)

    def forward(self, x, h0, h1):
        src, dst = self.G.edges()
        G = self.G.local_var()
        G.edata["d"] = x[dst] - x[src]
        basis, r = get_basis_and_r(G, 1, plan=self.plan)
        return self.layer({"0": h0, "1": h1}, G=G, r=r, basis=basis)["1"]


def fixed():
    x = torch.randn(5, 3)
    return OnFixedEdges(knn_graph(x, 3)), (x, torch.randn(5, 2, 1), torch.randn(5, 2, 3))


@pytest.mark.parametrize("strict", [False, True])
def test_a_plan_made_ahead(strict):
    module, (x, *features) = fixed()
    program = torch.export.export(module, (x, *features), strict=strict).module()
    for positions in (x, x + 0.1 * torch.randn_like(x)):
        torch.testing.assert_close(program(positions, *features), module(positions, *features))


@pytest.mark.parametrize("backend", sorted(BACKENDS.keys() - {"cpp", "cpp-node", "triton"}))
def test_other_backends_are_operators_of_pytorchs_own(backend):
    """With a plan that was made ahead: as ONNX, say, needs them."""
    module, given = fixed()
    with use_backend(backend):
        program = torch.export.export(module, given)
    assert not own(program)
    torch.testing.assert_close(program.module()(*given), module(*given))


class Pooled(OnFixedEdges):
    """What a ready-made model says of a graph."""

    def __init__(self, G):
        super().__init__(G)
        self.layer = SE3Transformer({0: 2, 1: 2}, {0: 2, 1: 2}, {1: 1}, num_layers=1, pooling="avg", return_type=1)

    def forward(self, x, h0, h1):
        src, dst = self.G.edges()
        G = self.G.local_var()
        G.edata["d"] = x[dst] - x[src]
        return self.layer(G, {0: h0, 1: h1}, get_basis_and_r(G, 1, plan=self.plan))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("sizes", "backend"), [((9,), "edge"), ((5, 4), "frame")])
def test_onnx_with_a_plan_made_ahead(sizes, backend, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    G = batch([knn_graph(torch.randn(n, 3), 3) for n in sizes])
    module, given = Pooled(G).requires_grad_(False), (torch.randn(9, 3), torch.randn(9, 2, 1), torch.randn(9, 2, 3))
    with use_backend(backend), torch.no_grad():
        torch.onnx.export(torch.export.export(module, given), dynamo=True, verbose=False).save(tmp_path / "m.onnx")
        expected = module(*given)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (found,) = session.run(None, {i.name: v.numpy() for i, v in zip(session.get_inputs(), given, strict=True)})
    torch.testing.assert_close(torch.from_numpy(found), expected)


def test_a_graph_whose_nodes_are_not_counted_is_refused():
    class Module(nn.Module):
        def forward(self, src, dst):
            return Graph(src, dst).nodes()

    with pytest.raises(ValueError, match="num_nodes must be given in code that PyTorch compiles or exports"):
        torch.export.export(Module(), inputs(3, 4)[2:4], strict=False)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
@needs_cpp
def test_a_package_of_aot_inductor(tmp_path):
    module = OnEdges("TFN").requires_grad_(False)
    with warnings.catch_warnings(action="ignore"):
        path = torch._inductor.aoti_compile_and_package(
            exported(module, False, True), package_path=str(tmp_path / "package.pt2")
        )
        package = torch._inductor.aoti_load_package(path)
    assert_same(package, module, (4, 3, 5, 2), (3, 3), (6, 5, 4, 3, 2))
