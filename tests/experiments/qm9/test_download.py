import os
import zipfile

import numpy as np
import pytest
import torch
from rdkit import Chem

from experiments.qm9 import download
from experiments.qm9.bonds import bonds_of
from experiments.qm9.download import from_download
from tests.experiments.qm9.cases import rdkit_molecule
from tests.experiments.runs import lock_held
from utils.hashes import record

COLUMNS = "mol_id,A,B,C,mu,alpha,homo,lumo,gap,r2,zpve,u0,u298,h298,g298,cv,u0_atom,u298_atom,h298_atom,g298_atom"
SMILES = ("C", "CC=O", "O", "c1ccoc1")


@pytest.fixture
def web(monkeypatch, tmp_path):
    """Files in the form of QM9's, of four molecules of which the third is uncharacterised, and who asked for them."""
    writer = Chem.SDWriter(str(tmp_path / "gdb9.sdf"))
    writer.SetKekulize(False)
    for number, smiles in enumerate(SMILES):
        molecule = rdkit_molecule(smiles)
        molecule.SetProp("_Name", f"gdb_{number + 1}")
        writer.write(molecule)
    writer.close()
    rows = [
        ",".join([f"gdb_{row + 1}", *(str(100 * row + column) for column in range(19))]) for row in range(len(SMILES))
    ]
    (tmp_path / "gdb9.sdf.csv").write_text("\n".join([COLUMNS, *rows, ""]))
    with zipfile.ZipFile(tmp_path / "qm9.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("gdb9.sdf", "gdb9.sdf.csv"):
            archive.write(tmp_path / name, name)
    (tmp_path / "uncharacterized.txt").write_text("header\n" * 9 + "3  O\n\n")
    asked = []

    def fetch(url, path, sha256=None, progress=False):
        if not path.exists():
            asked.append(path.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((tmp_path / path.name).read_bytes())
        return path

    monkeypatch.setattr(download, "download", fetch)
    monkeypatch.setattr(download, "MOLECULES", 3)
    monkeypatch.setattr(download, "TRAIN", 1)
    monkeypatch.setattr(download, "VALID", 1)
    return asked


def test_molecules_bonds_and_units(web, tmp_path):
    found = from_download(tmp_path / "cache")
    assert [*found.names] == ["gdb_1", "gdb_2", "gdb_4"]
    assert sorted(found.split) == [0, 1, 2]
    expected = rdkit_molecule("c1ccoc1")
    furan = found.take(np.array([2]))
    assert furan.numbers.tolist() == [atom.GetAtomicNum() for atom in expected.GetAtoms()]
    np.testing.assert_allclose(furan.positions, expected.GetConformer().GetPositions(), atol=1e-4)
    pairs, types = bonds_of(expected)
    assert sorted(map(tuple, furan.bonds)) == sorted(map(tuple, np.sort(pairs, axis=1)))
    assert sorted(furan.bond_types) == sorted(types)
    # Column c of row r holds 100 r + c: mu is column 3, homo 5, cv 14, u0_atom 15.
    np.testing.assert_allclose(found.targets["mu"], [3, 103, 303])
    np.testing.assert_allclose(found.targets["homo"], np.array([5, 105, 305]) * 27.211386, rtol=1e-6)
    np.testing.assert_allclose(found.targets["cv"], [14, 114, 314])
    np.testing.assert_allclose(found.targets["u0"], np.array([15, 115, 315]) * 0.0433641, rtol=1e-5)


def test_what_is_there_is_not_downloaded_again(web, tmp_path):
    first = from_download(tmp_path / "cache")
    assert web == ["uncharacterized.txt", "qm9.zip"]
    second = from_download(tmp_path / "cache")
    assert web == ["uncharacterized.txt", "qm9.zip"]
    np.testing.assert_array_equal(first.positions, second.positions)


@pytest.mark.parametrize("damage", [lambda content: content[:1000], lambda content: b"", lambda content: content[::-1]])
def test_a_damaged_cache_is_made_anew(web, tmp_path, damage):
    expected = from_download(tmp_path / "cache")
    kept = tmp_path / "cache" / "processed" / "molecules.npz"
    kept.write_bytes(damage(kept.read_bytes()))
    with pytest.warns(UserWarning, match="is not the cache it should be, reading QM9 again"):
        found = from_download(tmp_path / "cache")
    np.testing.assert_array_equal(expected.positions, found.positions)
    from_download(tmp_path / "cache")  # whole again: no warning


def test_damaged_archives_are_reported_and_removed(web, tmp_path):
    whole = (tmp_path / "qm9.zip").read_bytes()
    for damaged in (whole[:500], b"<html>", whole[:200] + b"\0" * 50 + whole[250:]):
        (tmp_path / "qm9.zip").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"qm9.zip was damaged and is removed, run the same again"):
            from_download(tmp_path / "cache")
        assert not [*(tmp_path / "cache" / "raw").glob("gdb9.sdf")]
    (tmp_path / "qm9.zip").write_bytes(whole)
    assert len(from_download(tmp_path / "cache")) == 3


def test_another_number_of_molecules_is_not_qm9(web, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MOLECULES", 130_831)
    with pytest.raises(ValueError, match="expected the 130,831 molecules of QM9, got 3"):
        from_download(tmp_path / "cache")


def test_a_raw_file_that_has_changed_is_refused(web, tmp_path):
    from_download(tmp_path / "cache")
    raw = tmp_path / "cache" / "raw" / "gdb9.sdf"
    raw.write_text(raw.read_text().replace("0.0", "0.1", 1))
    with pytest.raises(ValueError, match=r"gdb9\.sdf is not as it was written.*; remove it and run the same again"):
        from_download(tmp_path / "cache")
    raw.unlink()
    assert len(from_download(tmp_path / "cache")) == 3


def test_files_that_came_by_other_means_are_read_and_recorded(web, tmp_path):
    from_download(tmp_path / "cache")
    for sums in (tmp_path / "cache").rglob("SHA256SUMS"):
        sums.unlink()
    assert len(from_download(tmp_path / "cache", fetch=False)) == 3
    assert (tmp_path / "cache" / "raw" / "SHA256SUMS").exists()
    assert web == ["uncharacterized.txt", "qm9.zip"]


def test_nothing_is_fetched_unless_that_is_allowed(web, tmp_path):
    with pytest.raises(FileNotFoundError, match="cache does not hold QM9; --source download gets it"):
        from_download(tmp_path / "cache", fetch=False)
    assert web == []
    from_download(tmp_path / "cache")
    (tmp_path / "cache" / "raw" / "gdb9.sdf").unlink()
    with pytest.raises(FileNotFoundError, match="does not hold QM9"):
        from_download(tmp_path / "cache", fetch=False)


def test_two_processes_do_not_make_it_at_once(web, tmp_path):
    (tmp_path / "cache").mkdir()
    with lock_held(tmp_path / "cache"), pytest.raises(BlockingIOError, match="cache is in use by another process"):
        from_download(tmp_path / "cache")


def test_two_processes_read_it_at_once(web, tmp_path):
    from_download(tmp_path / "cache")
    with lock_held(tmp_path / "cache"):
        assert len(from_download(tmp_path / "cache")) == 3


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:.*is not the cache it should be")
@pytest.mark.parametrize("name", ["pre_transform.pt", "pre_filter.pt", "data_v3.pt", "molecules.npz"])
def test_a_folder_of_others_runs_nothing(web, tmp_path, name):
    """PyTorch Geometric would run what is pickled in these."""
    expected = from_download(tmp_path / "cache")
    processed = tmp_path / "cache" / "processed"
    torch.save(Code(tmp_path / "owned"), processed / name)
    record(processed, [name])
    found = from_download(tmp_path / "cache", fetch=False)
    np.testing.assert_array_equal(found.positions, expected.positions)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("gdb9.sdf", b""),
        ("gdb9.sdf", b"nonsense"),
        ("gdb9.sdf", b"\n\n\n  0  0  0     0  0            999 V3000\nM  V30 COUNTS 99999999 0 0 0 0\nM  END\n$$$$\n"),
        ("gdb9.sdf.csv", b""),
        ("gdb9.sdf.csv", COLUMNS.encode() + b"\n" + b"1" * 200_000),
        ("gdb9.sdf.csv", b"mol_id\0,mu\n"),
        ("gdb9.sdf.csv", b"mol_id,mu\ngdb_1,\xff\n"),
        ("gdb9.sdf.csv", COLUMNS.encode() + b"\ngdb_1,1,2\n"),
        ("uncharacterized.txt", b"\n" * 12 + b"x\n\n"),
    ],
)
def test_raw_files_of_something_else_are_refused(web, tmp_path, name, content):
    from_download(tmp_path / "cache")
    (tmp_path / "cache" / "raw" / name).write_bytes(content)
    for made in ("raw/SHA256SUMS", "processed/molecules.npz"):
        (tmp_path / "cache" / made).unlink()
    with pytest.raises((ValueError, OSError)) as caught:
        from_download(tmp_path / "cache", fetch=False)
    assert "cache" in str(caught.value)


@pytest.mark.parametrize("kept", [True, False])
def test_a_folder_that_may_not_be_written_to_is_read(web, tmp_path, monkeypatch, kept):
    expected = from_download(tmp_path / "cache")
    if not kept:
        (tmp_path / "cache" / "processed" / "molecules.npz").unlink()
    monkeypatch.setattr(download.os, "access", lambda *_: False)
    monkeypatch.setattr(download, "make_folder", lambda _: pytest.fail("writes to the folder"))
    np.testing.assert_array_equal(from_download(tmp_path / "cache", fetch=False).positions, expected.positions)
