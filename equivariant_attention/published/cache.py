"""The folder in which the published code keeps its couplings: whose signs are they?"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..checkpoints import described, in_few_lines
from ..so3 import coupling
from ..torch_files import load_pickle
from .tables import Signs, Triple, is_triple

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
        entries = _read(file, folder / INDEX, _entries)
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
    if not isinstance(content, dict):
        raise ValueError(f"expected a dict from (J, degree in, degree out) to names of files, got {described(content)}")
    entries = []
    for key, name in content.items():
        arguments = key[0] if isinstance(key, tuple) and key and isinstance(key[0], tuple) else key
        if not isinstance(arguments, tuple) or len(arguments) < 3 or any(type(n) is not int for n in arguments[:3]):
            raise ValueError("expected keys (J, degree in, degree out), got something else")
        J, k, l = arguments[:3]
        if not is_triple((k, l, J)) or max(k, l) > LARGEST_DEGREE:
            raise ValueError(f"expected k and l up to {LARGEST_DEGREE}, J from |k - l| to k + l, got {(k, l, J)}")
        if not isinstance(name, str) or not name or Path(name).name != name or "\0" in name:
            raise ValueError(f"expected the name of a file in the folder for (k, l, J) = {(k, l, J)}")
        entries.append(((k, l, J), name))
    return entries


def _read_sign(path: Path, triple: Triple) -> int:
    with gzip.open(path) as file:
        return _read(file, path, lambda content: _sign(_numbers(content), triple))


def _numbers(content: Any) -> Tensor:
    """All numbers of an array or a tensor of floats, in order and in float64."""
    if isinstance(content, np.ndarray) and content.dtype.kind == "f":
        content = torch.from_numpy(content.astype(np.float64))
    if not isinstance(content, Tensor) or not content.is_floating_point():
        raise ValueError(f"expected an array of floats, got {described(content)}")
    return content.detach().double().flatten()


def _sign(Q: Tensor, triple: Triple) -> int:
    k, l, J = triple
    ours = coupling(l, k, J).flatten()
    if len(Q) != len(ours):
        raise ValueError(f"expected {len(ours)} numbers for (k, l, J) = {triple}, got {len(Q)}")
    overlap, norm = float(Q @ ours), float(Q.norm())
    if not (abs(abs(overlap) - 1) < 1e-3 and abs(norm - 1) < 1e-3):
        raise ValueError(f"expected the coupling of (k, l, J) = {triple}, of norm 1, up to its sign")
    return round(overlap) * (-1) ** J


def _read(file: BinaryIO | gzip.GzipFile, path: Path, reader: Callable[[Any], Any]) -> Any:
    """What ``reader`` makes of what the pickle in a file holds."""
    try:
        content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it is larger than {LARGEST_FILE} bytes")
        return reader(load_pickle(io.BytesIO(content)))
    except Exception as error:  # damaged files raise almost anything
        reason = in_few_lines(error, 1) or "it is damaged"
        raise ValueError(f"{path}: no file of the published code's cache: {reason}") from error
