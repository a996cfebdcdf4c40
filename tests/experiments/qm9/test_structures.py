import re

import numpy as np
import pytest
from rdkit import Chem
from scipy.spatial.distance import pdist

from experiments.qm9 import bonds
from experiments.qm9.structures import read
from tests.experiments.qm9.cases import arrays_of, rdkit_molecule

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
        ("2\n\nCl 0 0 0\nH 0 0 1.27\n", r"numbers: expected .1, 6, 7, 8, 9., got Cl 17 \(known are H, C, N, O, F\)"),
        ("2\n\nXx 0 0 0\nH 0 0 1\n", "no element 'Xx'"),
        ("2\n\nH 0 0 0\nH 0 0 nan\n", "positions: expected finite"),
        ("2\n\nH 0 0 0\nH 0 0 0.01\n", "expected atoms 0.3 to 10000 Å from each other"),
        ("2\n\nH 0 0 0\nH 0 0 1e300\n", "expected atoms 0.3 to 10000 Å from each other"),
        ("2\n\nH 0 0 0\nH 0 0 one\n", "line 4: expected a coordinate, got 'one'"),
        ("2\n\nH 0 0\nH 0 0\n", "expected an element and three coordinates"),
        ("2\n\nH 0 0 0\nH 0 0\n", "line 4: expected an element and three coordinates, got 'H 0 0'"),
        (
            "2\n\nO    100.00000-100.00000-100.11700\nH    100.00000 -99.24300-100.70300\n",
            "line 3: expected an element",
        ),
        ("1\nH atom\nH 0 0 0\n", "no bonds: .* are the coordinates in Å"),
        ("2\nin bohr\nF 0 0 0\nH 0 0 1.74\n", "no bonds: .* are the coordinates in Å"),
        ("2\nlabels\nF1 0 0 0\nH 0 0 0.92\n", "line 3: there is no element 'F1'"),
        ("4\ntwo\nF 0 0 0\nH 0 0 0.92\nF 0 0 9\nH 0 0 9.92\n", "expected one molecule, got several: .* its 2 parts"),
        ("1001\n\n" + "".join(f"H 0 0 {n}\n" for n in range(1001)), "num_atoms: expected at most 1000"),
        ("2\nProperties=species:S:1:forces:R:3\nF 0 0 0\nH 0 0 .92\n", "Properties: expected species:S:1 and pos:R:3"),
        ("2\nProperties=species:S:1:pos:R\nF 0 0 0\nH 0 0 .92\n", "Properties: expected name:type:columns"),
        ("2\nProperties=pos:R:3:species:S:1:q:R:1\n0 0 0 F\n0 0 .92 H\n", "line 3: expected .* in 5 columns"),
        ('2\nLattice="6 0 0 0 6"\nF 0 0 0\nH 0 0 .92\n', "Lattice: expected nine numbers"),
        ('2\nLattice="6 0 0 0 6 0 0 0 nan"\nF 0 0 0\nH 0 0 .92\n', "three vectors of at most 10,000 Å"),
        ('2\nLattice="6 0 0 6 0 0 0 0 6"\nF 0 0 0\nH 0 0 .92\n', "a cell with a volume"),
        ('2\nLattice="6 0 0 0 6 0 0 0 1e-9"\nF 0 0 0\nH 0 0 .92\n', "at least 2.0 Å between faces"),
        ('2\nLattice="9 0 0 0 9 0 0 0 2.1"\nC 0 0 0\nC 0 0 1.1\n', "bonded to their own images"),
        ('2\ncell="6 6 6"\nF 0 0 0\nH 0 0 .92\n', "Lattice: expected nine numbers, got '6 6 6'"),
        ('2\nLattice="6 0 0 0 6 0 0 0 6" pbc=T\nF 0 0 0\nH 0 0 .92\n', "three flags"),
        ('2\npbc="T T T"\nF 0 0 0\nH 0 0 .92\n', "Lattice: expected nine numbers, got None"),
        ('2\nLattice="6 0 0 0 6 0 0 0 6" pbc="T maybe F"\nF 0 0 0\nH 0 0 .92\n', "three flags, T or F"),
        ('2\nLattice="6 0 0 0 6 0 0 0 0"\nF 0 0 0\nH 0 0 .92\n', "three vectors"),
        ('2\nLattice="1e9 0 0 0 6 0 0 0 6"\nF 0 0 0\nH 0 0 .92\n', "three vectors of at most 10,000 Å"),
        ("2\nProperties=species:S:1:pos:R:3:pos:R:3\nF 0 0 0\nH 0 0 .92\n", "Properties: expected name:type:columns"),
        ("2\ncharge=one\nF 0 0 0\nH 0 0 .92\n", "charge: expected a number, got 'one'"),
        ('2\nnote="without an end\nF 0 0 0\nH 0 0 .92\n', 'note: expected a value that ends with "'),
        (f"2\n{'a={ ' * 100_000}\nF 0 0 0\nH 0 0 .92\n", "expected a comment of at most 65,536 letters"),
        ("2\n\nF 0 0 0\nH 0 0 0_1.92\n", "line 4: expected a coordinate, got '0_1.92'"),
        ("2\n\nF 0 0 0\n" + "9" * 5000 + " 0 0 1\n", "line 4: there is no element '9"),
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
    ("comment", "charge"),
    [
        ("charge=1", "+1"), ("total_charge=-2 energy=-3.0", "-2"), ('Charge: "+1"', "+1"), ("charge 1, spin 0", "+1"),
        ('{"charge": -1}', "-1"), ("Properties=species:S:1:pos:R:3 q=1.0", "+1"), ("charge=0", None),
        ("Properties=species:S:1:pos:R:3:charge:R:1 charge=0", None), ("", None), ("the 2nd; charges: none", None),
    ],
)  # fmt: skip
def test_charges_in_comments(tmp_path, comment, charge):
    atoms = WATER.replace("\n", " 0.1\n")
    (structure,) = read_text(tmp_path, "some.xyz", f"3\n{comment}\n{atoms}")
    assert structure.problem == (charge and f"expected a neutral molecule, got one of charge {charge}")


def test_properties_say_where_the_positions_are(tmp_path):
    for columns, atom in (
        ("forces:R:3:species:S:1:pos:R:3", "9 9 9 {} {} {} {} extra"),
        ("Z:I:1:pos:R:3", "{} {} {} {}"),
        ('"tag:L:1:pos:R:3:species:S:1"', "F {1} {2} {3} {0}"),
    ):
        lines = [atom.format(*line.split()) for line in WATER.splitlines()]
        text = "\n".join(lines).replace("O", "8").replace("H", "1") if columns.startswith("Z") else "\n".join(lines)
        (structure,) = read_text(tmp_path, "some.xyz", f"3\nenergy=-1.0 Properties={columns} pbc='F F F'\n{text}\n")
        assert structure.problem is None
        np.testing.assert_array_equal(structure.molecule.positions, [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        assert structure.molecule.numbers.tolist() == [8, 1, 1]


@pytest.mark.parametrize("pbc", ["", 'pbc="T T T"', 'pbc="T T F"', "pbc=[T,T,T]"])
def test_molecules_that_cells_tear_apart_are_put_together(tmp_path, pbc):
    numbers, positions = arrays_of("CC=O")
    cell = np.array([[7.0, 0, 0], [1, 8, 0], [-2, 1, 9]])
    shifts = np.random.default_rng(0).integers(-2, 3, size=positions.shape)
    shifts[:, 2] = 0 if "F" in pbc else shifts[:, 2]
    lines = [f"{z} {a} {b} {c}" for z, (a, b, c) in zip(numbers, (positions + shifts @ cell).tolist(), strict=True)]
    comment = f'Lattice="{" ".join(map(str, cell.ravel()))}" Properties=species:S:1:pos:R:3 {pbc}'
    (structure,) = read_text(tmp_path, "some.xyz", "\n".join([str(len(lines)), comment, *lines]))
    assert structure.problem is None
    np.testing.assert_allclose(pdist(structure.molecule.positions), pdist(positions), atol=1e-9)


def test_a_cell_that_is_not_periodic_changes_nothing(tmp_path):
    (structure,) = read_text(tmp_path, "some.xyz", f'3\nLattice="1 0 0 0 1 0 0 0 1" pbc="F F F"\n{WATER}')
    assert structure.problem is None


def test_isotopes_are_their_elements(tmp_path):
    (structure,) = read_text(tmp_path, "some.xyz", "3\nHDO\n" + WATER.replace("H", "D", 1))
    assert structure.molecule.numbers.tolist() == [8, 1, 1]


@pytest.mark.parametrize("comment", ["gdb ", "gdb", "gdb water", "gdb 3 and no trailer"])
def test_comments_that_begin_as_qm9_s(tmp_path, comment):
    structures = read_text(tmp_path, "some.xyz", f"3\n{comment}\n{WATER}" * 2)
    assert [s.problem for s in structures] == [None, None]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1", "utf-8"])
def test_every_encoding_of_text(tmp_path, encoding):
    (tmp_path / "some.xyz").write_text(f"3\nméthanol\n{WATER}", encoding=encoding)
    block = Chem.MolToMolBlock(rdkit_molecule("CC=O")).split("\n", 1)[1]
    (tmp_path / "some.sdf").write_text(f"méthanol\n{block}$$$$\n" * 3, encoding=encoding)
    structures = read([f"{tmp_path}/some.xyz", f"{tmp_path}/some.sdf"])
    assert [s.problem for s in structures] == [None] * 4
    assert structures[1].name == "some.sdf:1 méthanol"


@pytest.mark.parametrize("comment", ["a\x85b", "a\x0bb", "a\x1cb", "a\u2028b", 'note="a \\" b" charge=0'])
def test_comments_may_hold_any_letter(tmp_path, comment):
    (structure,) = read_text(tmp_path, "some.xyz", f"3\n{comment}\n{WATER}")
    assert structure.problem is None


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_every_end_of_line(tmp_path, end):
    for name, text in (("some.xyz", f"3\n\n{WATER}"), ("some.sdf", Chem.MolToMolBlock(rdkit_molecule("CC=O")))):
        (tmp_path / name).write_bytes(text.replace("\n", end).encode())
        (structure,) = read([f"{tmp_path}/{name}"])
        assert structure.problem is None


def test_numbers_as_fortran_writes_them(tmp_path):
    (structure,) = read_text(tmp_path, "some.xyz", f"3\n\n{WATER.replace('0.96', '9.6D-01')}")
    assert structure.molecule.positions[1, 0] == 0.96


@pytest.mark.parametrize("counts", ["COUNTS 99999999", "COU-\nM  V30 NTS 99999999", "COUNTS 9999999999999999999"])
def test_sdf_that_claims_many_atoms(tmp_path, counts):
    block = Chem.MolToMolBlock(rdkit_molecule("CC=O"), forceV3000=True)
    (structure,) = read_text(tmp_path, "some.sdf", block.replace("COUNTS 7", counts))
    assert structure.problem.startswith("expected at most 1000 atoms, got ")


@pytest.mark.parametrize("name", ["empty.xyz", "empty.sdf", "empty.mol"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_files_are_named(tmp_path, name, content):
    (structure,) = read_text(tmp_path, name, content)
    assert structure == (f"{tmp_path}/{name}", None, "there is no molecule in it")


def test_names_are_printable(tmp_path):
    (structure,) = read_text(tmp_path, "some\x1b[31m\udce9.xyz", f"3\n\n{WATER}")
    assert structure.name == "some�[31m�.xyz:1"


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


def test_sdf_says_why_it_makes_no_sense(tmp_path):
    molecule = rdkit_molecule("CC=O")
    block = Chem.MolToMolBlock(molecule)
    hydrogen = next(atom.GetIdx() for atom in molecule.GetAtoms() if atom.GetAtomicNum() == 1) + 1
    five = block.replace("  7  6  0", "  7  7  0", 1).replace("M  END", f"{2:3}{hydrogen:3}  1  0\nM  END")
    bad, good = read_text(tmp_path, "some.sdf", f"{five}$$$$\n{block}$$$$\n")
    assert re.search(
        r"no sense of it: Explicit valence for atom # \d+ [CH], \d, is greater than permitted", bad.problem
    )
    assert good.problem is None


def test_sdf_in_other_units(tmp_path):
    molecule = rdkit_molecule("CC=O")
    conformer = molecule.GetConformer()
    for atom, position in enumerate(conformer.GetPositions() / 0.529177):
        conformer.SetAtomPosition(atom, position.tolist())
    (structure,) = read_text(tmp_path, "some.sdf", Chem.MolToMolBlock(molecule))
    assert re.search(r"a bond is .* times as long as usual; are the coordinates in Å", structure.problem)


def test_smiles_of_thousands_of_atoms():
    long, hydrogen = read(["C" * 5000, "[H]"])
    assert long.problem.startswith("expected at most 200 atoms")
    assert hydrogen.problem.startswith("no bonds")


def test_smiles_get_hydrogen_atoms_and_a_geometry():
    ethanol, nonsense, ammonium, pair, chlorine = read(["CCO", "C(", "[NH4+]", "O.O", "CCl"])
    assert read(["CC O"])[0].problem.startswith("neither a file nor a SMILES")
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
