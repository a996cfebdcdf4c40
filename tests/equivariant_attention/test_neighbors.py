"""The graphs from positions hold the edges of the definition, written here as loops and dense distances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equivariant_attention import neighbors
from equivariant_attention.graphs import graph_of_node
from equivariant_attention.neighbors import fully_connected_graph, knn_graph, radius_graph

few = settings(max_examples=40, deadline=None)


def positions(seed, n, spread, dtype=torch.float64):
    """Points on a small grid (many ties and duplicates) or, with spread 0, in general position."""
    generator = torch.Generator().manual_seed(seed)
    if spread:
        return torch.randint(0, spread, (n, 3), generator=generator).to(dtype)
    return torch.randn(n, 3, generator=generator, dtype=dtype)


def edge_list(graph):
    return list(zip(*(end.tolist() for end in graph.edges()), strict=True))


def by_loops(x, owner, wanted):
    """The edges [(src, dst)], ordered by dst, then src, that `wanted(distances, others)` picks for each node."""
    x, edges = x.double(), []
    for dst in range(len(x)):
        others = [src for src in range(len(x)) if src != dst and owner[src] == owner[dst]]
        distances = {src: math.dist(x[src].tolist(), x[dst].tolist()) for src in others}
        edges += [(src, dst) for src in sorted(wanted(distances))]
    return edges


def nearest(k):
    return lambda distances: sorted(distances, key=lambda src: (distances[src], src))[:k]


def within(radius):
    return lambda distances: [src for src, distance in distances.items() if distance <= radius]


@st.composite
def clouds(draw):
    """Positions and a sorted graph number for each, with empty graphs in between."""
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    x = positions(draw(st.integers(0, 10**6)), sum(sizes), draw(st.sampled_from([0, 1, 2, 4])))
    return x, torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


@few
@given(clouds(), st.integers(1, 6))
def test_knn_against_loops(cloud, k):
    x, batch = cloud
    assert edge_list(knn_graph(x, k, batch)) == by_loops(x, batch.tolist(), nearest(k))


@few
@given(clouds(), st.sampled_from([0.3, 1.0, 2**0.5, 2.0, math.inf]))
def test_radius_against_loops(cloud, radius):
    x, batch = cloud
    assert edge_list(radius_graph(x, radius, batch)) == by_loops(x, batch.tolist(), within(radius))


@few
@given(clouds())
def test_fully_connected_against_loops(cloud):
    x, batch = cloud
    assert edge_list(fully_connected_graph(x, batch)) == by_loops(x, batch.tolist(), within(math.inf))


@pytest.mark.parametrize("spread", [0, 1, 3])
@pytest.mark.parametrize("block", [1, 150, 2**22])
def test_tree_and_blocks_find_identical_edges(monkeypatch, spread, block):
    monkeypatch.setattr(neighbors, "_BLOCK", block)
    x = positions(1, 60, spread)
    for k in (1, 5, 59):
        assert_identical(neighbors._nearest_in_tree(x, k), neighbors._nearest_in_blocks(x, [len(x)], k))
    for radius in (0.5, 1.0, 3**0.5, 2.0, math.inf):
        assert_identical(neighbors._within_in_tree(x, radius), neighbors._within_in_blocks(x, [len(x)], radius))


@pytest.mark.parametrize("block", [1, 150, 2**22])
@pytest.mark.parametrize("sizes", [[7, 0, 1, 20, 2], [1], [0], []])
def test_blocks_of_a_batch_are_those_of_its_graphs(monkeypatch, sizes, block):
    """As a GPU finds them, for all graphs at once; ties, on the corners of a lattice, included."""
    monkeypatch.setattr(neighbors, "_BLOCK", block)
    x = torch.randint(0, 3, (sum(sizes), 3)).double()
    batch = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    for k in (1, 3, 30):
        assert_identical(neighbors._nearest_in_blocks(x, sizes, k), knn_graph(x, k, batch).edges())
    for radius in (0.5, 1.0, 2**0.5, math.inf):
        assert_identical(neighbors._within_in_blocks(x, sizes, radius), radius_graph(x, radius, batch).edges())


def assert_identical(edges, expected):
    assert all(torch.equal(end, other) for end, other in zip(edges, expected, strict=True))


def test_each_block_holds_at_most_the_stated_number_of_distances(monkeypatch):
    monkeypatch.setattr(neighbors, "_BLOCK", 70)
    blocks = [squared for *_, squared in neighbors._blocks(positions(0, 20, 0), [20])]
    assert [len(squared) for squared in blocks] == [3, 3, 3, 3, 3, 3, 2]


def test_coincident_points_have_no_self_edges_and_are_taken_in_order():
    x = torch.zeros(50, 3)
    graph = knn_graph(x, 2)
    assert edge_list(graph)[:8] == [(1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert graph.num_edges() == 100
    assert radius_graph(x, 1e-3).num_edges() == 50 * 49
    for other in (graph, radius_graph(x, 1e-3), fully_connected_graph(x)):
        src, dst = other.edges()
        assert (src != dst).all()


def test_float32_ties_are_decided_on_the_positions_as_given():
    # In float32 both squared distances round to the same number; in truth node 2 is nearer to node 0.
    x = torch.tensor([[0.0, 0, 0], [1.0, 1e-5, 0], [1.0, 0, 0]])
    assert edge_list(knn_graph(x, 1))[0] == (2, 0)
    assert neighbors._nearest_in_blocks(x.double(), [3], 1)[0][0] == 2


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_distance_equal_to_the_radius_counts(offset):
    x = torch.tensor([[0, 0, 0], [3, 4, 0], [0, 0, 5]], dtype=torch.float64) + offset
    assert edge_list(radius_graph(x, 5.0)) == [(1, 0), (2, 0), (0, 1), (0, 2)]
    assert radius_graph(x, math.nextafter(5.0, 0)).num_edges() == 0


def make(kind, x, batch=None):
    builders = {
        "full": fully_connected_graph,
        "knn": lambda x, batch: knn_graph(x, 3, batch),
        "radius": lambda x, batch: radius_graph(x, 1.5, batch),
    }
    return builders[kind](x, batch)


KINDS = ["full", "knn", "radius"]


@pytest.mark.parametrize("kind", KINDS)
def test_fields_and_sizes(kind):
    x = positions(0, 12, 0, torch.float32)
    batch = torch.tensor([0] * 5 + [2] * 1 + [3] * 6, dtype=torch.int32)
    graph = make(kind, x, batch)
    src, dst = graph.edges()
    assert torch.equal(graph.ndata["x"], x[:, None])
    assert torch.equal(graph.edata["d"], x[dst] - x[src])
    assert graph.edata["d"].dtype == torch.float32
    assert graph.batch_num_nodes().tolist() == [5, 0, 1, 6]
    assert torch.equal(graph.batch_num_edges(), torch.bincount(batch[dst], minlength=4))
    assert torch.equal(graph_of_node(graph), batch.long())
    assert graph.num_edges() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_graphs_side_by_side(kind):
    x = positions(3, 17, 0)
    batch = torch.arange(2).repeat_interleave(torch.tensor([8, 9]))
    first, second = make(kind, x[:8]), make(kind, x[8:])
    assert edge_list(make(kind, x, batch)) == edge_list(first) + [(s + 8, d + 8) for s, d in edge_list(second)]


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_with_respect_to_positions(kind):
    x = positions(4, 7, 0).requires_grad_()
    graph = make(kind, x)
    src, dst = graph.edges()
    weight = torch.randn_like(graph.edata["d"])
    (graph.edata["d"] * weight).sum().backward()
    expected = torch.zeros(7, 3, dtype=torch.float64).index_add(0, dst, weight).index_add(0, src, -weight)
    torch.testing.assert_close(x.grad, expected)
    graph.ndata["x"].sum().backward()
    torch.testing.assert_close(x.grad, expected + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_permuting_the_nodes_permutes_the_edges(kind):
    x = positions(5, 15, 0)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    permuted = {(order[s].item(), order[d].item()) for s, d in edge_list(make(kind, x[order]))}
    assert permuted == set(edge_list(make(kind, x)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "batch", "sizes"), [(0, None, [0]), (1, None, [1]), (0, [], []), (2, [0, 1], [1, 1]), (1, [2], [0, 0, 1])]
)
def test_graphs_without_edges(kind, n, batch, sizes):
    batch = None if batch is None else torch.tensor(batch, dtype=torch.int64)
    graph = make(kind, torch.ones(n, 3), batch)
    assert (graph.num_nodes(), graph.num_edges()) == (n, 0)
    assert graph.batch_num_nodes().tolist() == sizes
    assert graph.batch_num_edges().tolist() == [0] * len(sizes)
    assert graph.edata["d"].shape == (0, 3)
