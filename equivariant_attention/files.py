"""Files that are either the whole new content or the untouched old one, whatever interrupts the writing."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> Iterator[IO]:
    """Open a file that takes the place of ``path`` only once the ``with`` block has ended without an exception.

    The content goes to a temporary file in the same folder, is forced to disk, and is then renamed. After an exception
    the temporary file is gone and what was at ``path`` is as before.

    Args:
        path: file to write; missing parent folders are created, a symbolic link is followed.
        mode: 'wb' for bytes, 'w' for text (UTF-8, line ends as written).

    Returns:
        a context manager that gives the open file.

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
