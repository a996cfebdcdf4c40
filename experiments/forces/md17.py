"""Trajectories of MD17 and revised MD17 (doi:10.6084/m9.figshare.12672038), and what else is stored as they are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from utils.arrays import read_npz

UNIT = units.kcal / units.mol  # of energies in these files, in eV
NAMES = {  # in revised MD17, and in MD17 and sGDML's own files
    "numbers": ("nuclear_charges", "z"),
    "positions": ("coords", "R"),
    "energies": ("energies", "E"),
    "forces": ("forces", "F"),
}


def read_md17(path: str) -> list[Atoms]:
    """All frames of a file, in eV and Å.

    Args:
        path: of an .npz of one molecule, in kcal/mol and Å.

    Raises:
        ValueError: it is damaged, or its arrays are not those of such a file.
        OSError: from the file system.
    """
    try:
        return _frames(read_npz(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _frames(content: Mapping[str, np.ndarray]) -> list[Atoms]:
    found = {}
    for name, names in NAMES.items():
        known = [content[stored] for stored in names if stored in content]
        if not known:
            raise ValueError(f"expected {name}, as {' or '.join(names)}, got {sorted(content)}")
        found[name] = np.asarray(known[0])
        if found[name].dtype.kind not in "iuf":
            raise ValueError(f"{name} must be numbers, got {found[name].dtype}")
    found["energies"] = found["energies"].reshape(-1)  # sGDML has a column
    frames, atoms = len(found["energies"]), found["numbers"].size
    per_atom = (frames, atoms, 3)
    for name, shape in {"numbers": (atoms,), "positions": per_atom, "forces": per_atom}.items():
        if found[name].shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(found[name].shape)}")
    moving = zip(found["positions"], found["energies"], found["forces"], strict=True)
    return [_labelled(found["numbers"], *frame) for frame in moving]


def _labelled(numbers: np.ndarray, positions: np.ndarray, energy: float, forces: np.ndarray) -> Atoms:
    atoms = Atoms(numbers, positions)
    atoms.calc = SinglePointCalculator(atoms, energy=UNIT * float(energy), forces=UNIT * forces)
    return atoms
