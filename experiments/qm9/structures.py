"""Molecules as users have them: .xyz and .sdf files, and SMILES. What is wrong with one leaves the others alone."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist

from experiments.qm9.bonds import bonds_of, covalent_radii, perceive
from experiments.qm9.molecules import MOST_ATOMS, Molecules, join
from experiments.qm9.periodic import put_together
from experiments.qm9.xyz import read_frames
from utils.files import read_text

CLOSEST, FARTHEST = 0.3, 1e4  # Å, between two atoms of a molecule
LONGEST_TITLE = 80  # letters of a molecule's name that are shown
MOST_EMBEDDED = 200  # atoms of a SMILES: RDKit takes seconds to find a geometry for so many, and minutes for 300
LONGEST_BOND = 1.6  # sums of covalent radii; in bohr, bonds are 1.9 of them long


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
        _one_molecule(s._replace(molecule=next(bonded)) if not s.molecule.perceived[0] else s)
        if s.molecule is not None
        else s
        for s in structures
    ]


def _read_one(argument: str) -> Iterator[Structure]:
    path = Path(argument)
    readers = {".xyz": _read_xyz, ".sdf": _read_sdf, ".mol": _read_sdf}
    if path.suffix.lower() in readers:
        try:
            number = -1
            for number, structure in enumerate(readers[path.suffix.lower()](path)):  # noqa: B007
                yield structure._replace(name=printable(structure.name))
            if number < 0:
                yield Structure(printable(argument), problem="there is no molecule in it")
        except (OSError, ValueError, RuntimeError) as error:
            yield Structure(printable(argument), problem=f"cannot be read: {error}")
    elif os.path.isfile(path):  # of a SMILES too long for a name, Path's raises
        yield Structure(printable(argument), problem=f"expected a file that ends in {', '.join(readers)}, or a SMILES")
    else:
        yield _of_smiles(argument)._replace(name=printable(argument))


def printable(text: str) -> str:
    """The text without what a terminal or a file cannot show.

    Args:
        text: of a user's file or command line.
    """
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _read_xyz(path: Path) -> Iterator[Structure]:
    for name, frame in read_frames(path):
        if isinstance(frame, ValueError):
            yield Structure(name, problem=str(frame))
            continue
        structure = _checked(name, frame.numbers, frame.positions)
        if structure.molecule is not None and frame.cell is not None:
            try:
                structure = _checked(name, frame.numbers, put_together(*frame))
            except ValueError as error:
                structure = Structure(name, problem=str(error))
        yield structure


def _read_sdf(path: Path) -> Iterator[Structure]:
    blocks = re.split(r"(?m)^\$\$\$\$.*\n?", read_text(path))
    with rdBase.BlockLogs():
        for number, block in enumerate(blocks, start=1):
            if not block.strip():
                continue
            name = f"{path.name}:{number} {block.splitlines()[0][:LONGEST_TITLE]}".strip()
            if (atoms := _atoms_claimed(block)) > MOST_ATOMS:
                yield Structure(name, problem=f"expected at most {MOST_ATOMS} atoms, got {atoms:,}")
                continue
            molecule = Chem.MolFromMolBlock(block, removeHs=False, sanitize=False)
            if molecule is None:
                yield Structure(name, problem="RDKit makes no sense of it")
                continue
            try:
                Chem.SanitizeMol(molecule)
            except ValueError as error:
                yield Structure(name, problem=f"RDKit makes no sense of it: {error}")
                continue
            yield _of_rdkit(name, molecule)


def _atoms_claimed(block: str) -> int:
    """How many atoms a block of V3000 says that it has, for which RDKit takes memory before it looks for them."""
    lines = re.sub(r"-\s*\nM  V30 ", "", block)  # a line that goes on
    return max((int(number) for number in re.findall(r"COUNTS\s+(\d{1,9})", lines)), default=0)


def _of_smiles(smiles: str) -> Structure:
    with rdBase.BlockLogs():
        # After a space RDKit expects a name, and passes over another molecule.
        molecule = Chem.MolFromSmiles(smiles) if smiles.split() == [smiles] else None
        if molecule is None or not molecule.GetNumAtoms():
            return Structure(smiles, problem="neither a file nor a SMILES that RDKit makes sense of")
        molecule = Chem.AddHs(molecule)
        if molecule.GetNumAtoms() > MOST_EMBEDDED:
            return Structure(smiles, problem=f"expected at most {MOST_EMBEDDED} atoms, got {molecule.GetNumAtoms()}")
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


def _one_molecule(structure: Structure) -> Structure:
    """The structure, unless its bonds do not make one molecule of it."""
    molecule = structure.molecule
    radii, (a, b) = covalent_radii(molecule.numbers), molecule.bonds.T
    graph = coo_array((np.ones(len(a)), (a, b)), shape=(len(radii), len(radii)))
    parts, _ = connected_components(graph, directed=False)
    longest = (np.linalg.norm(molecule.positions[a] - molecule.positions[b], axis=1) / (radii[a] + radii[b])).max(
        initial=0
    )
    if not len(a):
        problem = "no bonds: no two atoms are within bonding distance; are the coordinates in Å (Angstrom)?"
    elif parts > 1:
        problem = f"expected one molecule, got several: no bond connects its {parts} parts"
    elif longest > LONGEST_BOND:
        problem = f"a bond is {longest:.2g} times as long as usual; are the coordinates in Å (Angstrom)?"
    else:
        return structure
    return Structure(structure.name, problem=problem)


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
