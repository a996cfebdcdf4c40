"""Folders and JSON files; those are either the whole new content or the untouched old one, whatever interrupts."""

from __future__ import annotations

import codecs
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from equivariant_attention.files import atomic_write
from equivariant_attention.pickles import check_nesting

LOCK = "lock"
LARGEST_JSON, LARGEST_TEXT = 1 << 24, 1 << 28  # bytes


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder, unless it is there, and find out whether files can be written to it.

    Args:
        path: the folder; missing parents are made.

    Returns:
        the folder.

    Raises:
        OSError: it cannot be made or written to; NotADirectoryError where it is a file.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{path}: expected a folder, got a file")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[None]:
    """A context in which no other process gets the lock of a folder, which is the file ``lock`` in it.

    The lock ends with its process, however that ends, and is not inherited by workers that load data.

    Args:
        folder: which is there.

    Raises:
        BlockingIOError: another process has it.
        OSError: from the file system.
    """
    lock = FileLock(Path(folder) / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{folder} is in use by another process") from error
    try:
        yield
    finally:
        lock.release()


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file as others write it: UTF-8 or UTF-16 with a byte-order mark, UTF-8, or else Latin-1.

    Lines end with a line feed, whatever they end with in the file.

    Args:
        path: file to read.

    Raises:
        OSError: it cannot be read.
        ValueError: it has the mark of UTF-16 and is something else, or is of more than 256 MiB.
    """
    with open(path, "rb") as file:  # a device has no size, and no end
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise ValueError(f"expected a text of at most {LARGEST_TEXT:,} bytes, got more")
    return _decoded(content).replace("\r\n", "\n").replace("\r", "\n")


def _decoded(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write indented JSON, atomically.

    Args:
        path: file to write.
        obj: what to write.

    Raises:
        TypeError, ValueError: JSON cannot hold it (NaN and infinity included). The file is not touched.
        OSError: from the file system.
    """
    content = json.dumps(obj, indent=2, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(content + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Args:
        path: file to read.

    Raises:
        OSError: it cannot be read; FileNotFoundError where there is none.
        ValueError: it is not JSON, which has no NaN and no infinity, of more than 16 MiB, or nested too deeply.
    """
    if (size := Path(path).stat().st_size) > LARGEST_JSON:
        raise ValueError(f"{path}: expected a JSON file of at most {LARGEST_JSON:,} bytes, got {size:,}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=_finite, parse_constant=_finite)
        check_nesting(content)
        return content
    except (ValueError, RecursionError) as error:  # the latter where it is nested too deeply
        raise ValueError(f"{path}: expected a JSON file: {error}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text[:20]}")
    return value
