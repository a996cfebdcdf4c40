"""Arrays from files of others: .npz, pickles and torch files, read as data only, never run."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch

from equivariant_attention import pickles
from equivariant_attention.checkpoints import in_few_lines
from equivariant_attention.files import check_archive
from equivariant_attention.pickles import check_values
from equivariant_attention.torch_files import load_torch

LARGEST = 2**53  # float64 holds every whole number up to this one


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of an .npz.

    Args:
        path: file to read.

    Raises:
        ValueError: it is damaged, holds more than plain arrays, or far more than a file of its size does.
    """
    try:
        with open(path, "rb") as file:
            check_archive(file)
            with np.load(file, allow_pickle=False) as content:
                arrays = dict(content)
        for name, array in arrays.items():
            if array.dtype.kind not in "biufcSU":
                raise ValueError(f"{name} is of {array.dtype}")
            check_values(array)
        return arrays
    except Exception as error:  # damaged archives raise what zlib, zipfile and NumPy happen to stumble over
        raise ValueError(f"expected a whole .npz of plain arrays: {in_few_lines(error, 1)}") from error


def read_pickle(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dict in a pickle; anything in it but NumPy arrays, numbers, strings and plain containers is refused.

    Args:
        path: file to read.

    Raises:
        ValueError: it is damaged, holds something else, or no dict with names as keys.
    """
    try:
        with open(path, "rb") as file:
            content = pickles.load(file)
    except Exception as error:  # damaged pickles raise almost anything
        raise ValueError(f"expected a whole pickle of arrays and plain containers: {in_few_lines(error, 1)}") from error
    return _named(content)


def read_torch(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The dict in a file of ``torch.save``; besides what :func:`read_pickle` reads, tensors.

    Args:
        path: file to read.

    Raises:
        ValueError: it is damaged, holds something else, or no dict with names as keys.
    """
    try:
        with open(path, "rb") as file:
            content = load_torch(file)
    except Exception as error:
        reason = in_few_lines(error, 1)
        raise ValueError(f"expected a whole torch file of arrays and plain containers: {reason}") from error
    return _named(content)


def as_floats(name: str, array: Any) -> np.ndarray:
    """Real numbers of any type in float64.

    Args:
        name: what the array is called in the error.
        array: a NumPy array or a tensor.

    Raises:
        ValueError: it is none, or of another type.
    """
    if isinstance(array, torch.Tensor) and not array.is_complex():
        array = array.detach().cpu().double().numpy()  # NumPy knows no bfloat16
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        kind = array.dtype if hasattr(array, "dtype") else type(array).__name__
        raise ValueError(f"{name}: expected an array of real numbers, got {kind}")
    return array.astype(np.float64)


def as_integers(name: str, array: Any) -> np.ndarray:
    """Whole numbers, of any integer or float type, in int64.

    Args:
        name: what the array is called in the error.
        array: a NumPy array or a tensor.

    Raises:
        ValueError: it is none, of another type, or holds other numbers.
    """
    numbers = as_floats(name, array)
    if not ((np.abs(numbers) <= LARGEST) & (numbers == np.rint(numbers))).all():
        raise ValueError(f"{name}: expected whole numbers, of size up to 2^53, got others")
    return numbers.astype(np.int64)


def _named(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"expected a dict with names as keys, got {type(content).__name__}")
    return content
