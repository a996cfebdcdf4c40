"""Files that are either the whole new content or the untouched old one, whatever interrupts the writing."""

from __future__ import annotations

import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

# What an archive may unpack to: as many bytes, or so many times its own size. Arrays of data shrink to a fifth at most.
SMALL, PACKED = 1 << 26, 32
END_RECORD, MANY = b"PK\x05\x06", 0xFFFF  # of an archive; in it, as many entries or more


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> Iterator[IO[Any]]:
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
        OSError: from the file system, with ``path`` as its ``filename``; IsADirectoryError where that is a folder.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode: expected 'wb' or 'w', got {mode!r}")
    target = Path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: it would leave the file readable by its owner only.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    encoding, newline = (None, None) if mode == "wb" else ("utf-8", "")
    try:
        with named(path, temporary), open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def named(path: str | os.PathLike[str], temporary: Path | None = None) -> Iterator[None]:
    """Let an OSError of the ``with`` block name a file where it names none, as that of a failed write does.

    Args:
        path: the file.
        temporary: what is written in its stead, which nobody knows.
    """
    try:
        yield
    except OSError as error:
        names_none = error.filename is None and error.errno is not None  # without a number, it is a message of its own
        if names_none or (temporary is not None and error.filename == str(temporary)):
            error.filename = os.fspath(path)
        raise


def check_archive(file: IO[bytes]) -> None:
    """Refuse a ZIP archive, as torch files and .npz are, with other bytes than were written, or far too many of them.

    Its entries have checksums, which PyTorch does not look at, and sizes, of which a small file may claim any. They may
    unpack to 32 times the file, or to 64 MiB where that is more. A file of another kind is left to who reads it.

    Args:
        file: open, at its beginning, where it is left.

    Raises:
        ValueError, zipfile.BadZipFile: it is damaged, or unpacks to more.
        OSError: it cannot be read.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked, most = sum(entry.file_size for entry in archive.infolist()), max(SMALL, PACKED * _size(file))
            if unpacked > most:
                raise ValueError(f"expected at most {most:,} bytes in an archive of its size, got {unpacked:,}")
            if _entries_recorded(file) not in (len(archive.infolist()), MANY):
                raise ValueError("it has not as many entries as were written")
            if damaged := archive.testzip():
                raise ValueError(f"{damaged} is damaged, it has not the checksum that was written with it")
    file.seek(0)


def _size(file: IO[bytes]) -> int:
    return file.seek(0, os.SEEK_END)


def _entries_recorded(file: IO[bytes]) -> int:
    """How many entries there are by the record at the end of an archive, which Python's reader does not compare."""
    file.seek(max(0, _size(file) - (1 << 16) - len(END_RECORD) - 18))
    record = file.read().rpartition(END_RECORD)[2]
    return int.from_bytes(record[6:8], "little")
