import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from equivariant_attention.basis import get_basis_and_r
from equivariant_attention.graphs import Graph, batch
from equivariant_attention.plan import Plan
from utils import graph_table
from utils.graph_table import GraphTable

SIZES = (3, 1, 4, 2, 5)


def make_graphs():
    """Some edges go one way, some have features of their own in each direction, one has length zero, one graph none."""
    rng = np.random.default_rng(0)
    graphs = []
    for n in SIZES:
        dst, src = np.nonzero(rng.random((n, n)) < 0.8) if n > 1 else (np.empty(0, int), np.empty(0, int))
        G = Graph(torch.from_numpy(src), torch.from_numpy(dst), num_nodes=n)
        x = torch.from_numpy(rng.normal(size=(n, 3)))
        if n == 4:
            x[1] = x[0]
        G.ndata["x"], G.ndata["z"] = x, torch.from_numpy(rng.integers(0, 9, n))
        G.edata["kind"] = torch.from_numpy(((src + dst) % 2 + (src * dst == 2) * (src == 1)).astype(np.float64))
        G.edata["d"] = x[G.edges()[1]] - x[G.edges()[0]]
        graphs.append(G)
    return graphs


def make_table(graphs):
    ends = [np.concatenate([G.edges()[i].numpy() for G in graphs]).astype(np.int16) for i in (0, 1)]
    joined = batch(graphs)
    sizes = (getattr(joined, f"batch_num_{kind}")().numpy() for kind in ("nodes", "edges"))
    ndata, edata = {"z": joined.ndata["z"].numpy()}, {"kind": joined.edata["kind"].numpy()}
    return GraphTable(*sizes, *ends, joined.ndata["x"].numpy(), ndata, edata)


def edges_of(G):
    columns = [*G.edges(), G.edata["kind"], *G.edata["d"].T]
    return sorted(map(tuple, torch.stack([column.double() for column in columns], dim=1).tolist()))


@pytest.mark.parametrize("chunk", [1, 2, 4096])
def test_batches_are_those_of_the_graphs(monkeypatch, chunk):
    monkeypatch.setattr(graph_table, "CHUNK", chunk)
    graphs = make_graphs()
    table = make_table(graphs)
    assert len(table) == len(SIZES)
    for chosen in ([0], [1], [2, 0], [4, 3, 2, 1, 0], [1, 1, 2]):
        G, plan = table.batch(chosen)
        expected = batch([graphs[i] for i in chosen])
        assert edges_of(G) == edges_of(expected)
        for name in ("x", "z"):
            assert torch.equal(G.ndata[name], expected.ndata[name])
        for name in ("nodes", "edges"):
            sizes = [getattr(graph, f"batch_num_{name}")().tolist() for graph in (G, expected)]
            assert sizes[0] == sizes[1]
        G.edata["w"] = G.edata["kind"].unsqueeze(1)
        plan.check(G)
        made = Plan(G)
        assert {*map(frozenset, plan.pairs.tolist())} == {*map(frozenset, made.pairs.tolist())}
        assert plan.order.sort().values.tolist() == list(range(G.num_edges()))
        assert torch.equal(plan.order[: plan.pairs.numel()], plan.pairs.flatten())
        assert torch.equal(plan.zero_edges, made.zero_edges)
        get_basis_and_r(G, 2, plan=plan)


def test_rotations_turn_positions_graph_by_graph():
    table = make_table(make_graphs())
    rotations = torch.from_numpy(Rotation.random(2, random_state=0).as_matrix())
    (turned, _), (still, _) = table.batch([2, 4], rotations), table.batch([2, 4])
    for R, x, y in zip(rotations, *(G.ndata["x"].split([4, 5]) for G in (still, turned)), strict=True):
        torch.testing.assert_close(y, x @ R.T)
    src, dst = turned.edges()
    assert torch.equal(turned.edata["d"], turned.ndata["x"][dst] - turned.ndata["x"][src])


def test_no_graphs():
    empty = np.empty(0, np.int64)
    assert len(GraphTable(empty, empty, empty, empty, np.empty((0, 3)), {}, {})) == 0
