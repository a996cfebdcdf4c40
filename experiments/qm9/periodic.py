"""Molecules in periodic cells, put together where they are torn apart by the cell's faces."""

from __future__ import annotations

from collections import deque

import numpy as np

from experiments.qm9.bonds import REACHES, covalent_radii

THINNEST = 2.0  # Å between opposite faces of a cell


def put_together(numbers: list[int], positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """The positions of images of the atoms such that bonded ones are next to each other.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: Å, ``[n, 3]``.
        cell: its vectors, Å, ``[3, 3]``; zero where it is not periodic.

    Returns:
        ``[n, 3]``, the first atom where it was.

    Raises:
        ValueError: the cell has no volume, or atoms are bonded to their own images: it is no molecule.
    """
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    periodic = cell.any(axis=1)
    _check_cell(cell[periodic])
    atoms = Atoms(numbers, positions, cell=cell, pbc=periodic)
    source, target, images = neighbor_list("ijS", atoms, REACHES[0] * covalent_radii(np.array(numbers)))
    bonds: list[list[tuple[int, np.ndarray]]] = [[] for _ in numbers]
    for a, b, image in zip(source.tolist(), target.tolist(), images, strict=True):
        bonds[a].append((b, image))
    image_of: dict[int, np.ndarray] = {}
    for start in range(len(numbers)):
        if start in image_of:
            continue
        image_of[start] = np.zeros(3, dtype=np.int64)
        queue = deque([start])
        while queue:
            a = queue.popleft()
            for b, image in bonds[a]:
                if b not in image_of:
                    image_of[b] = image_of[a] + image
                    queue.append(b)
                elif (image_of[b] != image_of[a] + image).any():
                    raise ValueError("Lattice: expected a molecule, got atoms that are bonded to their own images")
    return positions + np.array([image_of[atom] for atom in range(len(numbers))]) @ cell


def _check_cell(vectors: np.ndarray) -> None:
    if np.linalg.matrix_rank(vectors) < len(vectors):
        raise ValueError("Lattice: expected a cell with a volume, got vectors in one plane")
    thinnest = (1 / np.linalg.norm(np.linalg.pinv(vectors), axis=0)).min()
    if thinnest < THINNEST:
        raise ValueError(f"Lattice: expected at least {THINNEST} Å between faces of the cell, got {thinnest:.2g}")
