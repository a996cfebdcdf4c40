"""The ASE calculator against the model itself, finite differences, and a larger periodic cell."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ase")

from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

from equivariant_attention.ase_calculator import ModelCalculator
from equivariant_attention.models import Potential
from equivariant_attention.neighbors import radius_graph
from experiments.forces.dynamics import conservation, moving_atoms
from experiments.forces.models import SE3Transformer

CUTOFF = 3.0


def model(x_ij=None, dtype=torch.float64):
    return SE3Transformer(num_layers=1, num_channels=4, num_degrees=2, n_heads=1, x_ij=x_ij, cutoff=CUTOFF).to(dtype)


def finite_difference(atoms, atom, axis, step=1e-6):
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[atom, axis] += sign * step
        energies.append(moved.get_potential_energy())
    return -(energies[0] - energies[1]) / (2 * step)


@pytest.mark.parametrize("envelope", [6, None])
def test_a_molecule_is_the_radius_graph(envelope):
    energy, atoms = model("cat"), molecule("CH3CH2OH")
    atoms.calc = ModelCalculator(energy, CUTOFF, envelope)
    x = torch.from_numpy(atoms.positions).requires_grad_()
    G = radius_graph(x, CUTOFF, envelope=envelope)
    G.ndata["z"] = torch.from_numpy(atoms.numbers).long()
    expected = energy(G)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    assert abs(atoms.get_potential_energy() - expected.item()) < 1e-12
    np.testing.assert_allclose(atoms.get_forces(), -gradient.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("x_ij", [None, "add", "cat"])
def test_forces_across_periodic_boundaries_are_finite_differences(x_ij):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = ModelCalculator(model(x_ij), CUTOFF)
    forces = atoms.get_forces()
    assert abs(forces).max() > 1e-3
    for atom, axis in ((0, 0), (1, 2), (3, 1)):
        assert abs(forces[atom, axis] - finite_difference(atoms, atom, axis)) < 1e-6


@pytest.mark.parametrize("x_ij", [None, "cat"])
def test_stress_is_that_of_strained_cells_in_the_order_and_sign_of_ase(x_ij):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = ModelCalculator(model(x_ij), CUTOFF)
    stress = atoms.get_stress()
    assert abs(stress).max() > 1e-4
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-6), rtol=0, atol=1e-7)


def test_cells_relax_and_what_has_no_volume_has_no_stress():
    atoms = bulk("Cu", cubic=True)
    atoms.calc = ModelCalculator(model(), CUTOFF)
    before = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(steps=3)
    assert atoms.get_potential_energy() < before
    for cell, pbc in (([9, 9, 9], False), ([9, 9, 0], [True, True, False])):
        flat = Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=cell, pbc=pbc, calculator=ModelCalculator(model(), CUTOFF))
        with pytest.raises(PropertyNotImplementedError):
            flat.get_stress()


def test_a_larger_cell_and_moved_images_are_the_same():
    energy, atoms = model("cat"), bulk("Cu", cubic=True)  # of 3.6 Å: edges lead to several images of one atom
    atoms.rattle(0.1, seed=0)
    larger, moved = atoms.repeat((2, 1, 1)), atoms.copy()
    moved.positions[1] += atoms.cell[0] - 2 * atoms.cell[2]
    for image in (atoms, larger, moved):
        image.calc = ModelCalculator(energy, 4.0)
    assert abs(larger.get_potential_energy() - 2 * atoms.get_potential_energy()) < 1e-10
    assert abs(moved.get_potential_energy() - atoms.get_potential_energy()) < 1e-10
    np.testing.assert_allclose(larger.get_forces(), np.tile(atoms.get_forces(), (2, 1)), rtol=0, atol=1e-10)
    np.testing.assert_allclose(moved.get_forces(), atoms.get_forces(), rtol=0, atol=1e-10)


def test_a_short_simulation_conserves_energy_momentum_and_angular_momentum():
    x = molecule("CH3CH2OH").positions
    drift = conservation(moving_atoms(model("cat"), x, temperature=300, seed=0), timestep=0.5, steps=50)
    assert drift["kinetic_energy"] > 0.01
    assert drift["momentum"] < 1e-13
    assert drift["angular_momentum"] < 1e-13
    assert drift["energy"] < 1e-3 * drift["kinetic_energy"]


def test_atoms_without_neighbours_no_atoms_and_single_precision():
    for atoms in (Atoms("Ar"), Atoms("Ar2", [[0, 0, 0], [0, 0, 9]]), Atoms()):
        atoms.calc = ModelCalculator(model(dtype=torch.float32), CUTOFF)
        assert atoms.get_potential_energy() == 0
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert not atoms.get_forces().any()


def test_nothing_is_left_on_the_model_or_the_atoms():
    energy, atoms = model(), molecule("H2O")
    before = atoms.copy()
    atoms.calc = ModelCalculator(energy, CUTOFF)
    with torch.no_grad():
        atoms.get_forces()
    assert atoms == before
    assert all(p.grad is None and p.requires_grad for p in energy.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_forces_where_gradients_are_off(mode):
    atoms = molecule("H2O")
    atoms.calc = ModelCalculator(model("cat"), CUTOFF)
    expected = atoms.get_forces()
    atoms.calc.reset()
    with mode():
        np.testing.assert_allclose(atoms.get_forces(), expected, rtol=0, atol=1e-14)


def test_a_potential_brings_its_cutoff_and_another_is_refused():
    potential = Potential(3.5, {0: 4, 1: 4}, num_embedding=4, num_radial=4, div=2, envelope=5).double()
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = ModelCalculator(potential)
    assert (atoms.calc.cutoff, atoms.calc.envelope) == (3.5, 5)
    x, cell = torch.from_numpy(atoms.positions), torch.from_numpy(atoms.cell.array)
    found = potential.predict(torch.from_numpy(atoms.numbers), x, cell=cell)
    assert abs(atoms.get_potential_energy() - found.energy.item()) < 1e-12
    np.testing.assert_allclose(atoms.get_forces(), found.forces.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), found.stress[0].detach().numpy(), rtol=0, atol=1e-12)
    assert ModelCalculator(potential, cutoff=3.5, envelope=5).cutoff == 3.5
    for given, message in (
        ({"cutoff": 3.0}, r"cutoff must be that of the model, 3\.5, got 3\.0"),
        ({"envelope": 6}, "envelope must be that of the model, 5, got 6"),
        ({"envelope": None}, "envelope must be that of the model, 5, got None"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelCalculator(potential, **given)


FLAT = {
    "two alike": ([[5, 0, 0], [5, 0, 0], [0, 0, 5]], True),
    "two alike, one periodic": ([[5, 0, 0], [10, 0, 0], [0, 0, 5]], [True, False, False]),
    "two alike, none periodic": ([[5, 0, 0], [-5, 0, 0], [0, 0, 0]], False),
    "three in a plane": ([[5, 0, 0], [0, 5, 0], [5, 5, 0]], True),
    "almost in a plane": ([[5, 0, 0], [0, 5, 0], [5, 5, 1e-9]], True),
    "of no length, almost": ([1e-9, 5, 5], True),
    "of a length whose square is 0": ([1e-300, 5, 5], False),
}


@pytest.mark.parametrize(("cell", "pbc"), FLAT.values(), ids=FLAT)
def test_flat_cells_are_refused(cell, pbc):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=cell, pbc=pbc, calculator=ModelCalculator(model(), CUTOFF))
    with pytest.raises(ValueError, match=r"atoms\.cell must have vectors that no plane or line holds"):
        atoms.get_potential_energy()


@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e200])
def test_cells_that_are_not_finite_are_refused(number, pbc):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[number, 5, 5], pbc=pbc)
    atoms.calc = ModelCalculator(model(), CUTOFF)
    with pytest.raises(ValueError, match=r"atoms\.cell must be finite and at most 1e\+18"):
        atoms.get_forces()


@pytest.mark.parametrize("cell", [[[5, 0, 0], [4.9, 0.8, 0], [0, 0, 40]], [[9, 0, 0], [0, 0, 0], [0, 0, 0]]])
def test_oblique_and_partly_periodic_cells_are_allowed(cell):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=cell, pbc=np.any(cell, axis=1))
    atoms.calc = ModelCalculator(model(), CUTOFF)
    assert np.isfinite(atoms.get_forces()).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module with parameters, got function"):
        ModelCalculator(lambda G: G, 3.0)
    for cutoff in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"cutoff must be (larger than 0|finite)"):
            ModelCalculator(model(), cutoff)
    with pytest.raises(ValueError, match="envelope must be a whole number of at least 1"):
        ModelCalculator(model(), CUTOFF, envelope=0)
    flat = Atoms("Ar", pbc=[True, False, False])
    flat.calc = ModelCalculator(model(), CUTOFF)
    with pytest.raises(ValueError, match=r"atoms\.cell must have a vector for every periodic direction"):
        flat.get_potential_energy()
    lost = Atoms("Ar2", [[0, 0, 0], [0, 0, np.nan]], calculator=ModelCalculator(model(), CUTOFF))
    with pytest.raises(ValueError, match="atoms must have finite positions"):
        lost.get_forces()

    class PerAtom(nn.Linear):
        def forward(self, G):
            return G.ndata["x"].sum((1, 2))

    many = Atoms("Ar2", [[0, 0, 0], [0, 0, 1]], calculator=ModelCalculator(PerAtom(1, 1), CUTOFF))
    with pytest.raises(ValueError, match=r"model must give one energy of each graph, 1 in all, got \[2\]"):
        many.get_forces()
