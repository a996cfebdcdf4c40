"""Make the embedded set: conformers by RDKit, geometries and labels by GFN2-xTB. Needs ``tblite`` and ``ase``.

python -m experiments.qm9.embedded.generate
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from utils.cli import Parser, answer_help


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write (default: the embedded set itself)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # whether or not there is tblite

import numpy as np
from ase import Atoms
from ase.optimize import BFGS
from ase.units import Bohr
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from tblite.ase import TBLite
from tblite.interface import Calculator
from tqdm import tqdm

from experiments.qm9.bonds import bonds_of, single_bonds
from experiments.qm9.molecules import Molecules, draw_split, join
from experiments.qm9.sources import EMBEDDED
from experiments.qm9.targets import DEBYE, HARTREE

SMILES = EMBEDDED.with_suffix(".smi")
METHOD = "GFN2-xTB"
SEED = 0  # of the conformers and of the split
CONFORMERS = 10  # of which the one of least MMFF94 energy is kept
FORCE = 0.01  # eV/Å, at most, where a geometry is optimised
UNPAIRED = {1: 1, 6: 2, 7: 3, 8: 2, 9: 1}  # electrons of the free atoms in their ground states


def conformer(molecule: Chem.Mol) -> np.ndarray:
    """Positions of the conformer of least MMFF94 energy, Å, ``[n, 3]``.

    Args:
        molecule: with its hydrogen atoms.

    Raises:
        ValueError: RDKit finds no conformer.
    """
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = SEED
    if not rdDistGeom.EmbedMultipleConfs(molecule, CONFORMERS, parameters):
        raise ValueError("RDKit finds no conformer")
    if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(molecule):
        return molecule.GetConformer().GetPositions()
    energies = [energy for _, energy in rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)]
    return molecule.GetConformer(int(np.argmin(energies))).GetPositions()


def optimised(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Positions at the nearest minimum of the energy, Å, ``[n, 3]``, to four decimals.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: where to start, Å, ``[n, 3]``.

    Raises:
        ValueError: no minimum was found.
    """
    atoms = Atoms(numbers=numbers, positions=positions)
    atoms.calc = TBLite(method=METHOD, verbosity=0)
    if not BFGS(atoms, logfile=None).run(fmax=FORCE, steps=1000):
        raise ValueError("no minimum of the energy within 1000 steps")
    return atoms.get_positions().round(4)


def labels(numbers: np.ndarray, positions: np.ndarray) -> dict[str, np.ndarray]:
    """The targets of one molecule, in the units of ``TARGETS``.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: Å, ``[n, 3]``.
    """
    calculator = Calculator(METHOD, numbers, positions / Bohr)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    orbitals, occupied = result.get("orbital-energies"), result.get("orbital-occupations") > 1
    homo, lumo = orbitals[occupied].max() * HARTREE, orbitals[~occupied].min() * HARTREE
    dipole = result.get("dipole") * DEBYE
    return {
        "atomisation": result.get("energy") * HARTREE - sum(free_atom(int(number)) for number in numbers),
        "homo": homo,
        "lumo": lumo,
        "gap": lumo - homo,
        "mu": np.linalg.norm(dipole),
        "dipole": dipole,
    }


@cache
def free_atom(number: int) -> float:
    """The energy of an atom in its ground state, eV.

    Args:
        number: its atomic number.
    """
    calculator = Calculator(METHOD, np.array([number]), np.zeros((1, 3)), uhf=UNPAIRED[number])
    calculator.set("verbosity", 0)
    return calculator.singlepoint().get("energy") * HARTREE


def make(name: str) -> Molecules:
    """One molecule, as a table of one row, of the training split.

    Args:
        name: its SMILES.

    Raises:
        ValueError: it has no conformer or no minimum with the bonds that the SMILES says.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(name))
    numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
    bonds, types = bonds_of(molecule)
    positions = optimised(numbers, conformer(molecule))
    if {*map(frozenset, bonds.tolist())} != {*map(frozenset, single_bonds(numbers, positions)[0].tolist())}:
        raise ValueError("the minimum of the energy has other bonds")
    return Molecules(
        names=np.array([name]),
        split=np.zeros(1, dtype=np.int8),
        perceived=np.ones(1, dtype=bool),
        num_atoms=np.array([len(numbers)]),
        numbers=numbers,
        positions=positions,
        num_bonds=np.array([len(bonds)]),
        bonds=bonds,
        bond_types=types,
        targets={name: np.asarray(value)[None].round(6) for name, value in labels(numbers, positions).items()},
    )


def main() -> None:
    """Make all molecules of the list."""
    output = _parser().parse_args().output or EMBEDDED
    table = join([make(name) for name in tqdm(SMILES.read_text().split(), unit="molecules", disable=None)])
    table = replace(table, split=draw_split(len(table), round(0.8 * len(table)), round(0.1 * len(table)), SEED))
    table.save(output)
    print(f"{output}: {table.summary}")


if __name__ == "__main__":
    main()
