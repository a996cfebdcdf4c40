"""Launches the kernels of ``kernels/mixing.py``: radial weights made and consumed on chip, and their derivatives.

How many rows and channels a program takes follows from a rule, and nothing is tuned as it runs: from the channels, the
capability of the GPU, and the precision; never from how many edges there are. So a kernel is compiled once for a layer
of some size, and Triton's cache on disk keeps it for later processes. The rule is: as many as registers hold, as the
compiler reports for these sizes (``benchmarks/machine_code.py``). A program has 64 rows, or for sums over rows 32 or 16
at a time; what is told of channels stands at :meth:`Products.tiles` and beside the launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction.radial import HIDDEN
from ..kernels import launch
from ..kernels.launch import launch as run

PROGRAMS = 264  # that run at a time on a GPU, two on each of 132 multiprocessors
ROWS = 64  # of edges, in a program
CHANNELS = 32  # of features that a program takes at a time; in float64 half as many


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
    """The launches on a device, for numbers of a dtype."""

    device: torch.device
    dtype: torch.dtype

    def messages(self, row_sets: Sequence[Rows], g: Tensor, m0: Messages, m: Messages, has_bias: bool) -> None:
        """Write the messages ``y``; g is ``[networks, rows, 32]``."""
        (edges, C), P = m0.x.shape[2:], m0.y.shape[3]
        CT = min(C, self._channels)
        for rows in row_sets:
            (PT0, PD0), (PT, PD) = (self.tiles(max(AB, (rows.D + 1) // 2), AB, CT, P) for AB in (1, 2))
            tiles = len(m0.y) * (P // PT0) + len(m.y) * (P // PT)
            run(
                mixing().messages, (blocks(rows.size, ROWS) * tiles,),
                g, *m0, *m, len(m0.y), len(m.y), edges, g.shape[1], *rows[1:],
                D=rows.D, HAS_M=len(m.y) > 0, P=P, PT0=PT0, PD0=PD0, PT=PT, PD=PD, C=C, CT=CT,
                HAS_BIAS=has_bias, ROWS=ROWS, num_warps=4, num_stages=3 if self._is_roomy else 1, **self._precision,
            )  # fmt: skip

    def by_hidden(self, row_sets: Sequence[Rows], dg: Tensor, m0: ByHidden, m: ByHidden, of_networks: Tensor) -> None:
        """Write the derivatives with respect to g."""
        (edges, C), P = m0.x.shape[2:], m0.dy.shape[3]
        CT = min(C, self._channels)
        PT = min(P, (64 if self._is_roomy else 64 // self._registers) // CT)
        for rows in row_sets:
            run(
                mixing().by_hidden, (blocks(rows.size, ROWS), len(dg)),
                *m0[:3], *m[:3], dg, of_networks, m0.by_network, m.by_network, m0.ends, m.ends,
                edges, dg.shape[1], *rows[1:],
                D=rows.D, HAS_M=len(m.ends) > 0, P=P, PT=PT, C=C, CT=CT, ROWS=ROWS,
                num_warps=4, num_stages=1, **self._precision,
            )  # fmt: skip

    def by_weights(self, row_sets: Sequence[Rows], g: Tensor, m0: ByWeights, m: ByWeights) -> list[Tensor]:
        """The derivatives with respect to weights and biases of m = 0, then of all others, in parts that are to be
        added up: ``[parts, kernels, P, AB, C, 32]`` and ``[parts, kernels, P, AB, C]``.
        """
        (edges, C), P = m0.x.shape[2:], m0.dy.shape[3]
        counts = len(m0.ends), len(m.ends)
        CT = min(C, self._channels)
        PD = min(P, 64 // CT)
        PT0 = min(P, 4 * PD // (1 if self._is_roomy else self._registers))
        PT = min(P, 2 * PD // self._registers)
        programs = counts[0] * P // PT0 + counts[1] * P // PT
        parts = [(rows, *parts_of(rows.size, programs * C // CT)) for rows in row_sets]
        tile = ROWS // 2 if self._is_roomy else ROWS // (2 * self._registers)
        total, sums, given = sum(n for *_, n in parts), [], []
        for which, side in enumerate((m0, m)):
            b = g.new_empty(total, counts[which], P, 1 + which, C)
            sums += [g.new_empty(*b.shape, HIDDEN), b]
            given += [side.x, side.dy, *sums[-2:], side.ends, side.networks]
        first = 0
        for rows, of_part, count in parts:
            run(
                mixing().by_weights, (programs, count, C // CT),
                g, *given, *counts, edges, g.shape[1], *rows[1:], of_part, first,
                D=rows.D, HAS_M=counts[1] > 0, P=P, PT0=PT0, PT=PT, PD=PD, C=C, CT=CT, ROWS=tile,
                num_warps=4, num_stages=1, **self._precision,
            )  # fmt: skip
            first += count
        return sums

    def tiles(self, orders: int, AB: int, C: int, P: int) -> tuple[int, int]:
        """For a program that mixes C channels at a time: its channels out, and how many of them one product makes.

        Args:
            orders: 1, or 2 where a row has two orders of two edges each, or as many numbers.
            AB: how many tiles of radial weights a product makes for a channel out.
            C, P: channels in, and out.
        """
        most, columns = (8 if orders == 1 or C < 32 else 4, 64) if self._is_roomy else (4 // orders, 64 * orders)
        PT = min(P, most // (2 if self._is_roomy and self._is_bfloat16 else self._registers))
        return PT, max(1, min(PT, columns // (AB * C)))

    @property
    def _channels(self) -> int:
        """How many channels in a program takes at a time."""
        return CHANNELS // 2 if self.dtype == torch.float64 else CHANNELS

    @property
    def _registers(self) -> int:
        """How many registers a product takes, next to one in TF32: three of these need twice as many, as float64."""
        return 2 if self.dtype == torch.float64 or self._precision["PRECISION"] == "tf32x3" else 1

    @property
    def _is_roomy(self) -> bool:
        """Whether products read shared memory, as those of float32 on sm_90, and leave registers to others."""
        return launch.capability(self.device) // 10 == 9 and self.dtype == torch.float32

    @property
    def _is_bfloat16(self) -> bool:
        """Whether factors are rounded to bfloat16, which takes registers where others are read from shared memory."""
        return self.dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium"

    @property
    def _precision(self) -> dict[str, Any]:
        """How products are made."""
        import triton.language as tl

        if self.dtype == torch.float64:
            return {"H": HIDDEN, "DOT": tl.float64, "SUM": tl.float64, "PRECISION": "ieee"}
        how = {"highest": (tl.float32, "tf32x3"), "high": (tl.float32, "tf32"), "medium": (tl.bfloat16, "ieee")}
        dot, precision = how[torch.get_float32_matmul_precision()]
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
