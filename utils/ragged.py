"""Pieces of different lengths, one after the other in one array."""

from __future__ import annotations

import numpy as np


def starts(sizes: np.ndarray) -> np.ndarray:
    """Where each piece begins, and where the last one ends: int64 ``[pieces + 1]``.

    Args:
        sizes: of the pieces, ``[pieces]``.
    """
    return np.concatenate([[0], np.cumsum(sizes)])


def ranges(first: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The integers of [first, first + size), range after range.

    Args:
        first, sizes: int ``[ranges]``.
    """
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + sizes, sizes)
