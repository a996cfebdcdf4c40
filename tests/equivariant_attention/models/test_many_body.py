"""A potential of many-body correlations is invariant, smooth everywhere, and forces and stress are its derivatives."""

import pytest
import torch

from equivariant_attention.ase_calculator import ModelCalculator
from equivariant_attention.forces import forces_on_graph
from equivariant_attention.models import AtomicEnergies, ManyBodyPotential, Potential
from equivariant_attention.neighbors import radius_graph
from equivariant_attention.plan import Plan
from equivariant_attention.symmetric_structures import symmetric_graphs
from equivariant_attention.testing import assert_equivariant, equivariance_error
from tests.equivariant_attention.models.test_potential import (
    CUTOFF,
    assert_forces_and_stress_are_derivatives,
    assert_is_exported_for_structures_of_all_sizes,
    systems,
)
from tests.equivariant_attention.test_envelope import jump

OPTIONS = {
    "as usual": {},
    "one layer, pairs of neighbours": {"num_layers": 1, "correlation": 2},
    "single neighbours, three layers": {"num_layers": 3, "correlation": 1},
    "degree 3, four at once, degree 2 sent": {"max_degree": 3, "correlation": 4, "max_degree_sent": 2},
    "scalars": {"max_degree": 0, "max_degree_sent": 0, "radial_basis": "gaussian"},
    "no envelope": {"envelope": None},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def build(**options):
    torch.manual_seed(0)
    small = {"num_channels": 4, "num_embedding": 3, "num_radial": 4, "num_hidden": 8, "num_neighbors": 6.0}
    return ManyBodyPotential(CUTOFF, **{**small, **options}).double()


def graph(envelope=6):
    z, x, batch, cell = systems()
    G = radius_graph(x, CUTOFF, batch, cell, envelope=envelope)
    G.ndata["z"] = z
    return G


@every_option
def test_energies_are_invariant_mirror_images_included(options):
    G = graph(options.get("envelope", 6))
    assert_equivariant(build(**options), G, output_on="graphs", reflections=True, tolerance=1e-9)


@every_option
def test_forces_and_stress_are_derivatives_of_the_energy(options):
    assert_forces_and_stress_are_derivatives(build(**options))


def test_second_derivatives_are_those_of_the_energy():
    model, (z, x, batch, cell) = build(), systems()

    def energies(x):
        G = radius_graph(x, CUTOFF, batch, cell, envelope=6)
        G.ndata["z"] = z
        return model(G)

    x.requires_grad_()
    assert torch.autograd.gradcheck(energies, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(energies, x, fast_mode=True)


def test_a_loss_of_all_three_reaches_every_weight():
    model, (z, x, batch, cell) = build(), systems()
    found = model.predict(z, x, batch, cell)
    sum(v.square().sum() for v in found).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


def test_energy_and_forces_are_continuous_at_the_cutoff():
    model = build()

    def energy(x, envelope):
        model.envelope = envelope
        G = radius_graph(x * CUTOFF, CUTOFF, envelope=envelope)
        G.ndata["z"] = torch.full((len(x),), 18)
        return model(G).sum()

    inside = torch.tensor([[0, 0, 0], [0.6, 0.1, 0], [0.2, 0.5, 0.3]], dtype=torch.float64)
    for step in (1e-3, 1e-4):
        bare, smooth = (jump(energy, inside, step, envelope) for envelope in (None, 6))
        assert min(bare) > 1e-4
        assert smooth[0] < 1e4 * step**3
        assert smooth[1] < 1e4 * step**2


def test_forces_are_smooth_where_atoms_are_placed_symmetrically():
    """Densities of degree above 0 vanish at the centre of a tetrahedron: an atom there feels a linear force."""
    corners = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64) / 2
    z, model = torch.tensor([6, 1, 1, 1, 1]), build()

    def force(shift):
        x = torch.cat([shift * torch.tensor([[1.0, 0.5, -0.2]], dtype=torch.float64), corners])
        return model.predict(z, x).forces[0]

    assert force(0.0).abs().max() < 1e-12
    slopes = [(force(shift) - force(-shift)) / (2 * shift) for shift in (1e-4, 1e-6)]
    assert slopes[0].abs().max() > 1e-3
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-3, atol=1e-5)


# Atoms in nearly the same place have a direction that is all rounding.
@pytest.mark.parametrize(
    ("name", "displacement"),
    [(name, d) for name in symmetric_graphs() for d in (0.0, 1e-7) if (name, d) != ("coincident", 1e-7)],
)
def test_forces_of_symmetric_molecules_turn_with_them(name, displacement):
    """In single precision, where what vanishes by symmetry is rounding noise."""
    G, model = symmetric_graphs(displacement=displacement)[name], ManyBodyPotential(3.0, num_channels=8, num_hidden=8)

    def forces(G):
        return forces_on_graph(model, G, 3.0).forces[:, None]

    found = forces(G)
    assert found.isfinite().all()
    loss = found.square().sum()
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [*model.parameters()], materialize_grads=True))
    errors = equivariance_error(forces, G, output_degree=1, output_on="nodes", reflections=True, rotations=2, scale=1.0)
    assert max(errors.values()) < 1e-5


def test_energies_add_up_and_lone_atoms_feel_no_force():
    model, (z, x, batch, cell) = build(), systems()
    first = batch == 0
    with torch.no_grad():
        both, alone = model.predict(z, x, batch, cell), model.predict(z[first], x[first], cell=cell[0])
    torch.testing.assert_close(both.energy[:1], alone.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(both.forces[first], alone.forces, rtol=0, atol=1e-10)
    found = model.predict(torch.tensor([13, 29, 13]), 9.0 * torch.eye(3, dtype=torch.float64), torch.arange(3))
    assert found.energy[0] == found.energy[2] != found.energy[1]
    assert not found.forces.any()
    assert model.predict(z[:0], x[:0]).energy.tolist() == [0]


def test_it_is_saved_with_its_references_and_asses_calculator_takes_its_cutoff(tmp_path):
    model, (z, x, batch, cell) = build(envelope=4), systems()
    model.set_references(z, batch, torch.tensor([-3.0, 5.0]), 2.0)
    model.save_pretrained(tmp_path / "model.pt")
    loaded = AtomicEnergies.from_pretrained(tmp_path / "model.pt")
    assert type(loaded) is ManyBodyPotential
    with pytest.raises(ValueError, match="expected a Potential, got a ManyBodyPotential"):
        Potential.from_pretrained(tmp_path / "model.pt")
    assert (loaded.cutoff, loaded.envelope, loaded.config) == (CUTOFF, 4, model.config)
    for ours, theirs in zip(loaded.predict(z, x, batch, cell), model.predict(z, x, batch, cell), strict=True):
        assert torch.equal(ours, theirs)
    calculator = ModelCalculator(loaded)
    assert (calculator.cutoff, calculator.envelope) == (CUTOFF, 4)


def test_with_a_plan_it_is_the_same_and_no_value_is_looked_at():
    model, G = build(), graph()
    assert torch.equal(model(G, plan=Plan(G)), model(G))
    G.ndata["z"] = torch.zeros_like(G.ndata["z"])
    with pytest.raises(RuntimeError, match="z must be 1 to 118"):
        model(G, plan=Plan(G))


def test_energies_are_exported():
    assert_is_exported_for_structures_of_all_sizes(build(), strict=False)


def test_energies_and_their_gradients_are_one_graph_to_the_compiler():
    model, G, found = build(), graph(), []
    for function in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        d = G.edata["d"].detach().requires_grad_()
        of_d = graph()
        of_d.edata["d"] = d
        of_d.ndata.pop("x")  # so that derivatives flow to d
        energy = function(of_d)
        found.append([energy, *torch.autograd.grad(energy.sum(), [d, *model.parameters()])])
    for compiled, plain in zip(*found, strict=True):
        torch.testing.assert_close(compiled, plain)
