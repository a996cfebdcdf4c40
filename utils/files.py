"""Files that are either the whole new content or the untouched old one, whatever interrupts the writing."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> Iterator[IO]:
    """Open a file that takes the place of ``path`` only once the ``with`` block has ended without an exception.

    The content goes to a temporary file in the same folder, is forced to disk, and is then renamed. After an exception
    the temporary file is gone and what was at ``path`` is as before.

    Args:
        path: file to write; missing parent folders are created, a symbolic link is followed.
        mode: 'wb' for bytes, 'w' for text (UTF-8, line ends as written).

    Raises:
        ValueError: another mode.
        OSError: from the file system; IsADirectoryError where ``path`` is a folder.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode: expected 'wb' or 'w', got {mode!r}")
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: it would leave the file readable by its owner only.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    text = {} if mode == "wb" else {"encoding": "utf-8", "newline": ""}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        ValueError: it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected a JSON file: {error}") from error
