"""What functions of the library say to wrong input that no other test gives them; odd input has a defined result."""

import math
import re

import pytest
import torch
from torch import nn

from equivariant_attention import graphs
from equivariant_attention.envelope import polynomial_envelope
from equivariant_attention.fibers import Fiber, fiber2head, fiber2tensor, get_fiber_dict, get_fiber_tensor
from equivariant_attention.graphs import Graph, as_graph, graph_of_node
from equivariant_attention.modules import GConvSE3, GSE3Res, get_basis, get_basis_and_r, get_r
from equivariant_attention.neighbors import fully_connected_graph, knn_graph, radius_graph
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from equivariant_attention.testing import assert_equivariant, equivariance_error
from tests.cases import MIXED, random_features, random_graph

NAN = float("nan")
A, B = Fiber(dictionary={0: 2, 1: 3}), Fiber(dictionary={1: 5})
OF_A = {"0": torch.zeros(4, 2, 1), "1": torch.zeros(4, 3, 3)}


def small(**edata):
    """Two nodes, an edge each way."""
    G = Graph([0, 1], [1, 0])
    G.edata["d"] = torch.tensor([[0.0, 0, 1], [0, 0, -1]])
    G.edata.update(edata)
    return G


def cached(G, keys):
    return BasisCache(1, 2**20).get_basis_and_r(G, keys)


def lengths(G):
    return G.edata["d"].norm(dim=-1, keepdim=True)


# call: (what is called, error, part of its message)
WRONG = {
    "Fiber: degrees": (lambda: Fiber(2.5, 4), TypeError, "num_degrees must be a whole number, got 2.5"),
    "Fiber: no degrees": (lambda: Fiber(0, 4), ValueError, "at least one degree"),
    "Fiber: channels": (
        lambda: Fiber(2, 1.5), TypeError, "the multiplicity of degree 0 must be a whole number, got 1.5",
    ),
    "Fiber: negative": (lambda: Fiber(2, -1), ValueError, "got multiplicity -1 for degree 0"),
    "Fiber: strings": (lambda: Fiber(dictionary={"0": 4}), TypeError, "a degree must be a whole number, got '0'"),
    "Fiber: list": (
        lambda: Fiber(dictionary=[(4, 0)]), TypeError, "dictionary must be {degree: multiplicity}, got [(4",
    ),
    "Fiber: no pairs": (
        lambda: Fiber(structure=[4, 4]), TypeError, "structure must be [(multiplicity, degree), ...], got",
    ),
    "Fiber: no list": (lambda: Fiber(structure=4), TypeError, "structure must be [(multiplicity, degree), ...], got 4"),
    "combine": (lambda: Fiber.combine(A, {0: 1}), TypeError, "f2 must be a Fiber, got dict"),
    "combine_max": (lambda: Fiber.combine_max([(1, 0)], A), TypeError, "f1 must be a Fiber, got list"),
    "combine_selectively": (lambda: Fiber.combine_selectively(A, None), TypeError, "f2 must be a Fiber, got NoneType"),
    "combine_fibers": (
        lambda: Fiber.combine_fibers(OF_A, A, OF_A, B), ValueError, "val2 must have the degrees ['1'] of Fiber",
    ),
    "get_fiber_dict: no tensor": (lambda: get_fiber_dict([1.0], A), TypeError, "F must be a tensor, got list"),
    "get_fiber_dict: no dimension": (lambda: get_fiber_dict(torch.tensor(1.0), A), ValueError, "last dimension 11"),
    "get_fiber_dict: fiber": (
        lambda: get_fiber_dict(torch.zeros(11), 11), TypeError, "struct must be a Fiber, got int",
    ),
    "get_fiber_dict: mask": (
        lambda: get_fiber_dict(torch.zeros(11), A, {0}), TypeError, "mask must be a Fiber, got set",
    ),
    "get_fiber_dict: none kept": (
        lambda: get_fiber_dict(torch.zeros(11), A, Fiber(dictionary={2: 1})), ValueError, "mask must have a degree of",
    ),
    "get_fiber_tensor: degree": (lambda: get_fiber_tensor(OF_A, B), ValueError, "F must have the degrees ['1'] of"),
    "get_fiber_tensor: no dict": (
        lambda: get_fiber_tensor([OF_A], A), TypeError, "F must be a dict of tensors keyed by",
    ),
    "get_fiber_tensor: value": (
        lambda: get_fiber_tensor({**OF_A, "1": [0]}, A), TypeError, "F['1'] must be a tensor, got list",
    ),
    "fiber2tensor": (lambda: fiber2tensor({"0": OF_A["0"]}, A), ValueError, "F must have the degrees ['0', '1'] of"),
    "fiber2head: channels": (
        lambda: fiber2head({"1": OF_A["1"]}, 1, B), ValueError, "F['1'] must have shape [..., 5, 3], got [4, 3, 3]",
    ),
    "fiber2head: heads": (lambda: fiber2head(OF_A, 1.5, A), TypeError, "n_heads must be a whole number, got 1.5"),
    "Graph: None": (lambda: Graph(None, [0]), ValueError, "src must be a tensor or a sequence of integers, got None"),
    "Graph: ragged": (
        lambda: Graph([0], [[1], 2]), ValueError, "dst must be a tensor or a sequence of integers, got [[1]",
    ),
    "Graph.to": (lambda: small().to("nowhere"), RuntimeError, "nowhere"),
    "batch": (
        lambda: graphs.batch(small()), TypeError, "graphs must be a sequence of graphs, got equivariant_attention",
    ),
    "batch: None": (lambda: graphs.batch([small(), None]), TypeError, "G must be a homogeneous dgl.DGLGraph"),
    "unbatch": (lambda: graphs.unbatch([small()]), TypeError, "G must be a homogeneous dgl.DGLGraph"),
    "graph_of_node": (lambda: graph_of_node(None), TypeError, "got NoneType"),
    "fully_connected_graph: float16": (
        lambda: fully_connected_graph(torch.zeros(2, 3).half()), ValueError,
        "x must be a float32 or float64 tensor [nodes, 3], got torch.float16 [2, 3]",
    ),
    "fully_connected_graph: scalar": (lambda: fully_connected_graph(torch.tensor(1.0)), ValueError, "torch.float32 []"),
    "knn_graph: too far": (
        lambda: knn_graph(torch.full((2, 3), 1e200, dtype=torch.float64), 1),
        ValueError, "x must be finite and at most 5e+17, got",
    ),
    "knn_graph: k": (lambda: knn_graph(torch.zeros(2, 3), "1"), ValueError, "k must be a whole number of at least 1"),
    "radius_graph: None": (lambda: radius_graph(torch.zeros(2, 3), None), ValueError, "radius must be larger than 0"),
    "radius_graph: text": (lambda: radius_graph(torch.zeros(2, 3), "1"), ValueError, "radius must be larger than 0"),
    "radius_graph: batch": (
        lambda: radius_graph(torch.zeros(2, 3), 1, torch.zeros(2)), ValueError, "batch must be an int tensor [2]",
    ),
    "polynomial_envelope: r": (lambda: polynomial_envelope(1.0, 2.0), TypeError, "r must be a floating-point tensor"),
    "polynomial_envelope: whole": (
        lambda: polynomial_envelope(torch.ones(2, dtype=torch.int64), 2.0), TypeError,
        "r must be a floating-point tensor",
    ),
    "polynomial_envelope: cutoff": (
        lambda: polynomial_envelope(torch.ones(2), None), ValueError, "cutoff must be larger than 0, got None",
    ),
    "Plan: relative positions": (
        lambda: Plan(torch.zeros(2, 3)), TypeError, "got torch.Tensor: give the graph itself, and relative positions",
    ),
    "Plan: nothing": (lambda: Plan(None), TypeError, "G must be a homogeneous dgl.DGLGraph"),
    "Plan: no d": (lambda: Plan(Graph([0], [1])), KeyError, "relative positions x_dst - x_src"),
    "Plan: nan": (
        lambda: Plan(small(d=torch.tensor([[0, 0, 1], [0, NAN, 0]]))), ValueError,
        "edata['d'] must be finite and at most 1e+18, got [0.0, nan, 0.0] on edge 1",
    ),
    "Plan: w of nan": (
        lambda: Plan(small(w=torch.tensor([[1, 2], [3, NAN]]))), ValueError,
        "edata['w'] must be finite and at most 1e+18, got [3.0, nan] on edge 1",
    ),
    "Plan: w of one dimension": (
        lambda: Plan(small(w=torch.zeros(2))), ValueError,
        "edata['w'] must have shape [2, edge_dim] or [2, edge_dim, 1], got [2]",
    ),
    "Plan: w of complex numbers": (
        lambda: Plan(small(w=torch.ones(2, 1, dtype=torch.complex64))), TypeError,
        "edata['w'] must be a floating-point tensor",
    ),
    "Plan: envelope": (
        lambda: Plan(small(envelope=torch.tensor([[1.0], [-0.5]]))), ValueError,
        "edata['envelope'] must be at least 0 and finite, got [-0.5] on edge 1",
    ),
    "Plan.check": (lambda: Plan(small()).check(None), TypeError, "G must be a homogeneous dgl.DGLGraph"),
    "get_basis_and_r: graph": (
        lambda: get_basis_and_r([small()], 1), TypeError, "G must be a homogeneous dgl.DGLGraph",
    ),
    "get_basis_and_r: plan": (
        lambda: get_basis_and_r(small(), 1, plan=small()), TypeError, "plan must be a Plan or None, got Graph",
    ),
    "get_basis_and_r: half": (
        lambda: get_basis_and_r(small(d=torch.zeros(2, 3).half()), 1), TypeError,
        "float32 or float64, got torch.float16",
    ),
    "get_basis": (
        lambda: get_basis(small(), "1"), ValueError, "max_degree must be a whole number of at least 0, got '1'",
    ),
    "get_r": (lambda: get_r(Graph([0], [1])), KeyError, "relative positions x_dst - x_src"),
    "BasisCache: no keys": (
        lambda: cached(small(), None), TypeError, "keys must be hashable, one for each graph, got None",
    ),
    "BasisCache: lists": (
        lambda: cached(small(), [[0]]), TypeError, "keys must be hashable, one for each graph, got [[0]]",
    ),
    "BasisCache: rows": (
        lambda: cached(small(), [torch.arange(2)]), TypeError, "keys must be hashable, one for each graph",
    ),
    "BasisCache: graph": (lambda: cached(None, [0]), TypeError, "G must be a homogeneous dgl.DGLGraph"),
    "BasisCache: nan": (
        lambda: cached(small(d=torch.full((2, 3), NAN)), [0]), ValueError, "edata['d'] must be finite and at most",
    ),
    "equivariance_error: model": (lambda: equivariance_error(None, small()), TypeError, "model must be callable"),
    "equivariance_error: degree": (
        lambda: equivariance_error(lengths, small(), output_degree=-1), ValueError,
        "output_degree must be a whole number",
    ),
    "equivariance_error: field": (
        lambda: equivariance_error(lengths, small(), edge_degrees={"d": "1"}), ValueError,
        "edge_degrees['d'] must be a whole number of at least 0, got '1'",
    ),
    "equivariance_error: key": (
        lambda: equivariance_error(lambda G: {"v": lengths(G)}, small()), TypeError,
        "model must return tensors of rows keyed by degrees as strings, got 'v'",
    ),
    "equivariance_error: value": (
        lambda: equivariance_error(lambda G: {"0": 1.0}, small()), TypeError,
        "keyed by degrees as strings, got '0': float",
    ),
    "equivariance_error: number": (
        lambda: equivariance_error(lambda G: lengths(G).sum(), small()), TypeError, "model must return tensors of rows",
    ),
    "equivariance_error: nothing": (
        lambda: equivariance_error(lambda G: {}, small()), TypeError,
        "model must return a tensor of at least one degree",
    ),
    "equivariance_error: rows": (
        lambda: equivariance_error(lengths, small(), output_on="graphs"), ValueError, "the output must have 1 rows",
    ),
    "assert_equivariant: no d": (
        lambda: assert_equivariant(lengths, Graph([0], [1])), KeyError, "relative positions x_dst - x_src",
    ),
    "assert_equivariant: whole numbers": (
        lambda: assert_equivariant(lengths, small(d=torch.zeros(2, 3, dtype=torch.int64))), TypeError,
        "float32 or float64",
    ),
    "assert_equivariant: option": (lambda: assert_equivariant(lengths, small(), degree=1), TypeError, "degree"),
}  # fmt: skip


@pytest.mark.parametrize("call", WRONG)
def test_wrong_input_is_named(call):
    function, error, message = WRONG[call]
    with pytest.raises(error, match=re.escape(message)):
        function()


def test_degrees_of_an_output_that_change():
    def one_then_the_other(G, calls=[]):  # noqa: B006
        calls.append(G)
        return {str(len(calls) % 2): as_graph(G).edata["d"].unsqueeze(1)}

    with pytest.raises(ValueError, match=r"the output must have the same degrees always, got \{1\}, then \{0\}"):
        equivariance_error(one_then_the_other, random_graph(), output_on="edges")


def test_an_output_that_is_zero_only_at_first_is_not_equivariant():
    G = random_graph()
    given = G.edata["d"]
    errors = equivariance_error(lambda G: torch.full((G.num_edges(),), float(not torch.equal(G.edata["d"], given))), G)
    assert errors["rotation"] == math.inf


def test_a_plan_of_the_same_numbers_but_other_edges():
    """k nearest neighbours: always as many edges as there are nodes, times k."""
    G, other = Graph([0, 1, 2], [1, 2, 0]), Graph([0, 1, 2], [2, 2, 0])
    G.edata["d"] = other.edata["d"] = torch.ones(3, 3)
    with pytest.raises(RuntimeError, match="plan must be of this graph: edges lead elsewhere"):
        get_basis_and_r(other, 1, plan=Plan(G))


@pytest.mark.parametrize(("field", "value"), [("w", NAN), ("w", 1e19), ("envelope", NAN), ("envelope", -1.0)])
def test_values_that_spoil_a_plan_or_a_cache_later(field, value):
    """Edges that are no pairs too, whose features nothing is compared with."""
    G = Graph([0, 1], [1, 2])
    G.edata["d"] = torch.ones(2, 3)
    G.edata[field] = torch.ones(2, 1)
    plan, cache = Plan(G), BasisCache(1, 2**20)
    cache.get_basis_and_r(G, [0])
    G.edata[field] = torch.tensor([[1.0], [value]])
    with pytest.raises(RuntimeError, match=r"edata\['envelope'\] is out of range"):
        get_basis_and_r(G, 1, plan=plan)
    with pytest.raises(RuntimeError, match=r"edata\['envelope'\] is out of range"):
        cache.get_basis_and_r(G, [0])


# ------------------------------------------------------------------------------------------- odd, but not wrong


def edgeless(nodes, sizes=None):
    G = Graph([], [], num_nodes=nodes)
    G.edata["d"] = torch.zeros(0, 3, dtype=torch.float64)
    G.set_batch_num_nodes([nodes] if sizes is None else sizes)
    G.set_batch_num_edges([0] * (1 if sizes is None else len(sizes)))
    return G


def one_node_that_sends_to_itself():
    G = Graph([0], [0])
    G.edata["d"] = torch.zeros(1, 3, dtype=torch.float64)
    return G


ODD = {
    "no nodes": lambda: edgeless(0),
    "no graphs": lambda: edgeless(0, []),
    "one node": lambda: edgeless(1),
    "some graphs of no nodes": lambda: edgeless(2, [0, 1, 0, 1]),
    "a node that sends to itself": one_node_that_sends_to_itself,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_graphs_have_a_defined_result_everywhere(name):
    G = ODD[name]()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    layers = GConvSE3(MIXED, MIXED, self_interaction=True), GSE3Res(MIXED, MIXED, div=1)

    def model(G):
        basis, r = get_basis_and_r(G, 2)
        outputs = [layer.double()(features, G=G, r=r, basis=basis) for layer in layers]
        return {d: torch.cat([output[d] for output in outputs], dim=1) for d in features}

    output = model(G)
    assert {d: tuple(v.shape[1:]) for d, v in output.items()} == {"0": (8, 1), "1": (6, 3), "2": (4, 5)}
    assert all(value.isfinite().all() for value in output.values())
    whole = graphs.batch([G, G])
    assert (whole.num_nodes(), whole.batch_size) == (2 * G.num_nodes(), 2 * G.batch_size)
    assert len(graphs.unbatch(whole)) == whole.batch_size
    if G.batch_size == 1:  # a model that takes no other features than those
        assert_equivariant(lambda G: {"0": G.edata["d"].norm(dim=1)[:, None, None]}, G, output_on="edges")
        basis, r = BasisCache(2, 2**20).get_basis_and_r(G, [0])
        assert r.shape == (G.num_edges(), 1)
        assert basis["1,1"].isfinite().all()


class Sum(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(()))

    def forward(self, G):
        return self.function(self.weight * G.ndata["x"])


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda x: x.sum().item(), TypeError, "model must give a tensor with a gradient, got float"),
        (lambda x: x.sum().detach(), TypeError, "model must give a tensor with a gradient, got one without"),
        (lambda x: x.sum().log(), ValueError, "model must give a finite energy with a finite gradient, got nan"),
        (
            lambda x: (x - x).norm().sqrt(),
            ValueError,
            "model must give a finite energy with a finite gradient, got 0.0",
        ),
    ],
)
def test_a_model_that_gives_no_energy(function, error, message):
    ase = pytest.importorskip("ase")
    from equivariant_attention.ase_calculator import ModelCalculator

    atoms = ase.Atoms("Ar2", [[0, 0, 0], [0, 0, -1]], calculator=ModelCalculator(Sum(function), 3.0))
    with pytest.raises(error, match=re.escape(message)):
        atoms.get_potential_energy()


def test_a_cutoff_that_is_no_number():
    pytest.importorskip("ase")
    from equivariant_attention.ase_calculator import ModelCalculator

    with pytest.raises(ValueError, match="cutoff must be larger than 0, got '3'"):
        ModelCalculator(Sum(torch.sum), "3")
