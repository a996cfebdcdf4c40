import csv
import json
from importlib.util import find_spec

import numpy as np
import pytest

from experiments.qm9 import bonds, packaged
from experiments.qm9.packaged import COLUMNS, from_qm9pack
from experiments.qm9.targets import ELEMENTS, HARTREE, free_atoms
from tests.experiments.qm9.cases import SHARED, table
from utils.hashes import sha256

IDS = (3, 5, 8, 21, 34, 55)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of six molecules, which cannot be imported."""
    folder, molecules = tmp_path / "site" / "qm9pack", table()
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('the package is not to be imported')")
    fields = ["Index", "Elements", "XYZ_Ang", *COLUMNS.values()]
    for part, name in enumerate(packaged.FILES):
        with open(folder / "data" / name, "w", newline="") as file:
            writer = csv.DictWriter(file, fields, quoting=csv.QUOTE_NONNUMERIC)
            writer.writeheader()
            writer.writerows(row_of(molecules, row) for row in (2 * part, 2 * part + 1))
    (tensors,) = packaged.TENSORS
    rows = [",".join([f'"dsgdb9nsd_{number:06}.xyz"', *(f"{number}.{k}" for k in range(6))]) for number in IDS]
    (folder / "data" / tensors).write_text("\n".join(["XYZ_file,A_xx,A_xy,A_yy,A_xz,A_yz,A_zz", *rows]))
    hashes = {
        kind: {name: sha256(folder / "data" / name) for name in getattr(packaged, kind)}
        for kind in ("FILES", "TENSORS")
    }
    for name, value in {**hashes, "MOLECULES": 6, "TRAIN": 3, "VALID": 2}.items():
        monkeypatch.setattr(packaged, name, value)
    monkeypatch.setattr(bonds, "_in_workers", lambda some, *_: map(bonds.perceive_one, *zip(*some, strict=True)))
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def row_of(molecules, row):
    atoms = slice(*molecules.first_atom[row : row + 2])
    elements = str([ELEMENTS[number] for number in molecules.numbers[atoms]]).replace(" ", "")
    usual = {"homo": -0.25, "gap": 0.25, "lumo": 0.02, "zpve": 0.01 * (atoms.stop - atoms.start)}
    usual |= {"alpha": 4.0 * (atoms.stop - atoms.start), "cv": 1.7 * (atoms.stop - atoms.start)}
    usual |= dict.fromkeys(("u0", "u298", "h298", "g298"), -30.0 * (atoms.stop - atoms.start))
    targets = {column: usual.get(name, 1.0) for name, column in COLUMNS.items()}
    positions = json.dumps(molecules.positions[atoms].tolist())
    return {"Index": IDS[row], "Elements": elements, "XYZ_Ang": positions, **targets}


def test_the_package_is_read_without_being_imported(package):
    found, expected = from_qm9pack(None), table()
    assert [*found.names] == [f"gdb_{number}" for number in IDS]
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_array_equal(found.num_bonds, expected.num_bonds)
    np.testing.assert_allclose(found.targets["homo"], -0.25 * HARTREE)
    energies = -30.0 * HARTREE * expected.num_atoms - free_atoms("u0", expected.num_atoms, expected.numbers)
    np.testing.assert_allclose(found.targets["u0"], energies)
    assert found.targets.keys() == {*COLUMNS, "polarizability"}
    tensor = [[0, 1, 3], [1, 2, 4], [3, 4, 5]]
    np.testing.assert_allclose(
        found.targets["polarizability"], [[[n + k / 10 for k in row] for row in tensor] for n in IDS]
    )
    assert np.bincount(found.split).tolist() == [3, 2, 1]


def test_the_cache_needs_no_package(package, tmp_path):
    made = from_qm9pack(tmp_path / "cache")
    for path in package.rglob("*.*"):
        path.unlink()
    again = from_qm9pack(tmp_path / "cache")
    for name, array in made.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_other_files_are_refused(package):
    path = package / "data" / "qm9_part2.csv"
    path.write_text(path.read_text().replace("gap", "Gap") + "\n")
    with pytest.raises(ValueError, match=r"qm9_part2\.csv: expected the file of qm9pack 1\.0\.3, got none or another"):
        from_qm9pack(None)
    path.unlink()
    with pytest.raises(ValueError, match=r"qm9_part2\.csv: expected"):
        from_qm9pack(None)


def test_fewer_molecules_are_refused(package, monkeypatch):
    monkeypatch.setattr(packaged, "MOLECULES", 7)
    with pytest.raises(ValueError, match="expected the 7 molecules of QM9, got 6"):
        from_qm9pack(None)


def test_a_molecule_without_its_tensor_is_refused(package, monkeypatch):
    (name,) = packaged.TENSORS
    path = package / "data" / name
    path.write_text(path.read_text().rpartition("\n")[0])
    monkeypatch.setattr(packaged, "TENSORS", {name: sha256(path)})
    with pytest.raises(ValueError, match="expected the polarizability of every molecule, got none of gdb_55"):
        from_qm9pack(None)


def test_no_package(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="qm9pack is not installed: pip install qm9pack"):
        from_qm9pack(None)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists() or find_spec("qm9pack") is None, reason="needs qm9pack and shared data")
def test_the_package_agrees_with_other_copies_of_qm9(monkeypatch):
    """Geometries, HOMO energies and all targets, in their units; and nothing is missing."""
    monkeypatch.setattr(packaged, "with_bonds", lambda molecules, *_: molecules)  # which take minutes
    found = from_qm9pack(None)
    first = found.first_atom
    place = {name: row for row, name in enumerate(found.names)}
    for file, names in (("qm9_homo.npz", ("homo",)), ("qm9_all_targets.npz", ("homo", "mu", "alpha", "r2", "cv"))):
        other = np.load(SHARED / file)
        rows = np.array([place[f"gdb_{number}"] for number in other["idx"]])
        np.testing.assert_array_equal(found.num_atoms[rows], other["N"])
        for name in names:
            factor = HARTREE if name == "homo" else 1.0
            np.testing.assert_allclose(found.targets[name][rows], factor * other[name], rtol=1e-5, atol=1e-6)
        atoms = np.concatenate([np.arange(first[row], first[row + 1]) for row in rows])
        np.testing.assert_array_equal(found.numbers[atoms], other["Z"])
        np.testing.assert_allclose(found.positions[atoms], other["R"], atol=2e-6)
