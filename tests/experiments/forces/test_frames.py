import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from equivariant_attention.graphs import graph_of_node
from experiments.forces.frames import Frames, collate, labels, read_frames


def labelled(atoms):
    """A copy with what EMT says of it."""
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=0)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    if atoms.pbc.any():
        results["stress"] = atoms.get_stress()
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def structures():
    return [labelled(atoms) for atoms in (bulk("Cu", cubic=True), bulk("Al", cubic=True), molecule("H2O"))]


def test_labels_come_back_from_a_file(tmp_path):
    frames = structures()
    write(tmp_path / "some.extxyz", frames)
    for read, atoms in zip(read_frames(str(tmp_path / "some.extxyz")), frames, strict=True):
        found = labels(read, "here")
        assert found["energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(found["forces"], atoms.get_forces(), atol=1e-6)
        if atoms.pbc.any():
            np.testing.assert_allclose(found["stress"], atoms.get_stress(voigt=False), atol=1e-6)
        else:
            assert found["stress"] is None


@pytest.mark.parametrize("virial", ["virial", "REF_virial"])
def test_labels_under_other_names_and_virials(virial):
    atoms = labelled(bulk("Cu", cubic=True))
    other = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    other.info = {"REF_energy": -3.0, virial: -atoms.get_volume() * atoms.get_stress(voigt=False).flatten()}
    other.arrays["REF_forces"] = atoms.get_forces()
    found = labels(other, "here")
    assert found["energy"] == -3
    np.testing.assert_allclose(found["stress"], atoms.get_stress(voigt=False), atol=1e-12)


@pytest.mark.parametrize("name", ["REF_virial", "REF_stress"])
def test_a_molecule_has_no_stress_whatever_its_file_says(name):
    atoms = labelled(molecule("H2O"))
    atoms.info[name] = np.zeros(9)
    assert labels(atoms, "here")["stress"] is None


def test_energies_are_counted_from_those_of_the_elements_and_batches_are_side_by_side():
    frames = structures()
    data = Frames(frames, "here", 3.0)
    G, plan, cell, energy, forces, stress, has_stress = collate([data[i] for i in (2, 0)])
    z, x, batch = G.ndata["z"], G.ndata["x"][:, 0], graph_of_node(G)
    assert z.tolist() == [8, 1, 1, 29, 29, 29, 29]
    assert batch.tolist() == [0] * 3 + [1] * 4
    src, dst = G.edges()
    assert torch.equal(x[dst] - x[src] - G.edata["offset"], G.edata["d"])
    assert torch.equal(plan.dst, dst)
    assert not G.edata["offset"][:6].any()
    assert G.edata["offset"][6:].any()
    assert collate([data[2]])[2] is None  # where nothing repeats there is no cell
    assert has_stress.tolist() == [False, True]
    np.testing.assert_array_equal(x[3:], frames[0].positions)
    np.testing.assert_array_equal(cell[1], frames[0].cell.array)
    np.testing.assert_array_equal(forces[:3], frames[2].get_forces())
    np.testing.assert_array_equal(stress[1], frames[0].get_stress(voigt=False))
    of_elements = torch.zeros(2, dtype=torch.float64).index_add(0, batch, data.reference[z])
    whole = [frames[2].get_potential_energy(), frames[0].get_potential_energy()]
    np.testing.assert_allclose(energy + of_elements, whole, atol=1e-10)


def without(**changes):
    atoms = labelled(bulk("Cu", cubic=True))
    atoms.calc.results.update(changes)
    return atoms


def still(atoms):
    """With labels of 0, for what EMT knows nothing of."""
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((len(atoms), 3)))
    return atoms


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("Cu"), "here, structure 1: expected energy and forces, under one of"),
        (without(energy=float("nan")), "here, structure 1: expected finite numbers, got NaN or infinity"),
        (without(forces=np.zeros((3, 3))), r"here, structure 1: expected forces \[4, 3\], got \[3, 3\]"),
        (without(energy=np.zeros(4)), "here, structure 1: expected one energy, got 4"),
        (without(energy="low"), "here, structure 1: could not convert string to float"),
        (still(Atoms("X")), r"here, structure 1: expected elements 1 to 118, got \[0\]"),
        (still(Atoms("Cu", pbc=True)), "here, structure 1: expected a periodic cell with a volume"),
        (still(Atoms("Cu", cell=[[9, 0, 0], [9, 0, 0], [0, 0, 9]], pbc=True)), "a periodic cell with a volume"),
        (without(stress=np.zeros(5)), r"here, structure 1: expected 6 or 9 numbers of a stress or virial, got \[5\]"),
    ],
)
def test_what_is_missing_or_wrong_is_refused(atoms, message):
    with pytest.raises(ValueError, match=message):
        Frames([atoms], "here", 3.0)


def test_files_that_are_none(tmp_path):
    (tmp_path / "text.extxyz").write_text("no structures\n")
    with pytest.raises(ValueError, match=r"text\.extxyz: ASE cannot read it"):
        read_frames(str(tmp_path / "text.extxyz"))
    (tmp_path / "endless.extxyz").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"endless\.extxyz: expected a file"):
        read_frames(str(tmp_path / "endless.extxyz"))
    with pytest.raises(FileNotFoundError):
        read_frames(str(tmp_path / "none.extxyz"))
