"""What functions of the library say to wrong input; odd input has a defined result."""

import math
import re

import pytest
import torch
from torch import nn

from equivariant_attention import graphs
from equivariant_attention.graphs import Graph, as_graph
from equivariant_attention.modules import GConvSE3, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from equivariant_attention.testing import assert_equivariant, equivariance_error
from tests.cases import MIXED, random_features, random_graph
from tests.wrong import arguments, models, nvidia, published
from tests.wrong.arguments import FOREIGN

NAN = float("nan")
# Tables of calls, each with one wrong argument, which the error must name first.
WRONG = {
    f"{table.__name__.rpartition('.')[2]}: {call}": row
    for table in (arguments, models, nvidia, published)
    for call, row in table.WRONG.items()
}


@pytest.mark.parametrize("call", WRONG)
def test_the_wrong_argument_is_named(call):
    function, error, argument = WRONG[call]
    with pytest.raises(error, match=rf'^"?{re.escape(argument)}(?!\w)([^\0]*\bgot | must have edata)'):
        function()


@pytest.mark.parametrize("call", FOREIGN)
def test_errors_of_others_come_through(call):
    function, error, message = FOREIGN[call]
    with pytest.raises(error, match=message):
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
