"""Cells that repeat: which images of a node are near another, and cells that must be refused.

The search is that of ``vesin`` (linked cells, whose time grows with the number of nodes; any cell, several images of
one node), or, where it is not installed, the slower one of ``ase``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .plan import LARGEST_DISTANCE

FLATTEST = 1e-3  # of the radius, that a cell may be
_SLACK = 1 + 1e-9  # by how much the search goes beyond the radius, so that its own rounding misses no candidate

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # src [edges], dst [edges], image of src [edges, 3]


@dataclass(frozen=True)
class Cells:
    """The cells of a batch of graphs.

    Attributes:
        vectors: one row for each vector, ``[graphs, 3, 3]``, in the dtype and on the device of the positions.
        periodic: along which of its vectors each cell repeats, bool ``[graphs, 3]``.
    """

    vectors: Tensor
    periodic: np.ndarray

    @staticmethod
    def of(cell: Any, pbc: Any, x: Tensor, graphs: int, radius: float) -> Cells | None:
        """Make them of what a user gives, checked.

        Args:
            cell: ``[3, 3]`` for all graphs, ``[graphs, 3, 3]``, or None.
            pbc: a bool, ``[3]`` for all graphs, ``[graphs, 3]``, or None: along every vector, where there is a cell.
            x: positions.
            graphs: how many there are.
            radius: of the search.

        Returns:
            the cells; None, where nothing repeats.

        Raises:
            ValueError: one is not as above; ``radius`` is infinite; or :func:`check_cell` refuses a cell.
        """
        periodic = np.asarray(cell is not None if pbc is None else _on_cpu(pbc))
        if periodic.dtype != np.bool_ or periodic.shape not in ((), (3,), (graphs, 3)):
            got = f"{periodic.dtype} {list(periodic.shape)}"
            raise ValueError(f"pbc must be a bool, or bools [3] or [{graphs}, 3], got {got}")
        if cell is not None or periodic.any():
            check_cells(cell, x, graphs)
        if not periodic.any():
            return None
        if math.isinf(radius):
            raise ValueError("radius must be finite where a cell repeats, got inf")
        cells = Cells(cell.expand(graphs, 3, 3), np.broadcast_to(periodic, (graphs, 3)))
        for vectors, repeats in zip(cells.vectors.detach().double().cpu().numpy(), cells.periodic, strict=True):
            if not np.isfinite(vectors).all():
                raise ValueError(f"cell must be finite, got {vectors.tolist()}")
            check_cell(np.where(repeats[:, None], vectors, 0), repeats, radius, "cell")  # others do not matter
        return cells

    def near(self, x: np.ndarray, graph: int, radius: float) -> Found:
        """All pairs of nodes of a graph, images included, at most ``radius`` apart.

        Args:
            x: positions of its nodes, float64 ``[nodes, 3]``.
            graph: its number.
            radius: finite.

        Returns:
            as :func:`images_within`.
        """
        return images_within(x, self.vectors[graph].detach().double().cpu().numpy(), self.periodic[graph], radius)


def check_cells(cell: Any, x: Tensor, graphs: int) -> None:
    """Refuse a ``cell`` that is no tensor ``[3, 3]`` or ``[graphs, 3, 3]`` like the positions ``x``: a ValueError."""
    if not isinstance(cell, Tensor) or cell.dtype != x.dtype or cell.device != x.device:
        got = f"{cell.dtype} on {cell.device}" if isinstance(cell, Tensor) else type(cell).__name__
        raise ValueError(f"cell must be a tensor of {x.dtype} on {x.device}, as x is, got {got}")
    if tuple(cell.shape) not in ((3, 3), (graphs, 3, 3)):
        raise ValueError(f"cell must have shape [3, 3] or [{graphs}, 3, 3], got {list(cell.shape)}")


def _on_cpu(value: Any) -> Any:
    return value.detach().cpu() if isinstance(value, Tensor) else value


def check_cell(cell: np.ndarray, periodic: Sequence[bool] | np.ndarray, radius: float, name: str) -> None:
    """Refuse a cell that is not finite, or so flat that a search fails or finds images without end within the radius.

    Args:
        cell: ``[3, 3]``; where nothing repeats along a vector, it may be zero.
        periodic: along which vectors it repeats.
        radius: of the search.
        name: of the cell, for the message.

    Raises:
        ValueError: as said, or a vector along which it repeats is missing.
    """
    if not (np.abs(cell) <= LARGEST_DISTANCE).all():
        raise ValueError(f"{name} must be finite and at most {LARGEST_DISTANCE:.0e}, got {cell.tolist()}")
    if (np.asarray(periodic) & ~cell.any(1)).any():
        raise ValueError(f"{name} must have a vector for every periodic direction, got {cell.tolist()}")
    vectors = cell[cell.any(1)]
    if not len(vectors):
        return
    largest = np.abs(vectors).max(1, keepdims=True)
    flatness = np.linalg.svd(vectors / largest, compute_uv=False).min()  # 0 where they lie in a plane or line
    if largest.min() * flatness < FLATTEST * radius:
        raise ValueError(
            f"{name} must have vectors that no plane or line holds, each far longer than {FLATTEST} of the cutoff, "
            f"{radius}, got {cell.tolist()}"
        )


def images_within(x: np.ndarray, cell: np.ndarray, periodic: np.ndarray, radius: float) -> Found:
    """All pairs of nodes, images included, at most ``radius`` apart, ordered by destination, source and image.

    Args:
        x: positions, float64 ``[nodes, 3]``; they need not lie in the cell.
        cell: its vectors, float64 ``[3, 3]``, as :func:`check_cell` lets them be.
        periodic: along which of them it repeats, bool ``[3]``.
        radius: finite.

    Returns:
        src and dst, int64 ``[edges]``, and the image of src, int64 ``[edges, 3]``: its position is
        ``x[src] + image @ cell``. A node is a neighbour of its own images, and not of itself.
    """
    dst, src, image = _search(x, _filled(cell, periodic), periodic, radius * _SLACK)
    dst, src, image = dst.astype(np.int64), src.astype(np.int64), image.astype(np.int64)
    d = x[dst] - (x[src] + image @ cell)
    near = np.sqrt((d * d).sum(1)) <= radius
    order = np.lexsort((*image[near].T[::-1], src[near], dst[near]))
    return src[near][order], dst[near][order], image[near][order]


def _filled(cell: np.ndarray, periodic: np.ndarray) -> np.ndarray:
    """The cell with vectors across the others in place of those along which nothing repeats."""
    filled, repeats = cell.copy(), cell[periodic]
    *_, directions = np.linalg.svd(repeats.reshape(-1, 3), full_matrices=True)
    filled[~periodic] = directions[len(repeats) :]
    return filled


def _search(x: np.ndarray, cell: np.ndarray, periodic: np.ndarray, radius: float) -> Found:
    """Pairs at most ``radius`` apart: (i, j, image of j)."""
    try:
        from vesin import NeighborList
    except ImportError:
        try:
            from ase.neighborlist import primitive_neighbor_list
        except ImportError as error:
            raise ImportError(
                "neighbours across periodic boundaries are found by vesin or ase, of which neither is installed: "
                "pip install vesin"
            ) from error
        return primitive_neighbor_list("ijS", periodic, cell, x, radius)
    return NeighborList(cutoff=radius, full_list=True).compute(x, cell, periodic, "ijS")


def offsets(cells: Cells, image: Tensor, sizes: Sequence[int]) -> Tensor:
    """By how much the images that edges come from are moved.

    Args:
        cells: of the graphs.
        image: of every edge, int64 ``[edges, 3]``.
        sizes: the number of edges of each graph.

    Returns:
        ``image @ cell``, ``[edges, 3]``.
    """
    image = image.to(cells.vectors)
    if len(sizes) == 1:
        return _sum_of(image, cells.vectors[0])
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)).to(image.device)
    return _sum_of(image, cells.vectors.index_select(0, owner))


def _sum_of(image: Tensor, vectors: Tensor) -> Tensor:
    """``image @ vectors``, not as a product of matrices, which autocast and TF32 would round."""
    return (image[:, :, None] * vectors).sum(1)
