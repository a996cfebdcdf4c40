"""Launches the kernels of ``kernels/mixing.py``: radial weights made and consumed on chip, and their derivatives.

How many rows and channels a program takes stands in ``triton_sizes.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction.radial import HIDDEN
from ..contraction.triton_sizes import ROWS, Key, Sizes, chosen
from ..kernels import launch
from ..kernels.launch import launch as run
from ..precision import matmul_precision

PROGRAMS = 264  # that run at a time on a GPU, two on each of 132 multiprocessors


class Rows(NamedTuple):
    """Rows of D edges each: the first, how many, and the first edge in the order of the plan."""

    D: int
    first: int
    size: int
    first_edge: int


class Messages(NamedTuple):
    """What ``messages`` reads and writes, of m = 0 or of all others; shapes are those in the kernel."""

    weights: Tensor
    biases: Tensor
    x: Tensor
    y: Tensor
    targets: Tensor
    networks: Tensor


class ByHidden(NamedTuple):
    """What ``by_hidden`` reads, of m = 0 or of all others."""

    weights: Tensor
    x: Tensor
    dy: Tensor
    by_network: Tensor
    ends: Tensor


class ByWeights(NamedTuple):
    """What ``by_weights`` reads, of m = 0 or of all others."""

    x: Tensor
    dy: Tensor
    ends: Tensor
    networks: Tensor


@dataclass(frozen=True)
class Products:
    """The launches on a device, for numbers of a dtype, and what chooses their sizes, for a GPU of some name."""

    device: torch.device
    dtype: torch.dtype
    choose: Callable[[Key, str], Sizes] = chosen

    def messages(self, row_sets: Sequence[Rows], g: Tensor, m0: Messages, m: Messages, has_bias: bool) -> None:
        """Write the messages ``y``; g is ``[networks, rows, 32]``."""
        (edges, C), P = m0.x.shape[2:], m0.y.shape[3]
        degrees = len(m0.networks), len(m0.y), len(m.networks), len(m.y)
        for rows in row_sets:
            sizes = self._sizes("messages", rows.D, C, P, degrees, has_bias)
            tiles = len(m0.y) * (P // sizes["PT0"]) + len(m.y) * (P // sizes["PT"])
            run(
                mixing().messages, (blocks(rows.size, sizes["ROWS"]) * tiles,),
                g, *m0, *m, len(m0.y), len(m.y), edges, g.shape[1], *rows[1:],
                D=rows.D, HAS_M=len(m.y) > 0, P=P, C=C, HAS_BIAS=has_bias, **sizes, **self._precision,
            )  # fmt: skip

    def by_hidden(self, row_sets: Sequence[Rows], dg: Tensor, m0: ByHidden, m: ByHidden, of_networks: Tensor) -> None:
        """Write the derivatives with respect to g."""
        (edges, C), P = m0.x.shape[2:], m0.dy.shape[3]
        for rows in row_sets:
            sizes = self._sizes("by_hidden", rows.D, C, P, (len(m0.ends), len(m.ends)))
            run(
                mixing().by_hidden, (blocks(rows.size, sizes["ROWS"]), len(dg)),
                *m0[:3], *m[:3], dg, of_networks, m0.by_network, m.by_network, m0.ends, m.ends,
                edges, dg.shape[1], *rows[1:],
                D=rows.D, HAS_M=len(m.ends) > 0, P=P, C=C, **sizes, **self._precision,
            )  # fmt: skip

    def by_weights(self, row_sets: Sequence[Rows], g: Tensor, m0: ByWeights, m: ByWeights) -> list[Tensor]:
        """The derivatives with respect to weights and biases of m = 0, then of all others, in parts that are to be
        added up: ``[parts, kernels, P, AB, C, 32]`` and ``[parts, kernels, P, AB, C]``.
        """
        (edges, C), P = m0.x.shape[2:], m0.dy.shape[3]
        counts = len(m0.ends), len(m.ends)
        parts = []
        for rows in row_sets:
            sizes = self._sizes("by_weights", rows.D, C, P, counts)
            programs = counts[0] * P // sizes["PT0"] + counts[1] * P // sizes["PT"]
            parts.append((rows, sizes, programs, *parts_of(rows.size, programs * C // sizes["CT"])))
        total, sums, given = sum(n for *_, n in parts), [], []
        for which, side in enumerate((m0, m)):
            b = g.new_empty(total, counts[which], P, 1 + which, C)
            sums += [g.new_empty(*b.shape, HIDDEN), b]
            given += [side.x, side.dy, *sums[-2:], side.ends, side.networks]
        first = 0
        for rows, sizes, programs, of_part, count in parts:
            run(
                mixing().by_weights, (programs, count, C // sizes["CT"]),
                g, *given, *counts, edges, g.shape[1], *rows[1:], of_part, first,
                D=rows.D, HAS_M=counts[1] > 0, P=P, C=C, **sizes, **self._precision,
            )  # fmt: skip
            first += count
        return sums

    def _sizes(self, kernel: str, D: int, C: int, P: int, degrees: tuple[int, ...], has_bias: bool = False) -> Sizes:
        precision = "float64" if self.dtype == torch.float64 else matmul_precision()
        key = Key(kernel, launch.capability(self.device), precision, D, C, P, degrees, has_bias)
        return self.choose(key, launch.gpu_name(self.device))

    @property
    def _precision(self) -> dict[str, Any]:
        """How products are made."""
        import triton.language as tl

        if self.dtype == torch.float64:
            return {"H": HIDDEN, "DOT": tl.float64, "SUM": tl.float64, "PRECISION": "ieee"}
        how = {"highest": (tl.float32, "tf32x3"), "high": (tl.float32, "tf32"), "medium": (tl.bfloat16, "ieee")}
        dot, precision = how[matmul_precision()]
        return {"H": HIDDEN, "DOT": dot, "SUM": tl.float32, "PRECISION": precision}


def mixing() -> Any:
    """The kernels of that name; this imports Triton."""
    from ..kernels import mixing

    return mixing


def blocks(count: int, tile: int) -> int:
    """Tiles that hold so many."""
    return -(-count // tile)


def parts_of(rows: int, programs: int) -> tuple[int, int]:
    """Rows of a part of a sum over rows, and how many parts, times so many programs.

    They are as few as keep nine tenths of a GPU at work until the last program ends.
    """

    def at_work(parts: int) -> float:
        return parts * programs / (blocks(parts * programs, PROGRAMS) * PROGRAMS)

    counts = range(1, 1 + max(1, min(blocks(2 * PROGRAMS, programs), blocks(rows, ROWS))))
    parts = next((n for n in counts if at_work(n) >= 0.9), max(counts, key=at_work))
    of_part = blocks(blocks(rows, parts), ROWS) * ROWS
    return of_part, blocks(rows, of_part) if rows else 0
