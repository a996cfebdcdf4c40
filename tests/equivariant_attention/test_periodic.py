"""Neighbours across periodic boundaries, against images written out one by one, and derivatives by the cell."""

import itertools
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equivariant_attention.graphs import graph_of_node
from equivariant_attention.neighbors import radius_graph
from equivariant_attention.periodic import images_within

few = settings(max_examples=40, deadline=None)
REACH = 12  # images looked at, in each direction


def by_loops(x, cell, pbc, radius):
    """{(src, dst, *image)} of all pairs within the radius."""
    found = set()
    for image in itertools.product(*(range(-REACH, REACH + 1) if repeats else (0,) for repeats in pbc)):
        d = x[None] - (x[:, None] + np.array(image) @ cell)
        for src, dst in zip(*np.nonzero(np.linalg.norm(d, axis=2) <= radius), strict=True):
            if src != dst or any(image):
                found.add((int(src), int(dst), *image))
    return found


@st.composite
def cells(draw):
    """Few atoms, in and out of a small and skewed cell that repeats along some of its vectors."""
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    cell = np.eye(3) + random.uniform(-0.6, 0.6, (3, 3))
    while abs(np.linalg.det(cell)) < 0.4:
        cell = np.eye(3) + random.uniform(-0.6, 0.6, (3, 3))
    return random.normal(size=(draw(st.integers(0, 4)), 3)), cell, np.array(draw(st.tuples(*[st.booleans()] * 3)))


@few
@given(cells(), st.sampled_from([0.4, 1.0, 1.7]))
def test_every_image_within_the_radius_is_a_neighbour(case, radius):
    x, cell, pbc = case
    src, dst, image = images_within(x, cell, pbc, radius)
    found = list(zip(src.tolist(), dst.tolist(), *image.T.tolist(), strict=True))
    assert set(found) == by_loops(x, cell, pbc, radius)
    assert found == sorted(found, key=lambda edge: (edge[1], edge[0], edge[2:]))  # and none twice


@pytest.mark.parametrize("missing", ["vesin", "both"])
def test_ase_takes_the_place_of_vesin(monkeypatch, missing):
    random = np.random.default_rng(0)
    x, cell, pbc = random.normal(size=(5, 3)), np.array([[1.5, 0, 0], [0.4, 1.2, 0], [0, 0, 0.0]]), np.array([1, 1, 0])
    expected = images_within(x, cell, pbc > 0, 1.4)
    monkeypatch.setitem(sys.modules, "vesin", None)
    if missing == "both":
        monkeypatch.setitem(sys.modules, "ase.neighborlist", None)
        with pytest.raises(
            ImportError, match="found by vesin or ase, of which neither is installed: pip install vesin"
        ):
            images_within(x, cell, pbc > 0, 1.4)
        return
    pytest.importorskip("ase")
    for a, b in zip(images_within(x, cell, pbc > 0, 1.4), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_simple_cubic_lattice_and_a_distance_equal_to_the_radius():
    G = radius_graph(torch.tensor([[0.1, 0.2, 0.3]]), 2.0, cell=torch.eye(3))
    r = G.edata["d"].norm(dim=1)
    shells = {1: 6, 2**0.5: 12, 3**0.5: 8, 2: 6}
    assert G.num_edges() == sum(shells.values())
    for length, count in shells.items():
        assert ((r - length).abs() < 1e-6).sum() == count
    torch.testing.assert_close(G.edata["offset"], -G.edata["d"], rtol=0, atol=1e-6)


def batch_of_three():
    x = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batch = torch.tensor([0] * 4 + [1] * 2 + [2] * 3)
    cell = torch.tensor([[2.0, 0, 0], [0.5, 2.0, 0], [0, 0.3, 2.0]], dtype=torch.float64)
    return x, batch, torch.stack([cell, 0 * cell, 1.2 * cell]), torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 1]]) > 0


def test_a_batch_is_its_cells_side_by_side():
    x, batch, cell, pbc = batch_of_three()
    G = radius_graph(x, 1.9, batch, cell, pbc, envelope=6)
    parts = [radius_graph(x[batch == i], 1.9, cell=cell[i], pbc=pbc[i], envelope=6) for i in range(3)]
    assert G.batch_num_edges().tolist() == [part.num_edges() for part in parts]
    assert torch.equal(graph_of_node(G), batch)
    for name in ("d", "envelope"):
        torch.testing.assert_close(G.edata[name], torch.cat([part.edata[name] for part in parts]), rtol=0, atol=1e-14)
    src, dst = G.edges()
    torch.testing.assert_close(G.edata["d"], x[dst] - x[src] - G.edata["offset"], rtol=0, atol=1e-14)
    assert (batch[src] == batch[dst]).all()


def test_one_cell_serves_all_graphs_and_nothing_repeats_without_pbc():
    x, batch, cell, _ = batch_of_three()
    one, each = radius_graph(x, 1.5, batch, cell[0]), radius_graph(x, 1.5, batch, cell[:1].expand(3, 3, 3))
    assert torch.equal(one.edata["d"], each.edata["d"])
    open_, plain = radius_graph(x, 1.5, batch, cell[0], pbc=False), radius_graph(x, 1.5, batch)
    assert torch.equal(open_.edata["d"], plain.edata["d"])
    assert "offset" not in open_.edata


@pytest.mark.parametrize("pbc", [True, [True, False, True]])
def test_moving_atoms_by_vectors_of_the_cell_and_repeating_it_changes_no_distance(pbc):
    x, _, cell, _ = batch_of_three()
    x, cell = x[:4], cell[0]
    moved = x.clone()
    moved[1] += cell[0] - 2 * cell[2]
    larger, twice = torch.cat([x, x + cell[0]]), torch.cat([2 * cell[:1], cell[1:]])
    expected = radius_graph(x, 1.9, cell=cell, pbc=pbc).edata["d"].norm(dim=1).sort().values
    found = radius_graph(moved, 1.9, cell=cell, pbc=pbc).edata["d"].norm(dim=1).sort().values
    torch.testing.assert_close(found, expected)
    found = radius_graph(larger, 1.9, cell=twice, pbc=pbc).edata["d"].norm(dim=1).sort().values
    torch.testing.assert_close(found, expected.repeat_interleave(2))


def test_gradients_with_respect_to_positions_and_cells():
    x, batch, cell, pbc = batch_of_three()

    def fields(x, cell):
        G = radius_graph(x, 1.9, batch, cell, pbc, envelope=6)
        return G.edata["d"], G.edata["envelope"], G.edata["offset"]

    assert torch.autograd.gradcheck(fields, (x.requires_grad_(), cell.requires_grad_()), fast_mode=True)


def test_large_cells():
    side = 12
    lattice = torch.cartesian_prod(*[torch.arange(side, dtype=torch.float32)] * 3)
    G = radius_graph(lattice, 1.1, cell=side * torch.eye(3))
    assert G.num_edges() == 6 * side**3
    torch.testing.assert_close(G.edata["d"].norm(dim=1), torch.ones(G.num_edges()), rtol=0, atol=1e-5)


def test_vectors_along_which_nothing_repeats_do_not_matter():
    x, _, cell, _ = batch_of_three()
    flat = torch.stack([cell[0, 0], cell[0, 1], cell[0, 0] + cell[0, 1]])
    G, other = (radius_graph(x, 1.5, cell=c, pbc=[True, True, False]) for c in (cell[0], flat))
    assert torch.equal(G.edata["d"], other.edata["d"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_cell_is_finite_where_nothing_repeats_too(value):
    cell = 4 * torch.eye(3)
    cell[2] = value
    with pytest.raises(ValueError, match="cell must be finite"):
        radius_graph(torch.zeros(2, 3), 3.0, cell=cell, pbc=torch.tensor([True, True, False]))


def test_autocast_does_not_round_where_images_are():
    x, cell = torch.tensor([[0.1, 0, 0], [20.0, 0, 0]]), 20.1 * torch.eye(3)
    expected = radius_graph(x, 3.0, cell=cell).edata
    with torch.autocast("cpu", torch.bfloat16):
        found = radius_graph(x, 3.0, cell=cell).edata
    for name in ("offset", "d"):
        assert torch.equal(found[name], expected[name])
