import pytest
import torch

from equivariant_attention.graphs import Graph
from equivariant_attention.neighbors import fully_connected_graph
from equivariant_attention.plan import Plan
from utils.cli import UsageError
from utils.graphs import cast, choose_graph, complete, fully_connected, make_graph

CPU, META = torch.device("cpu"), torch.device("meta")


def test_own_graphs_where_asked_for_and_off_the_cpu():
    assert choose_graph("own", CPU) == "own"
    assert choose_graph("auto", META) == "own"


def test_dgl_on_a_cpu_where_it_is_installed():
    pytest.importorskip("dgl")
    assert choose_graph("auto", CPU) == choose_graph("dgl", CPU) == "dgl"


def test_without_dgl(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dgl", None)
    assert choose_graph("auto", CPU) == "own"
    with pytest.raises(UsageError, match="--graph dgl: DGL cannot be used here on cpu"):
        choose_graph("dgl", CPU)


@pytest.mark.parametrize("kind", ["own", "dgl"])
def test_graphs_of_both_classes(kind):
    if kind == "dgl":
        pytest.importorskip("dgl")
    G = make_graph(kind, torch.tensor([0, 1]), torch.tensor([2, 0]), 3)
    assert isinstance(G, Graph) == (kind == "own")
    assert (G.num_nodes(), [ends.tolist() for ends in G.edges()]) == (3, [[0, 1], [2, 0]])
    with pytest.raises(ValueError, match="graph: expected 'own' or 'dgl', got 'pyg'"):
        make_graph("pyg", *G.edges(), 3)


def test_fully_connected_graphs():
    G, src, dst = fully_connected("own", 2, 3)
    assert list(zip(dst.tolist(), src.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert [ends.tolist() for ends in G.edges()] == [torch.cat([ends, ends + 3]).tolist() for ends in (src, dst)]
    assert (G.batch_num_nodes().tolist(), G.batch_num_edges().tolist()) == ([3, 3], [6, 6])


def test_all_real_numbers_of_a_batch_are_cast():
    G = make_graph("own", torch.tensor([0]), torch.tensor([1]), 2)
    G.ndata["x"], G.ndata["kind"], G.edata["d"] = (
        torch.ones(2, 3),
        torch.ones(2, 1, dtype=torch.int64),
        torch.ones(1, 3),
    )
    again, (target, number) = cast((G, (torch.ones(4), torch.ones(1, dtype=torch.int64))), torch.float64)
    assert again is G
    assert {G.ndata["x"].dtype, G.edata["d"].dtype, target.dtype} == {torch.float64}
    assert {G.ndata["kind"].dtype, number.dtype} == {torch.int64}


def test_a_complete_batch_has_the_lists_of_its_plans():
    G = fully_connected_graph(torch.randn(4, 3))
    plan, target = Plan(G), torch.randn(4)
    assert "by_source.rows" not in plan.tensors()
    assert complete((G, plan, target, None)) == (G, plan, target, None)
    assert {"by_source.rows", "by_source.ends", "by_destination.rows", "by_destination.ends"} < plan.tensors().keys()
    assert complete(target) is target
