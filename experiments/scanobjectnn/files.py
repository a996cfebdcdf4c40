"""The files of ScanObjectNN, for those who have them: read in a process of its own, and checked.

HDF5 is a format that a small file can fill any memory with, and whose reader damaged files can end: a process that may
take so much and no more, and whose end is noticed, is proof against both.
"""

from __future__ import annotations

import os
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pebble import ProcessExpired, ProcessPool

from experiments.scanobjectnn.scans import Scans

CLASSES = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink",
    "sofa", "toilet",
)  # fmt: skip
FILES = ("training_objectdataset.h5", "test_objectdataset.h5")
POINTS = 2048  # of a scan
MOST = 10_000  # scans in a file; the real ones have 2,309 and 581
MEMORY = 2 * 2**30  # bytes that reading a file may take; a real one takes 100 MB
SECONDS = 120.0  # that it may take
BACKGROUND = -1  # in the mask


def read_scanobjectnn(folder: str | os.PathLike[str], up: Literal["x", "y", "z"]) -> tuple[Scans, Scans]:
    """The training and test scans of a split of ScanObjectNN (arXiv 1908.04616).

    Args:
        folder: ``main_split`` or ``main_split_nobg``, with the two files in it.
        up: which axis of the files points up.

    Returns:
        the scans of either file, with z up.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        ValueError: the files are not there, or not what they should be.
        OSError: they cannot be read.
    """
    if find_spec("h5py") is None:
        raise ModuleNotFoundError("h5py is not installed: pip install h5py")
    paths = [Path(folder) / name for name in FILES]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise ValueError(f"{folder}: expected {' and '.join(FILES)}, as in main_split_nobg, got no {missing[0]}")
    # Not forked: this process may have threads.
    with ProcessPool(max_workers=1, context=get_context("spawn")) as pool:
        train, test = (_in_process(pool, path) for path in paths)
    return _upright(train, up), _upright(test, up)


def _in_process(pool: ProcessPool, path: Path) -> Scans:
    try:
        return pool.schedule(_read_within, args=(path, MEMORY), timeout=SECONDS).result()
    except TookTooLong as error:
        raise ValueError(f"{path}: expected a file that is read in {SECONDS:.0f} s, it takes longer") from error
    except (ProcessExpired, MemoryError) as error:
        raise ValueError(
            f"{path}: expected a whole HDF5 file that takes less than {MEMORY >> 30} GiB, reading it failed"
        ) from error


def _read_within(path: Path, memory: int) -> Scans:
    """:func:`read_file`, in a process that may have so much memory in all."""
    import h5py  # noqa: F401  before the limit, which is on what the file takes

    with suppress(ImportError):  # there is none on Windows
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    return read_file(path)


def read_file(path: str | os.PathLike[str]) -> Scans:
    """The scans of a file, checked, as they stand there. For files of others :func:`read_scanobjectnn` is safer.

    Args:
        path: an HDF5 file with ``data``, float32 ``[scans, 2048, 3]``; ``label``, whole numbers from 0 to 14
            ``[scans]``; and maybe ``mask``, ``[scans, 2048]``, -1 for what is behind the object.

    Raises:
        ValueError: the file, named, is not that.
    """
    import h5py  # optional, and the message of who calls this says so

    try:
        with h5py.File(path, "r") as file:
            points = _array(file, "data", "float32", (None, POINTS, 3))
            count = len(points)
            labels = _array(file, "label", "whole numbers", (count,))
            mask = _array(file, "mask", "numbers", (count, POINTS)) if "mask" in file else np.zeros((count, POINTS))
    except (OSError, RuntimeError, KeyError) as error:  # what h5py stumbles over in damaged files
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: expected a whole HDF5 file of ScanObjectNN: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: data: expected finite numbers, got NaN or infinity")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"{path}: label: expected 0 to {len(CLASSES) - 1}, got {labels.min()} to {labels.max()}")
    return Scans(points, mask != BACKGROUND, labels.astype(np.int64))


KINDS = {"float32": "f", "whole numbers": "iu", "numbers": "iuf"}


def _array(file: Any, name: str, kind: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """An array of a file, looked at before it is read."""
    import h5py

    expected = f"{name}: expected {kind} [{', '.join('scans' if n is None else str(n) for n in shape)}]"
    link = file.get(name, getlink=True)
    found = file.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
        raise ValueError(f"{expected}, got none in the file itself")
    fits = found.ndim == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
    if not fits or found.dtype.kind not in KINDS[kind] or (kind == "float32" and found.dtype != np.float32):
        raise ValueError(f"{expected}, got {found.dtype} {list(found.shape or ())}")
    if not 1 <= len(found) <= MOST:
        raise ValueError(f"{name}: expected 1 to {MOST:,} scans, got {len(found):,}")
    return found[()]


def _upright(scans: Scans, up: Literal["x", "y", "z"]) -> Scans:
    """Scans whose axis ``up`` becomes z, by a rotation."""
    return Scans(np.roll(scans.points, 2 - "xyz".index(up), axis=-1), scans.on_object, scans.labels)
