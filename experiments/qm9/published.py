"""The preprocessed QM9 that was published with the SE(3)-Transformer, ``QM9_data.pt``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.qm9.molecules import SPLITS, Molecules, join
from experiments.qm9.targets import TARGETS
from experiments.qm9.units import in_table_units
from utils.arrays import as_floats, as_integers, read_torch

OF_MOLECULES = ("mol_id", "num_atoms", "num_bonds")
NEEDED = (*OF_MOLECULES, "x", "atomic_numbers", "edge")
SCALARS = [name for name, target in TARGETS.items() if target.kind == "number"]


def from_published(path: str | os.PathLike[str]) -> Molecules:
    """Molecules in the published file, which is read as data only.

    A dict of 'train', 'valid' and 'test', each a dict with a row per molecule: ``mol_id``, ``num_atoms``, ``num_bonds``
    and the targets ``[molecules]``; padded to the largest molecule, ``x`` ``[molecules, atoms, 3]`` in Å,
    ``atomic_numbers`` ``[molecules, atoms]`` or ``[molecules, atoms, 1]``, and ``edge`` ``[molecules, bonds, 3]``: two
    atoms of the molecule, and a type, 0 to 3 as in ``BONDS``. They are arrays or tensors of any integer or float type.
    In place of padded ones, arrays of all atoms or bonds, molecule after molecule, are read as well, and lists of an
    array per molecule. A bond given in both directions counts once. ``one_hot`` says what ``atomic_numbers`` says and
    is not read, like all other entries.

    Energies are in Hartree, as published, or in eV: see :func:`~experiments.qm9.units.in_table_units`.

    Args:
        path: the file.

    Raises:
        ValueError: the file, named, is not what it should be.
    """
    try:
        content = read_torch(path)
        if missing := set(SPLITS) - content.keys():
            raise ValueError(f"expected {SPLITS}, without {sorted(missing)}")
        return in_table_units(join([_part(split, content[split]) for split in SPLITS]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _part(split: str, content: Any) -> Molecules:
    """The molecules of one split, targets as in the file."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{split}: expected a dict of arrays, got {type(content).__name__}")
    if missing := set(NEEDED) - content.keys():
        raise ValueError(f"{split}: expected {NEEDED}, without {sorted(missing)}")
    try:
        ids, num_atoms, num_bonds = (as_integers(name, content[name]).reshape(-1) for name in OF_MOLECULES)
        numbers = _flat("atomic_numbers", content["atomic_numbers"], num_atoms, 1).reshape(-1)
        num_bonds, edges = _once(num_bonds, as_integers("edge", _flat("edge", content["edge"], num_bonds, 3)))
        return Molecules(
            names=np.array([f"gdb_{number}" for number in ids]),
            split=np.full(len(ids), SPLITS.index(split), dtype=np.int8),
            perceived=np.ones(len(ids), dtype=bool),
            num_atoms=num_atoms,
            numbers=as_integers("atomic_numbers", numbers),
            positions=_flat("x", content["x"], num_atoms, 3),
            num_bonds=num_bonds,
            bonds=edges[:, :2],
            bond_types=edges[:, 2],
            targets={name: as_floats(name, content[name]).reshape(-1) for name in SCALARS if name in content},
        )
    except ValueError as error:
        raise ValueError(f"{split}: {error}") from error


def _flat(name: str, array: Any, sizes: np.ndarray, columns: int) -> np.ndarray:
    """``[sizes.sum(), columns]`` from an array that is padded, flat already, or a list of arrays."""
    if isinstance(array, list | tuple) or (isinstance(array, np.ndarray) and array.dtype.kind == "O"):
        rows = [as_floats(name, part).reshape(-1, columns) for part in array]
        if len(rows) != len(sizes) or any(len(row) < size for row, size in zip(rows, sizes, strict=True)):
            raise ValueError(f"{name}: expected an array for each molecule with as many rows as it says, got fewer")
        return np.concatenate([np.empty((0, columns)), *(row[:size] for row, size in zip(rows, sizes, strict=True))])
    array = as_floats(name, array)
    if columns == 1 and array.shape[-1:] != (1,):
        array = array[..., None]
    molecules, largest, total = len(sizes), sizes.max(initial=0), sizes.sum()
    if array.ndim == 3 and array.shape[0] == molecules and array.shape[1] >= largest and array.shape[2] == columns:
        return array[np.arange(array.shape[1]) < sizes[:, None]]
    if array.shape == (total, columns):
        return array
    expected = f"[{molecules}, {largest} or more, {columns}] or [{total}, {columns}]"
    raise ValueError(f"{name}: expected shape {expected}, got {[*array.shape]}")


def _once(num_bonds: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each bond once, from the lower to the higher atom; how many of each molecule, and (atom, atom, type)."""
    molecule, (low, high) = np.repeat(np.arange(len(num_bonds)), num_bonds), np.sort(edges[:, :2], axis=1).T
    base = int(np.abs(edges).max(initial=0)) + 1
    _, first = np.unique(((molecule * base + low) * base + high) * base + edges[:, 2], return_index=True)
    return np.bincount(molecule[first], minlength=len(num_bonds)), np.column_stack([low, high, edges[:, 2]])[first]
