"""Molecules as users have them: .xyz and .sdf files, and SMILES. What is wrong with one leaves the others alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem
from scipy.spatial.distance import pdist

from experiments.qm9.bonds import bonds_of, perceive
from experiments.qm9.molecules import Molecules, join

CLOSEST, FARTHEST = 0.3, 1e4  # Å, between two atoms of a molecule
QM9_TRAILER = 3  # lines after the atoms in the files of QM9 itself: frequencies, SMILES, InChI


class Structure(NamedTuple):
    """One molecule, or why it is none.

    Attributes:
        name: for reports.
        molecule: a table of one molecule; None if something is wrong with it.
        problem: what is wrong; None if nothing is.
    """

    name: str
    molecule: Molecules | None = None
    problem: str | None = None


def read(arguments: Iterable[str], cache: str | None = None) -> list[Structure]:
    """The molecules of files and SMILES, in their order. Bonds are read where they are known, else perceived.

    Args:
        arguments: each a path that ends in .xyz, .sdf or .mol, or a SMILES, which gets hydrogen atoms and the geometry
            of RDKit's force field.
        cache: as of :func:`perceive`.
    """
    structures = [structure for argument in arguments for structure in _read_one(argument)]
    unbonded = [s.molecule for s in structures if s.molecule is not None and not s.molecule.perceived[0]]
    bonded = iter(_with_bonds(unbonded, cache))
    return [
        s._replace(molecule=next(bonded)) if s.molecule is not None and not s.molecule.perceived[0] else s
        for s in structures
    ]


def _read_one(argument: str) -> Iterator[Structure]:
    path = Path(argument)
    readers = {".xyz": _read_xyz, ".sdf": _read_sdf, ".mol": _read_sdf}
    if path.suffix.lower() in readers:
        try:
            yield from readers[path.suffix.lower()](path)
        except (OSError, UnicodeDecodeError) as error:
            yield Structure(argument, problem=f"cannot be read: {error}")
    elif path.is_file():
        yield Structure(argument, problem=f"expected a file that ends in {', '.join(readers)}, or a SMILES")
    else:
        yield _of_smiles(argument)


def _read_xyz(path: Path) -> Iterator[Structure]:
    """Molecules one after the other: a line with the number of atoms, a comment, the atoms."""
    lines = path.read_text(encoding="utf-8").splitlines()
    number, line = 0, 0
    while line < len(lines):
        if not lines[line].strip():
            line += 1
            continue
        number += 1
        name = f"{path.name}:{number}"
        try:
            size = int(lines[line])
        except ValueError:
            yield Structure(name, problem=f"line {line + 1}: expected a number of atoms, got {lines[line]!r}")
            return  # where the next molecule begins is not known
        comment, atoms = "".join(lines[line + 1 : line + 2]), lines[line + 2 : line + 2 + size]
        line += 2 + max(size, 0)
        if comment.startswith("gdb "):
            name, line = f"gdb_{comment.split()[1]}", line + QM9_TRAILER
        if size < 1 or len(atoms) < size:
            yield Structure(name, problem=f"expected {max(size, 1)} lines of atoms, got {len(atoms)}")
            continue
        try:
            symbols, *columns = zip(*(atom.replace("*^", "e").split()[:4] for atom in atoms), strict=True)
            positions = np.array(columns, dtype=np.float64).T
            if positions.shape != (size, 3):
                raise ValueError("expected an element and three coordinates for each atom")
            yield _checked(name, [_atomic_number(symbol) for symbol in symbols], positions)
        except ValueError as error:
            yield Structure(name, problem=str(error))


def _atomic_number(symbol: str) -> int:
    if symbol.isdecimal():
        return int(symbol)
    try:
        return Chem.GetPeriodicTable().GetAtomicNumber(symbol.capitalize())
    except RuntimeError:
        raise ValueError(f"there is no element {symbol!r}") from None


def _read_sdf(path: Path) -> Iterator[Structure]:
    path.open("rb").close()  # RDKit's own error says less
    with rdBase.BlockLogs():
        for number, molecule in enumerate(Chem.SDMolSupplier(str(path), removeHs=False), start=1):
            name = f"{path.name}:{number}"
            if molecule is None:
                yield Structure(name, problem="RDKit makes no sense of it")
                continue
            title = molecule.GetProp("_Name") if molecule.HasProp("_Name") else ""
            yield _of_rdkit(f"{name} {title}".strip(), molecule)


def _of_smiles(smiles: str) -> Structure:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
        if molecule is None or not molecule.GetNumAtoms():
            return Structure(smiles, problem="neither a file nor a SMILES that RDKit makes sense of")
        molecule = Chem.AddHs(molecule)
        if AllChem.EmbedMolecule(molecule, randomSeed=0) and AllChem.EmbedMolecule(
            molecule, randomSeed=0, useRandomCoords=True
        ):
            return Structure(smiles, problem="RDKit finds no geometry for it")
        if AllChem.MMFFHasAllMoleculeParams(molecule):
            AllChem.MMFFOptimizeMolecule(molecule, maxIters=2000)
        return _of_rdkit(smiles, molecule)


def _of_rdkit(name: str, molecule: Chem.Mol) -> Structure:
    """A molecule whose bonds are known."""
    charge = Chem.GetFormalCharge(molecule)
    if charge:
        return Structure(name, problem=f"expected a neutral molecule, got one of charge {charge:+d}")
    if len(Chem.GetMolFrags(molecule)) > 1:
        return Structure(name, problem="expected one molecule, got several")
    if any(atom.GetTotalNumHs() for atom in molecule.GetAtoms()):
        return Structure(name, problem="expected all hydrogen atoms, some are left out")
    conformer = molecule.GetConformer() if molecule.GetNumConformers() else None
    if conformer is None or not conformer.Is3D():
        return Structure(name, problem="expected positions in three dimensions")
    numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
    return _checked(name, numbers, conformer.GetPositions(), bonds_of(molecule))


def _checked(
    name: str, numbers: list[int], positions: np.ndarray, bonds: tuple[np.ndarray, np.ndarray] | None = None
) -> Structure:
    pairs, types = bonds or (np.empty((0, 2), np.int64), np.empty(0, np.int64))
    try:
        molecule = Molecules(
            names=np.array([name]),
            split=np.full(1, 2, np.int8),
            perceived=np.array([bonds is not None]),
            num_atoms=np.array([len(numbers)]),
            numbers=np.array(numbers),
            positions=positions,
            num_bonds=np.array([len(pairs)]),
            bonds=pairs,
            bond_types=types,
        )
    except ValueError as error:
        return Structure(name, problem=str(error))
    distances = pdist(positions)
    if len(distances) and not (distances.min() >= CLOSEST and distances.max() <= FARTHEST):
        found = f"{distances.min():.3g} to {distances.max():.3g} Å"
        return Structure(name, problem=f"expected atoms {CLOSEST} to {FARTHEST:.0f} Å from each other, got {found}")
    return Structure(name, molecule)


def _with_bonds(molecules: list[Molecules], cache: str | None) -> list[Molecules]:
    """The same molecules with bonds perceived from their positions."""
    if not molecules:
        return []
    table = join(molecules)
    found = perceive(table.num_atoms, table.numbers, table.positions, cache, progress=True)
    table = replace(
        table, num_bonds=found.num_bonds, bonds=found.pairs, bond_types=found.types, perceived=found.perceived
    )
    return [table.take(np.array([row])) for row in range(len(table))]
