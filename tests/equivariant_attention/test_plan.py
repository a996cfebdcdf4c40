import copy
import io
import pickle

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial, get_basis_and_r
from equivariant_attention.neighbors import radius_graph
from equivariant_attention.plan import Plan
from tests.cases import BACKENDS_HERE, MIXED, awkward_graph, random_features, random_graph


def graph(src, dst, d, w=None):
    G = Graph(src, dst)
    G.edata["d"] = torch.tensor(d, dtype=torch.float64)
    if w is not None:
        G.edata["w"] = torch.tensor(w, dtype=torch.float64)[:, None]
    return G


def pairs(G):
    return {tuple(pair) for pair in Plan(G).pairs.tolist()}


UP, DOWN = [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]


def test_an_edge_and_its_reverse_are_a_pair_if_length_and_features_agree():
    assert pairs(graph([0, 1], [1, 0], [UP, DOWN])) == {(0, 1)}
    assert pairs(graph([1, 0], [0, 1], [UP, DOWN])) == {(1, 0)}
    assert pairs(graph([0, 1], [1, 0], [UP, DOWN], [2, 2])) == {(0, 1)}
    assert pairs(graph([0, 1], [1, 0], [UP, DOWN], [2, 2 + 1e-15])) == set()
    assert pairs(graph([0, 1], [1, 0], [UP, [0, 0, -1 - 1e-15]])) == set()


def test_a_plan_without_pairs_gives_the_same():
    G, fiber = random_graph(), Fiber(3, 2)
    layer, h = GConvSE3Partial(fiber, fiber).double(), random_features(fiber, G.num_nodes(), torch.float64)
    outputs = []
    for plan in (Plan(G), Plan.unpaired(G)):
        basis, r = get_basis_and_r(G, 2, plan=plan)
        outputs.append(layer(h, G=G, r=r, basis=basis))
    assert len(Plan(G).pairs)
    assert not len(Plan.unpaired(G).pairs)
    torch.testing.assert_close(*outputs)
    G.edata["d"] = G.edata["d"] * (torch.arange(G.num_edges()) > 0)[:, None]
    with pytest.raises(RuntimeError, match=r"plan must be of this graph: .* others have length zero"):
        get_basis_and_r(G, 2, plan=Plan.unpaired(G))


def test_edges_without_reverse_and_self_loops_are_alone():
    assert pairs(graph([0, 0, 1], [1, 2, 2], [UP, UP, UP])) == set()
    assert pairs(graph([0, 0], [0, 0], [UP, UP])) == set()
    G = Graph([], [], num_nodes=3)
    G.edata["d"] = torch.zeros(0, 3)
    assert len(Plan(G).order) == 0


def test_repeated_edges_are_paired_once_each():
    found = Plan(graph([0, 0, 1, 0], [1, 1, 0, 1], [UP, UP, DOWN, UP]))
    assert found.pairs.tolist() == [[0, 2]]
    assert found.order.tolist() == [0, 2, 1, 3]
    assert pairs(graph([0, 0, 1, 1], [1, 1, 0, 0], [UP, UP, DOWN, DOWN], [1, 2, 1, 2])) == {(0, 2), (1, 3)}
    assert pairs(graph([0, 0, 1, 1], [1, 1, 0, 0], [UP, DOWN, UP, DOWN])) == {(0, 3), (1, 2)}


def test_edges_of_equal_length_that_are_not_opposite_are_no_pair():
    """Whether a GPU rounds their lengths alike is not known."""
    x, y, z = 0.1, 0.2, 0.3
    assert pairs(graph([0, 1], [1, 0], [[x, y, z], [z, x, y]])) == set()


def test_in_a_periodic_cell_each_edge_between_two_nodes_is_paired_with_its_reverse():
    x = torch.rand(3, 3, dtype=torch.float64)
    G = radius_graph(x, 1.6, cell=torch.eye(3, dtype=torch.float64))
    (src, dst), d = G.edges(), G.edata["d"]
    first, second = Plan(G).pairs.T
    assert 2 * len(first) == int((src != dst).sum())
    assert torch.equal(d[first], -d[second])


@pytest.mark.parametrize("make", [random_graph, awkward_graph])
def test_the_order_has_every_edge_once_and_every_pair_is_one(make):
    G = make()
    plan = Plan(G)
    (src, dst), (_, r) = G.edges(), get_basis_and_r(G, 0)
    assert sorted(plan.order.tolist()) == list(range(G.num_edges()))
    first, second = plan.pairs.T
    assert len(first) > 0
    assert torch.equal(plan.order[: 2 * len(first)], plan.pairs.flatten())
    assert torch.equal(src[first], dst[second])
    assert torch.equal(dst[first], src[second])
    assert torch.equal(r[first], r[second])
    assert torch.equal(plan.zero_edges, (r[:, 0] == 0).nonzero()[:, 0])


def test_a_plan_made_ahead_gives_the_same():
    G = awkward_graph(edge_dim=2)
    expected, expected_r = get_basis_and_r(G, 3)
    found, r = get_basis_and_r(G, 3, plan=Plan(G))
    assert torch.equal(r, expected_r)
    for before, after in zip(expected.frames, found.frames, strict=True):
        assert torch.equal(before, after)


def test_a_plan_of_another_graph_is_refused():
    plan = Plan(random_graph())
    with pytest.raises(ValueError, match="plan must be of this graph: nodes must be 16, got 15"):
        get_basis_and_r(awkward_graph(), 1, plan=plan)
    G = graph([0, 1, 1], [1, 0, 0], [UP, DOWN, UP], [2, 2, 2])
    plan = Plan(G)
    with pytest.raises(ValueError, match="edges must be 2, got 3"):
        get_basis_and_r(graph([0, 1], [1, 0], [UP, DOWN], [2, 2]), 1, plan=plan)
    with pytest.raises(ValueError, match="device must be meta, got cpu"):
        get_basis_and_r(G.to("meta"), 1, plan=plan)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("w", [[2.0], [3.0], [2.0]]),
        ("d", [UP, [0, 0, -2], UP]),
        ("d", [[0, 0, 0], [0, 0, 0], UP]),
        ("d", [UP, DOWN, [0, 0, torch.nan]]),
    ],
)
def test_a_plan_of_other_values_is_refused(field, value):
    G = graph([0, 1, 1], [1, 0, 0], [UP, DOWN, UP], [2, 2, 2])
    plan = Plan(G)
    get_basis_and_r(G, 1, plan=plan)
    G.edata[field] = torch.tensor(value, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="plan must be of this graph: edges lead elsewhere, others have length zero"):
        get_basis_and_r(G, 1, plan=plan)


def test_a_plan_moves_to_another_device():
    plan = Plan(awkward_graph())
    moved = plan.to("meta")
    assert {moved.pairs.device.type, moved.order.device.type, moved.zero_edges.device.type} == {"meta"}
    assert plan.order.device.type == "cpu"
    assert repr(moved) == repr(plan) == "Plan(nodes=16, edges=28, pairs=13)"


def test_a_plan_is_its_own_whatever_becomes_of_the_graph():
    G = awkward_graph()
    plan, before = Plan(G), [end.clone() for end in G.edges()]
    for end in G.edges():
        end.fill_(0)
    assert torch.equal(plan.src, before[0])
    assert torch.equal(plan.dst, before[1])
    with pytest.raises(RuntimeError, match="plan must be of this graph: edges lead elsewhere"):
        get_basis_and_r(G, 1, plan=plan)


OWN = {
    "src": lambda plan: plan.src,
    "dst": lambda plan: plan.dst,
    "pairs": lambda plan: plan.pairs,
    "order": lambda plan: plan.order,
    "zero_edges": lambda plan: plan.zero_edges,
    "out_edges.edges": lambda plan: plan.out_edges.edges,
}


def layer_and_features():
    layer = GConvSE3Partial(MIXED, MIXED).double()
    return layer, {d: v.requires_grad_() for d, v in random_features(MIXED, 16, torch.float64).items()}


@pytest.mark.parametrize("number", [-1, 10**9, 0])
@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("backend", [*BACKENDS_HERE, None])
def test_a_plan_that_was_written_to_is_refused_wherever_it_is_used(backend, name, number):
    G = awkward_graph()
    (layer, h), plan = layer_and_features(), Plan(G)
    basis, r = get_basis_and_r(G, 2, plan=plan)
    OWN[name](plan)[:1] = number
    with use_backend(backend), pytest.raises(RuntimeError, match="plan must not be written to"):
        layer(h, G=G, r=r, basis=basis)
    for use in (lambda: get_basis_and_r(G, 2, plan=plan), lambda: pickle.dumps(plan), lambda: plan.to("cpu")):
        with pytest.raises(RuntimeError, match="plan must not be written to"):
            use()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("backend", sorted({*BACKENDS_HERE} - {"edge", "oracle"}))  # these read no plan then
def test_a_plan_that_was_written_to_before_the_backward_pass_is_refused(backend, name):
    G = awkward_graph()
    (layer, h), plan = layer_and_features(), Plan(G)
    with use_backend(backend):
        basis, r = get_basis_and_r(G, 2, plan=plan)
        output = layer(h, G=G, r=r, basis=basis)
    OWN[name](plan)[:1] = 0
    for create_graph in (False, True):
        # PyTorch itself refuses the edges of length zero, which it saved.
        with pytest.raises(RuntimeError, match=r"plan must not be written to|modified by an inplace operation"):
            torch.autograd.grad(output["2"].sum(), h["1"], retain_graph=True, create_graph=create_graph)


@pytest.mark.skipif("cpp" not in BACKENDS_HERE, reason="there is no C++ compiler")
@pytest.mark.parametrize(("name", "message"), [("src", "a node that the graph"), ("order", "an edge that the graph")])
@pytest.mark.parametrize("number", [-1, 10**12])
def test_numbers_that_nobody_saw_written_are_not_followed_in_cpp(name, message, number):
    """Where PyTorch counts no writes, and the graph's own edges were written to likewise."""
    G, (layer, h) = awkward_graph(), layer_and_features()
    basis, r = get_basis_and_r(G, 2)
    with use_backend("cpp"):
        output = layer(h, G=G, r=r, basis=basis)
        getattr(basis.plan, name).numpy()[3] = number
        G.edges()[0].copy_(basis.plan.src)
        with pytest.raises(IndexError, match=message):
            layer(h, G=G, r=r, basis=basis)
        with pytest.raises(IndexError, match=message):
            output["1"].sum().backward()


def saved(plan):
    file = io.BytesIO()
    torch.save(plan, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan)), saved])
def test_a_copy_of_a_plan_is_as_good(copied):
    G = awkward_graph()
    plan = copied(Plan(G))
    expected, _ = get_basis_and_r(G, 2)
    found, _ = get_basis_and_r(G, 2, plan=plan)
    assert all(torch.equal(a, b) for a, b in zip(found.frames, expected.frames, strict=True))
    plan.order[:2] = plan.order[:2].flip(0)
    with pytest.raises(RuntimeError, match="plan must not be written to"):
        get_basis_and_r(G, 2, plan=plan)


@pytest.mark.parametrize("backend", [*BACKENDS_HERE, None])
def test_a_plan_made_in_inference_mode_serves_training(backend):
    with torch.inference_mode():
        G = awkward_graph()
        plan = Plan(G)
        moved = plan.to("cpu")
    layer = GConvSE3Partial(MIXED, MIXED).double()
    h = random_features(MIXED, 16, torch.float64)
    other = Graph(*(end.clone() for end in G.edges()), 16)
    other.edata["d"] = G.edata["d"].clone()
    gradients = []
    with use_backend(backend):
        for one in (plan, moved, None):
            basis, r = get_basis_and_r(other, 2, plan=one)
            output = layer(h, G=other, r=r, basis=basis)
            gradients.append(torch.autograd.grad(output["1"].square().sum(), [*layer.parameters()], allow_unused=True))
    for found, again, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(again, expected)


def star(leaves):
    """Node 0 sends to many nodes, node 1 to two, the others to none."""
    return graph([*[0] * leaves, 1, 1], [*range(1, leaves + 1), 0, 2], [UP] * (leaves + 2))


def edgeless():
    G = Graph([], [], num_nodes=3)
    G.edata["d"] = torch.zeros(0, 3)
    return G


@pytest.mark.parametrize("G", [star(150), star(3), awkward_graph(), random_graph(), edgeless()])
def test_out_edges_are_all_edges_in_rows_of_one_source_node(G):
    rows = Plan(G).out_edges
    assert sorted(rows.edges.tolist()) == list(range(G.num_edges()))
    assert torch.equal(G.edges()[0][rows.edges], rows.node[rows.row])
    assert torch.equal(rows.edges[rows.first[rows.row] + rows.place], rows.edges)
    assert rows.count.tolist() == sorted(torch.bincount(rows.row).tolist(), reverse=True)
    assert (rows.count <= 64).all()
    assert rows.ends[-1] == G.num_edges()


def test_a_node_of_many_edges_has_rows_of_equal_length():
    rows = Plan(star(150)).out_edges
    assert rows.node.tolist() == [0, 0, 0, 1]
    assert rows.count.tolist() == [50, 50, 50, 2]


@pytest.mark.parametrize(("most_rows", "most_slots"), [(0, 0), (3, 1000), (1000, 20), (1000, 1000)])
@pytest.mark.parametrize("G", [star(150), awkward_graph(), random_graph(), edgeless()])
def test_blocks_hold_every_edge_once(G, most_rows, most_slots):
    rows, found, next_row = Plan(G).out_edges, [], 0
    for first, last in rows.ranges(most_rows, most_slots):
        assert first == next_row
        next_row = last
        nodes, slots, edges, places = rows.block(first, last)
        assert len(nodes) == last - first <= max(1, most_rows)
        assert len(slots) <= most_slots or len(nodes) == 1
        assert len(edges) <= len(slots) <= 2 * len(edges)
        assert torch.equal(slots if places is None else slots[places], edges)
        assert torch.equal(
            G.edges()[0][slots].view(len(nodes), -1), nodes[:, None].expand(-1, len(slots) // len(nodes))
        )
        found += edges.tolist()
    assert sorted(found) == list(range(G.num_edges()))
