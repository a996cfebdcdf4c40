"""The folder in which the published code keeps its couplings: whose signs are they?"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..checkpoints import in_few_lines
from ..so3 import coupling
from .pickles import Pairs, as_array, parsed
from .tables import Signs, Triple

INDEX = "index.pkl"
LARGEST_FILE = 2**20  # bytes, uncompressed; Q_J of degrees 4, 4 and 8 in float64 takes 11 kB
LARGEST_DEGREE = 10


def read_signs(folder: str | os.PathLike[str]) -> Signs:
    r"""The signs of the basis of a program made with the published code, from the folder that it keeps :math:`Q_J` in.

    The published harmonics are those of the opposite point, :math:`(-1)^J` times this library's, so the sign of the
    basis is that of :math:`(-1)^J \langle Q_J, Q_J' \rangle`, with Q' this library's
    :func:`~equivariant_attention.so3.coupling`. The files are read as data: no code in them is run, whatever they hold.

    Args:
        folder: usually ``cache/trans_Q``: an index, ``index.pkl``, which names the files ``*.pkl.gz``.

    Returns:
        the signs of all (k, l, J) whose files are there. An entry of the index whose file is missing is left out.

    Raises:
        OSError: the folder or a file cannot be read: FileNotFoundError where there is no index.
        ValueError: a file is damaged, too large or holds something else, or an array is not the coupling that the index
            says. The message names the file.
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"{folder}: expected a folder with {INDEX}, such as cache/trans_Q, and there is none")
    with open(folder / INDEX, "rb") as file:
        entries = _read(file, folder / INDEX, lambda content: _entries(parsed(content)))
    found: dict[Triple, int] = {}
    for triple, path in ((triple, folder / name) for triple, name in entries):
        if path.is_file():
            sign = _read_sign(path, triple)
            if found.setdefault(triple, sign) != sign:
                raise ValueError(f"{path}: has the other sign for (k, l, J) = {triple} than a file before it")
    if not found:
        raise ValueError(f"{folder}: none of the files that {INDEX} names is there")
    return Signs(sorted(found.items()))


def _entries(content: Any) -> list[tuple[Triple, str]]:
    """What an index says is in which file: (k, l, J), and its name in the folder."""
    if not isinstance(content, Pairs):
        raise ValueError("expected a dict from (J, degree in, degree out) to names of files")
    entries = []
    for key, name in content:
        arguments = key[0] if isinstance(key, tuple) and key and isinstance(key[0], tuple) else key
        if not isinstance(arguments, tuple) or len(arguments) < 3 or any(type(n) is not int for n in arguments[:3]):
            raise ValueError("expected keys (J, degree in, degree out), got something else")
        J, k, l = arguments[:3]
        if not (min(k, l) >= 0 and max(k, l) <= LARGEST_DEGREE and abs(k - l) <= J <= k + l):
            raise ValueError(f"expected k and l up to {LARGEST_DEGREE}, J from |k - l| to k + l, got {(k, l, J)}")
        if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
            raise ValueError(f"expected the name of a file in the folder for (k, l, J) = {(k, l, J)}")
        entries.append(((k, l, J), name))
    return entries


def _read_sign(path: Path, triple: Triple) -> int:
    with gzip.open(path) as file:
        return _read(file, path, lambda content: _sign(as_array(parsed(content)), triple))


def _sign(Q: np.ndarray, triple: Triple) -> int:
    k, l, J = triple
    ours = coupling(l, k, J).numpy()
    if Q.size != ours.size:
        raise ValueError(f"expected {ours.size} numbers for (k, l, J) = {triple}, got {Q.size}")
    with np.errstate(over="ignore", invalid="ignore"):
        overlap, norm = float(Q.reshape(-1) @ ours.reshape(-1)), float(np.linalg.norm(Q))
    if not np.isclose(abs(overlap), 1, atol=1e-3) or not np.isclose(norm, 1, atol=1e-3):
        raise ValueError(f"expected the coupling of (k, l, J) = {triple}, of norm 1, up to its sign")
    return round(overlap) * (-1) ** J


def _read(file: BinaryIO | gzip.GzipFile, path: Path, reader: Callable[[BinaryIO], Any]) -> Any:
    """What ``reader`` makes of the content of a file."""
    try:
        content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE} bytes")
        return reader(io.BytesIO(content))
    except Exception as error:  # damaged files raise almost anything
        reason = in_few_lines(error, 1) or "it is damaged"
        raise ValueError(f"{path}: no file of the published code's cache: {reason}") from error
