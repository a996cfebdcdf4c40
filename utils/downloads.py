"""Downloads that go on where they broke off."""

from __future__ import annotations

import os
import ssl
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from equivariant_attention.files import named
from utils import hashes

BLOCK = 1 << 16  # bytes
BROKEN = (HTTPException, URLError, TimeoutError, ConnectionError, ssl.SSLError)


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    timeout: float = 30.0,
    progress: bool = False,
) -> Path:
    """Download a file, unless it is there.

    What has come is kept next to it, ending in '.part', and gone on from, by this call as long as every new connection
    brings something, and by later calls.

    Args:
        url: where from.
        path: where to; missing parent folders are made.
        sha256: of the file, where it is known.
        timeout: seconds without an answer after which a connection counts as broken.
        progress: show a progress bar.

    Returns:
        the path.

    Raises:
        ConnectionError: the file could not be had; the message says what can be done.
        ValueError: what is there, or what came, which is then removed, has another SHA-256.
        OSError: it cannot be written.
    """
    path = Path(path)
    if path.exists():
        _check(path, sha256, "remove it and run the same again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    before, reason = -1, "the connection ended early"
    while (size := part.stat().st_size if part.exists() else 0) > before:
        before = size
        try:
            if _go_on(url, part, size, timeout, progress):
                return _finish(part, path, sha256)
        except BROKEN as error:
            reason = str(error)
    raise ConnectionError(
        f"{url} could not be downloaded: {reason}. The {size:,} bytes that came are kept: run the same again to go on, "
        f"or put the file at {path} by other means"
    )


def _finish(part: Path, path: Path, sha256: str | None) -> Path:
    try:
        _check(part, sha256, "it is removed, run the same again")
    except ValueError:
        part.unlink()
        raise
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    return part.replace(path)


def _check(path: Path, expected: str | None, remedy: str) -> None:
    if expected is not None and (found := hashes.sha256(path)) != expected:
        raise ValueError(f"{path}: expected a file of SHA-256 {expected}, got {found}; {remedy}")


def _go_on(url: str, part: Path, size: int, timeout: float, progress: bool) -> bool:
    """Download what comes after the first ``size`` bytes, which are in ``part``. Whether that was all."""
    request = Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urlopen(request, timeout=timeout)
    except HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{size}":  # there is nothing after them
            return True
        raise
    with response:
        if response.status != 206:  # the server sends it from the beginning
            size = 0
        length = response.headers.get("Content-Length")
        total, off = None if length is None else size + int(length), None if progress else True
        with (
            named(part),
            open(part, "ab" if size else "wb") as file,
            tqdm(total=total, initial=size, desc=part.stem, unit="B", unit_scale=True, disable=off) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
        return total is None or part.stat().st_size == total
