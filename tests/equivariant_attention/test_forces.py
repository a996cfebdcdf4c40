"""Forces and stress are finite differences of the energy, for every way in which a model may read positions."""

import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.forces import energy_forces_stress, forces_on_graph
from equivariant_attention.graphs import batch as batched
from equivariant_attention.modules import GConvSE3Partial, get_basis_and_r
from equivariant_attention.neighbors import radius_graph

CUTOFF, STEP = 1.7, 1e-6


def model(x_ij=None):
    torch.manual_seed(0)
    layer = GConvSE3Partial(Fiber(1, 1), Fiber(1, 2), x_ij=x_ij).double()

    def energy(G):
        basis, r = get_basis_and_r(G, 1, compute_gradients=True)
        of_edges = layer({"0": G.ndata["z"].to(r)[:, None, None]}, G=G, r=r, basis=basis)["0"].tanh().sum((1, 2))
        _, dst = G.edges()
        of_nodes = of_edges.new_zeros(G.num_nodes()).index_add(0, dst, of_edges * G.edata["envelope"][:, 0])
        owner = torch.arange(G.batch_size).repeat_interleave(G.batch_num_nodes())
        return of_nodes.new_zeros(G.batch_size).index_add(0, owner, of_nodes)

    return energy


def systems():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    cell = torch.eye(3, dtype=torch.float64) * 2 + 0.3 * torch.randn(2, 3, 3, dtype=torch.float64, generator=generator)
    return torch.tensor([1, 2, 3, 1, 2, 3, 1]), x, torch.tensor([0, 0, 0, 0, 1, 1, 1]), cell


@pytest.mark.parametrize("pbc", [True, [True, False, True]])
@pytest.mark.parametrize("x_ij", [None, "cat"])
def test_forces_and_stress_are_finite_differences(x_ij, pbc):
    energy, (z, x, batch, cell) = model(x_ij), systems()

    def moved(x, cell):
        with torch.no_grad():
            return energy_forces_stress(energy, z, x, CUTOFF, batch, cell, pbc).energy

    found = energy_forces_stress(energy, z, x, CUTOFF, batch, cell, pbc)
    assert found.forces.abs().max() > 1e-2
    unit = torch.zeros_like(x)
    unit[1, 2] = STEP
    force = -(moved(x + unit, cell) - moved(x - unit, cell)).sum() / (2 * STEP)
    assert abs(found.forces[1, 2] - force) < 1e-6
    assert found.stress.abs().max() > 1e-3
    torch.testing.assert_close(found.stress, found.stress.mT)
    for a, b in ((0, 0), (1, 2)):
        strain = torch.zeros(3, 3, dtype=torch.float64)
        strain[a, b] += STEP / 2
        strain[b, a] += STEP / 2
        energies = [moved(x + s * x @ strain, cell + s * cell @ strain) for s in (1, -1)]
        stress = (energies[0] - energies[1]) / (2 * STEP) / cell.det().abs()
        torch.testing.assert_close(found.stress[:, a, b], stress, rtol=0, atol=1e-6)


def test_without_cells_there_is_no_stress_and_without_volume_it_is_zero():
    z, x, batch, cell = systems()
    assert energy_forces_stress(model(), z, x, CUTOFF, batch).stress is None
    cell[1] = 0
    pbc = torch.tensor([[True] * 3, [False] * 3])
    stress = energy_forces_stress(model(), z, x, CUTOFF, batch, cell, pbc).stress
    assert stress[0].any()
    assert not stress[1].any()


def test_they_can_be_differentiated_again_where_gradients_are_on():
    z, x, batch, cell = systems()
    found = energy_forces_stress(model(), z, x, CUTOFF, batch, cell)
    assert all(v.requires_grad for v in found)
    with torch.no_grad():
        again = energy_forces_stress(model(), z, x, CUTOFF, batch, cell)
    assert not any(v.requires_grad for v in again)
    torch.testing.assert_close(tuple(again), tuple(v.detach() for v in found))


def test_they_are_the_same_on_graphs_that_were_made_one_by_one():
    z, x, batch, cell = systems()
    expected = energy_forces_stress(model(), z, x, CUTOFF, batch, cell)
    graphs = []
    for i in range(2):
        G = radius_graph(x[batch == i], CUTOFF, cell=cell[i])
        G.ndata["z"] = z[batch == i]
        graphs.append(G)
    G = batched(graphs)
    before = {name: value.clone() for name, value in {**G.ndata, **G.edata}.items()}
    torch.testing.assert_close(tuple(forces_on_graph(model(), G, CUTOFF, cell)), tuple(expected))
    assert all(torch.equal({**G.ndata, **G.edata}[name], value) for name, value in before.items())


def test_a_cell_of_another_shape_is_refused():
    z, x, batch, cell = systems()
    with pytest.raises(ValueError, match=r"cell must have shape \[3, 3\] or \[2, 3, 3\], got \[3, 3, 3\]"):
        energy_forces_stress(model(), z, x, CUTOFF, batch, cell[[0, 0, 1]])


def test_a_graph_that_was_made_with_an_envelope_is_computed_with_the_one_that_is_asked_for():
    z, x, *_ = systems()
    G = radius_graph(x, CUTOFF, envelope=6)
    G.ndata["z"] = z

    def energy(G):
        return (G.edata["d"].square().sum() * G.edata.get("envelope", torch.ones(1)).sum())[None]

    for envelope in (None, 2):
        found = forces_on_graph(energy, G, CUTOFF, envelope=envelope)
        for value, expected in zip(found, energy_forces_stress(energy, z, x, CUTOFF, envelope=envelope), strict=True):
            torch.testing.assert_close(value, expected)
    assert "envelope" in G.edata


def test_one_cell_may_serve_all_graphs():
    z, x, batch, cells = systems()
    one = energy_forces_stress(model(), z, x, CUTOFF, batch, cells[0])
    each = energy_forces_stress(model(), z, x, CUTOFF, batch, cells[:1].expand(2, 3, 3))
    torch.testing.assert_close(tuple(one), tuple(each))


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("cutoff", 0.0), ("cutoff", float("nan")), ("envelope", 0), ("envelope", 2.5), ("cell", torch.eye(3)),
     ("cell", torch.eye(3, dtype=torch.float64)[None]), ("cell", [1.0])],
)  # fmt: skip
def test_what_is_wrong_is_named(name, wrong):
    z, x, batch, cell = systems()
    G = radius_graph(x, CUTOFF, batch, cell)
    G.ndata["z"] = z
    given = {"cutoff": CUTOFF, "cell": cell, "envelope": 6, name: wrong}
    with pytest.raises(ValueError, match=f"^{name} must"):
        energy_forces_stress(model(), z, x, batch=batch, **given)
    with pytest.raises(ValueError, match=f"^{name} must"):
        forces_on_graph(model(), G, **given)
