"""Rows of numbers collected while training, and their CSV files."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from utils.files import atomic_write

Row = dict[str, float]


def write_csv(path: str | os.PathLike[str], rows: Sequence[Row]) -> None:
    """Write rows whole and atomically; floats as Python prints them, so nothing is rounded.

    Args:
        path: file to write.
        rows: of the same columns.
    """
    with atomic_write(path, "w") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


class Mean:
    """Weighted means of named numbers, accumulated in double precision."""

    def __init__(self) -> None:
        self._sums: Row = {}
        self._weight = 0.0

    def add(self, values: Row, weight: float) -> None:
        """Count numbers in.

        Args:
            values: numbers by name.
            weight: how much they count.
        """
        self._weight += weight
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value

    def summed(self, sum_over_processes: Callable[[Tensor], Tensor]) -> Mean:
        """What all processes together have added; all of them must have added something.

        Args:
            sum_over_processes: of a tensor.
        """
        sums = sum_over_processes(torch.tensor([self._weight, *self._sums.values()], dtype=torch.float64))
        total = Mean()
        total._weight, *values = sums.tolist()
        total._sums = dict(zip(self._sums, values, strict=True))
        return total

    def result(self, prefix: str = "") -> Row:
        """The means.

        Args:
            prefix: put before every name.

        Raises:
            ValueError: nothing was added.
        """
        if not self._weight:
            raise ValueError("mean of nothing: the loader gave no batches")
        return {prefix + name: total / self._weight for name, total in self._sums.items()}
