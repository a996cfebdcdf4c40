"""Arrays that are made once and found again: under all that they depend on, and checked against their hash."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from utils.arrays import read_npz
from utils.files import atomic_write, make_folder

Arrays = Mapping[str, np.ndarray]


def load_or_make(path: str | os.PathLike[str], key: str, make: Callable[[], Arrays], doing: str) -> Arrays:
    """The arrays of a cache; where there is none they are made, and kept there.

    A cache that is damaged, or of something else, is reported by a warning and made anew.

    Args:
        path: of the cache, an .npz; missing parent folders are made.
        key: all that the arrays depend on.
        make: makes them.
        doing: what that is, for the warning.

    Raises:
        OSError: the cache cannot be written. What can be found out before is, before the arrays are made.
    """
    path = Path(path)
    if path.exists():
        try:
            return _read(path, key)
        except (OSError, ValueError) as error:
            warnings.warn(f"{path} is not the cache it should be, {doing} again: {error}", stacklevel=3)
    make_folder(path.parent)
    arrays = make()
    with atomic_write(path) as file:
        np.savez(file, key=key, sha256=_sha256(arrays), **arrays)
    return arrays


def _read(path: Path, key: str) -> Arrays:
    arrays = read_npz(path)
    found, sha256 = (str(arrays.pop(name, None)) for name in ("key", "sha256"))
    if found != key:
        raise ValueError(f"expected the arrays of {key}, got those of {found}")
    if sha256 != _sha256(arrays):
        raise ValueError("its arrays are not those that were written")
    return arrays


def _sha256(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
