"""What the files of a folder held when they were made: SHA256SUMS, which `sha256sum -c` reads as well."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from utils.files import atomic_write

SUMS = "SHA256SUMS"


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Args:
        path: file to read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def record(folder: str | os.PathLike[str], names: Iterable[str]) -> None:
    """Write the hashes of files to SHA256SUMS.

    Args:
        folder: where the files are.
        names: theirs.
    """
    lines = [f"{sha256(Path(folder) / name)}  {name}\n" for name in names]
    with atomic_write(Path(folder) / SUMS, "w") as file:
        file.writelines(lines)


def verify(folder: str | os.PathLike[str]) -> bool:
    """Whether there is a SHA256SUMS; if so, its files hold what they held when it was written.

    Args:
        folder: where it would be.

    Raises:
        ValueError: a file, named, does not.
    """
    sums = Path(folder) / SUMS
    if not sums.exists():
        return False
    for line in sums.read_text(encoding="utf-8").splitlines():
        expected, _, name = line.partition("  ")
        path = sums.parent / name
        if Path(name).name != name or not path.is_file() or sha256(path) != expected:
            raise ValueError(f"{path} is not as it was written (see {SUMS} there)")
    return True
