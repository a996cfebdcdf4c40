"""Files with weights of programs made with the published code, converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..basis_signs import last_layers
from ..checkpoints import read_tensors, write_tensors
from .cache import read_signs
from .conversion import converted
from .tables import Signs, signs


def convert(source: Path, target: Path, cache: Path | None, client: str | None) -> str:
    """Write a file with the weights of another converted; what is told of it.

    Args:
        source: a file of ``torch.save``, read without running code.
        target: file to write, whole or not at all.
        cache: the client's ``cache/trans_Q``.
        client: where there is none, one of ``NAMES``.

    Raises:
        ValueError: there are no weights of the published layers in the file, or signs are missing.
        OSError: from the file system.
    """
    table = signs(str(client)) if cache is None else read_signs(cache)
    names: list[str] = []
    content = _with_converted(read_tensors(source), table, names)
    if not names:
        raise ValueError(f"{source}: expected weights of the published layers, got no kernel_unary.(k,l).rp.net.6")
    write_tensors(target, content)
    return f"{target}: written, with {len(names)} tensors converted and all else as it was"


def _with_converted(content: Any, table: Signs, names: list[str]) -> Any:
    """What a file is to hold; containers are changed in place, so that they keep what they are.

    Args:
        content: of the file, with weights of kernels in it, however deep.
        table: of the signs.
        names: gets those of the tensors that are converted.
    """
    if isinstance(content, dict):
        if found := last_layers(content):
            names += found
            return converted(content, table)
        content.update({key: _with_converted(value, table, names) for key, value in content.items()})
    elif isinstance(content, list):
        content[:] = [_with_converted(part, table, names) for part in content]
    elif type(content) is tuple:
        return tuple(_with_converted(part, table, names) for part in content)
    return content
