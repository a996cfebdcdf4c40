import re

import numpy as np
import pytest
from rdkit import Chem

from experiments.qm9 import bonds
from experiments.qm9.structures import read
from tests.experiments.qm9.cases import rdkit_molecule

WATER = "O 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Bonds without worker processes, which take seconds to start."""
    monkeypatch.setattr(
        bonds, "_in_workers", lambda molecules, *_: map(bonds.perceive_one, *zip(*molecules, strict=True))
    )


def read_text(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return read([str(path)])


def test_xyz_with_several_molecules(tmp_path):
    first, second = read_text(tmp_path, "two.xyz", f"3\nwater\n{WATER}\n\n2\n\n1 0 0 0 extra columns\nF 0 0 0.92\n")
    assert (first.name, second.name) == ("two.xyz:1", "two.xyz:2")
    assert first.problem is second.problem is None
    assert first.molecule.numbers.tolist() == [8, 1, 1]
    assert first.molecule.bonds.tolist() == [[0, 1], [0, 2]]
    assert first.molecule.perceived.all()
    assert second.molecule.numbers.tolist() == [1, 9]
    np.testing.assert_array_equal(second.molecule.positions, [[0, 0, 0], [0, 0, 0.92]])


def test_xyz_of_qm9_itself(tmp_path):
    water = "".join(f"{line} -0.4\n" for line in WATER.replace("0.93", "9.3*^-1").splitlines())
    text = f"3\ngdb 3 799.5 437.9\n{water}1671.4 3803.0\nO\tO\nInChI=1S/H2O\tInChI=1S/H2O\n"
    structures = read_text(tmp_path, "dsgdb9nsd_000003.xyz", text * 2)
    assert [s.name for s in structures] == ["gdb_3", "gdb_3"]
    assert structures[1].molecule.positions[2, 1] == 0.93


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2\n\nCl 0 0 0\nH 0 0 1.27\n", "numbers: expected .1, 6, 7, 8, 9., got .* 17"),
        ("2\n\nXx 0 0 0\nH 0 0 1\n", "no element 'Xx'"),
        ("2\n\nH 0 0 0\nH 0 0 nan\n", "positions: expected finite"),
        ("2\n\nH 0 0 0\nH 0 0 0.01\n", "expected atoms 0.3 to 10000 Å from each other"),
        ("2\n\nH 0 0 0\nH 0 0 1e300\n", "expected atoms 0.3 to 10000 Å from each other"),
        ("2\n\nH 0 0 0\nH 0 0 one\n", "could not convert"),
        ("2\n\nH 0 0\nH 0 0\n", "expected an element and three coordinates"),
        ("2\n\nH 0 0 0\nH 0 0\n", "zip"),
        ("0\n\n", "expected 1 lines of atoms, got 0"),
    ],
)
def test_a_bad_molecule_leaves_the_next_alone(tmp_path, text, problem):
    bad, good = read_text(tmp_path, "some.xyz", f"{text}3\nwater\n{WATER}")
    assert bad.molecule is None
    assert bad.name == "some.xyz:1"
    assert re.search(problem, bad.problem)
    assert good.problem is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [("3\nwater\nO 0 0 0\n", "3 lines of atoms, got 1"), ("x\n", "line 6: expected a number of atoms, got 'x'")],
)
def test_what_ends_too_early_or_has_no_beginning(tmp_path, text, problem):
    good, bad = read_text(tmp_path, "some.xyz", f"3\nwater\n{WATER}{text}")
    assert good.problem is None
    assert problem in bad.problem


def test_sdf_knows_its_bonds(tmp_path):
    path = tmp_path / "some.sdf"
    flat = Chem.MolFromSmiles("CC=O")
    without_hydrogen = Chem.RemoveHs(rdkit_molecule("CC=O"))
    with Chem.SDWriter(str(path)) as writer:
        for molecule in (rdkit_molecule("CC=O"), flat, without_hydrogen, rdkit_molecule("c1ccoc1")):
            writer.write(molecule)
    content = path.read_text().replace("$$$$\n", "$$$$\nbroken\n\n\n  1  0\nnonsense\n$$$$\n", 1)
    path.write_text(content)
    good, broken, *others, furan = read([str(path)])
    assert good.name == "some.sdf:1"
    assert sorted(good.molecule.bond_types.tolist()) == [0, 0, 0, 0, 0, 1]
    assert broken.problem == "RDKit makes no sense of it"
    assert [s.problem for s in others] == ["expected all hydrogen atoms, some are left out"] * 2
    assert (furan.molecule.bond_types == 3).sum() == 5


def test_smiles_get_hydrogen_atoms_and_a_geometry():
    ethanol, nonsense, ammonium, pair, chlorine = read(["CCO", "C(", "[NH4+]", "O.O", "CCl"])
    assert ethanol.molecule.num_atoms.tolist() == [9]
    assert ethanol.name == "CCO"
    assert "neither a file nor a SMILES" in nonsense.problem
    assert ammonium.problem == "expected a neutral molecule, got one of charge +1"
    assert pair.problem == "expected one molecule, got several"
    assert "numbers: expected" in chlorine.problem


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    (tmp_path / "some.txt").write_text(WATER)
    (tmp_path / "bytes.xyz").write_bytes(b"\xff\xfe\xff")
    missing, missing_sdf, other, binary = read(
        [f"{tmp_path}/{n}" for n in ("no.xyz", "no.sdf", "some.txt", "bytes.xyz")]
    )
    for structure in (missing, missing_sdf, binary):
        assert structure.problem.startswith("cannot be read: ")
    assert other.problem == "expected a file that ends in .xyz, .sdf, .mol, or a SMILES"


def test_what_rdkit_cannot_bond_keeps_single_bonds(tmp_path):
    (structure,) = read_text(tmp_path, "ch.xyz", "2\nCH, a radical\nC 0 0 0\nH 0 0 1.1\n")
    assert structure.problem is None
    assert structure.molecule.bonds.tolist() == [[0, 1]]
