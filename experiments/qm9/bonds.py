"""Bonds from positions, perceived by RDKit in worker processes and kept in a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pebble import ProcessExpired, ProcessPool
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds
from rdkit.Geometry import Point3D
from tqdm import tqdm

from experiments.qm9.molecules import BONDS, Molecules
from utils.caches import load_or_make
from utils.ragged import starts

VERSION = 2  # raise it when the same positions get other bonds: old caches are then ignored
CHUNK = 500  # molecules sent to a worker at once
TYPES = {getattr(Chem.BondType, name.upper()): number for number, name in enumerate(BONDS)}
# Atoms closer than this many times the sum of their covalent radii are bonded; the second is for where the first makes
# no sense, as in one of 70 QM9 molecules, whose small rings are narrow enough for a bond across. It alone misses N-F.
REACHES = (1.2, 1.1)


class Bonds(NamedTuple):
    """The bonds of molecules, concatenated.

    Attributes:
        num_bonds: int64 ``[molecules]``.
        pairs: the two atoms of each, counted within the molecule, int64 ``[bonds, 2]``.
        types: as an index into ``BONDS``, int64 ``[bonds]``.
        perceived: whether RDKit found bond orders; where not, all bonds are single. Bool ``[molecules]``.
    """

    num_bonds: np.ndarray
    pairs: np.ndarray
    types: np.ndarray
    perceived: np.ndarray


def perceive(
    num_atoms: np.ndarray,
    numbers: np.ndarray,
    positions: np.ndarray,
    cache: str | os.PathLike[str] | None = None,
    *,
    time_limit: float = 10.0,
    workers: int | None = None,
    progress: bool = False,
) -> Bonds:
    """The bonds of neutral molecules. One that RDKit cannot bond, or not in time, keeps single bonds by distance.

    Args:
        num_atoms: of every molecule, ``[molecules]``.
        numbers: atomic numbers ``[atoms]``, molecule after molecule.
        positions: Å, ``[atoms, 3]``.
        cache: folder in which the result is kept and found again; its name there is a hash of all that it depends on.
        time_limit: seconds after which a molecule counts as one that RDKit cannot bond.
        workers: processes; None for one per core that this process may use.
        progress: show a progress bar.

    Raises:
        OSError: the cache cannot be written to.
    """

    def make() -> dict[str, np.ndarray]:
        molecules = [(numbers[a:b], positions[a:b]) for a, b in pairwise(starts(num_atoms))]
        with tqdm(total=len(molecules), desc="bonds", unit="molecules", disable=None if progress else True) as bar:
            found = list(_in_workers(molecules, time_limit, workers or _cores(), bar))
        return {
            "num_bonds": np.array([len(pairs) for pairs, _, _ in found], dtype=np.int64),
            "pairs": np.concatenate([np.empty((0, 2), np.int64), *(pairs for pairs, _, _ in found)]),
            "types": np.concatenate([np.empty(0, np.int64), *(types for _, types, _ in found)]),
            "perceived": np.array([perceived for *_, perceived in found], dtype=bool),
        }

    if cache is None:
        return Bonds(**make())
    key = _key(num_atoms, numbers, positions, time_limit)
    arrays = load_or_make(Path(cache) / f"bonds_{key[:16]}.npz", key, make, "perceiving bonds")
    return Bonds(*map(arrays.get, Bonds._fields))


def with_bonds(
    molecules: Molecules, cache: str | os.PathLike[str] | None, workers: int | None = None, progress: bool = False
) -> Molecules:
    """Molecules with the bonds that :func:`perceive` finds in place of their own.

    Args:
        molecules: neutral ones.
        cache, workers, progress: as there.
    """
    found = perceive(
        molecules.num_atoms, molecules.numbers, molecules.positions, cache, workers=workers, progress=progress
    )
    return replace(
        molecules, num_bonds=found.num_bonds, bonds=found.pairs, bond_types=found.types, perceived=found.perceived
    )


Molecule = tuple[np.ndarray, np.ndarray]  # atomic numbers [n], positions [n, 3]
Found = tuple[np.ndarray, np.ndarray, bool]  # pairs [bonds, 2], types [bonds], perceived


def perceive_one(numbers: np.ndarray, positions: np.ndarray) -> Found:
    """The bonds of one neutral molecule.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: Å, ``[n, 3]``.

    Returns:
        pairs ``[bonds, 2]``, types ``[bonds]``, and whether RDKit found bond orders (else all are single).
    """
    with rdBase.BlockLogs():
        for reach in REACHES:
            molecule = rdkit_molecule(numbers, positions)
            try:
                rdDetermineBonds.DetermineBonds(molecule, charge=0, covFactor=reach, useVdw=True, embedChiral=False)
                Chem.SanitizeMol(molecule)
                return *bonds_of(molecule), True
            except (ValueError, RuntimeError):  # no assignment of bond orders makes sense
                continue
    return *single_bonds(numbers, positions), False


def bonds_of(molecule: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Pairs ``[bonds, 2]`` and types ``[bonds]`` of a sanitised RDKit molecule; what is of no type counts as single.

    Args:
        molecule: with its hydrogen atoms.
    """
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), TYPES.get(b.GetBondType(), 0)) for b in molecule.GetBonds()]
    table = np.array(bonds, dtype=np.int64).reshape(-1, 3)
    return table[:, :2], table[:, 2]


def single_bonds(numbers: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Single bonds between atoms closer than 1.2 times the sum of their covalent radii: pairs and types.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: Å, ``[n, 3]``.
    """
    radii = covalent_radii(numbers)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    bonded = np.triu(distances < REACHES[0] * (radii[:, None] + radii[None]), k=1)
    pairs = np.argwhere(bonded)
    return pairs, np.zeros(len(pairs), dtype=np.int64)


def covalent_radii(numbers: np.ndarray) -> np.ndarray:
    """The covalent radius of each atom, Å, ``[n]``.

    Args:
        numbers: atomic numbers ``[n]``.
    """
    periodic_table = Chem.GetPeriodicTable()
    return np.array([periodic_table.GetRcovalent(int(number)) for number in numbers])


def rdkit_molecule(numbers: np.ndarray, positions: np.ndarray) -> Chem.RWMol:
    """Atoms at their places, without bonds.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: Å, ``[n, 3]``.
    """
    molecule, conformer = Chem.RWMol(), Chem.Conformer(len(numbers))
    for atom, (number, position) in enumerate(zip(numbers.tolist(), positions.tolist(), strict=True)):
        molecule.AddAtom(Chem.Atom(number))
        conformer.SetAtomPosition(atom, Point3D(*position))
    molecule.AddConformer(conformer)
    return molecule


def _in_workers(molecules: list[Molecule], time_limit: float, workers: int, bar: tqdm) -> Iterator[Found]:
    """What `perceive_one` finds, in order, by processes that are killed when they take too long."""
    chunks = [molecules[start : start + CHUNK] for start in range(0, len(molecules), CHUNK)]
    # Not forked: this process may have threads.
    with ProcessPool(max_workers=min(workers, max(1, len(chunks))), context=get_context("spawn")) as pool:
        # A chunk that ends in time has only molecules that did; one that does not is repeated molecule by molecule.
        futures = [pool.schedule(_perceive_chunk, args=(chunk,), timeout=time_limit) for chunk in chunks]
        for chunk, future in zip(chunks, futures, strict=True):
            try:
                found = future.result()
            except (TookTooLong, ProcessExpired):
                found = [_in_time(pool, molecule, time_limit) for molecule in chunk]
            bar.update(len(chunk))
            yield from found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_time(pool: ProcessPool, molecule: Molecule, time_limit: float) -> Found:
    try:
        return pool.schedule(perceive_one, args=molecule, timeout=time_limit).result()
    except (TookTooLong, ProcessExpired):
        return *single_bonds(*molecule), False


def _perceive_chunk(molecules: list[Molecule]) -> list[Found]:
    return [perceive_one(*molecule) for molecule in molecules]


def _key(num_atoms: np.ndarray, numbers: np.ndarray, positions: np.ndarray, time_limit: float) -> str:
    digest = hashlib.sha256(f"{VERSION} {rdBase.rdkitVersion} {REACHES} {time_limit}".encode())
    for array, dtype in ((num_atoms, np.int64), (numbers, np.int64), (positions, np.float64)):
        digest.update(np.ascontiguousarray(array, dtype=dtype).tobytes())
    return digest.hexdigest()
