import numpy as np
import pytest
from rdkit import Chem

from experiments.qm9.bonds import bonds_of, perceive_one
from experiments.qm9.sources import EMBEDDED, embedded
from experiments.qm9.targets import ELEMENTS, HARTREE

SMILES = EMBEDDED.with_suffix(".smi").read_text().split()


@pytest.fixture(scope="module")
def molecules():
    return embedded()


def rows(molecules, every):
    return [molecules.take(np.array([row])) for row in range(0, len(molecules), every)]


def test_is_small_and_has_every_molecule_of_the_list_once(molecules):
    assert EMBEDDED.stat().st_size < 500_000
    assert molecules.names.tolist() == SMILES
    assert len(set(SMILES)) == len(SMILES)
    assert molecules.perceived.all()
    assert {*np.unique(molecules.numbers)} == {*ELEMENTS}
    heavy = np.bincount(np.repeat(np.arange(len(molecules)), molecules.num_atoms), weights=molecules.numbers > 1)
    assert heavy.max() == 9
    sizes = np.bincount(molecules.split) / len(molecules)
    np.testing.assert_allclose(sizes, [0.8, 0.1, 0.1], atol=0.005)


def test_atoms_and_bonds_are_those_of_the_smiles(molecules):
    for one in rows(molecules, 7):
        expected = Chem.AddHs(Chem.MolFromSmiles(one.names[0]))
        assert one.numbers.tolist() == [atom.GetAtomicNum() for atom in expected.GetAtoms()]
        for found, wanted in zip((one.bonds, one.bond_types), bonds_of(expected), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_positions_have_these_bonds_by_distance(molecules):
    for one in rows(molecules, 7):
        pairs, *_ = perceive_one(one.numbers, one.positions)
        assert {*map(frozenset, pairs.tolist())} == {*map(frozenset, one.bonds.tolist())}, one.names[0]


def test_labels_fit_together(molecules):
    targets = molecules.targets
    assert {*targets} == {"atomisation", "homo", "lumo", "gap", "mu", "dipole"}
    assert all(np.isfinite(values).all() for values in targets.values())
    np.testing.assert_allclose(targets["gap"], targets["lumo"] - targets["homo"], atol=3e-6)
    np.testing.assert_allclose(targets["mu"], np.linalg.norm(targets["dipole"], axis=1), atol=3e-6)
    assert (targets["atomisation"] < 0).all()
    assert (targets["gap"] > 0).all()
    assert targets["mu"][molecules.names == "c1ccccc1"] < 0.01


@pytest.fixture
def generate():
    pytest.importorskip("tblite")
    pytest.importorskip("ase")
    from experiments.qm9.embedded import generate

    return generate


def test_labels_can_be_made_again(molecules, generate):
    for one in rows(molecules, 100):
        for name, value in generate.labels(one.numbers, one.positions).items():
            np.testing.assert_allclose(one.targets[name][0], value, atol=1e-4, err_msg=f"{name} of {one.names[0]}")


@pytest.mark.parametrize("smiles", ["O", "C#N", "C=O", "c1ccccc1", "C1CC1"])
def test_rigid_molecules_can_be_made_again(molecules, generate, smiles):
    (row,) = np.flatnonzero(molecules.names == smiles)
    made, stored = generate.make(smiles), molecules.take(np.array([row]))
    for name in ("num_atoms", "numbers", "bonds", "bond_types"):
        np.testing.assert_array_equal(getattr(made, name), getattr(stored, name))
    distances = [np.linalg.norm(m.positions[:, None] - m.positions, axis=-1) for m in (made, stored)]
    np.testing.assert_allclose(*distances, atol=0.02)
    for name in ("atomisation", "homo", "mu"):
        np.testing.assert_allclose(made.targets[name], stored.targets[name], atol=0.02, err_msg=name)


def test_free_atoms(generate):
    assert generate.free_atom(1) / HARTREE == pytest.approx(-0.393482764)  # as published for GFN2-xTB


def test_geometries_are_minima(generate):
    numbers, positions = np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 0.9]])
    first, second = generate.optimised(numbers, positions)
    assert np.linalg.norm(first - second) == pytest.approx(0.777, abs=0.005)


def test_what_rearranges_is_refused(generate, monkeypatch):
    monkeypatch.setattr(generate, "optimised", lambda numbers, positions: 3 * positions)
    with pytest.raises(ValueError, match="has other bonds"):
        generate.make("O")
