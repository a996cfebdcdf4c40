"""Whose signs of the basis weights have: what the metadata of a state dict say, which PyTorch keeps in files."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from functools import cache
from typing import Any

# Versions of PairwiseConv. The published code leaves 1 in its files, and its signs depend on where it ran; weights that
# were converted to the signs of a client have 0.
THEIRS, UNKNOWN, OURS = 0, 1, 2

LAST_LAYER = re.compile(r"((?:.*\.)?kernel_unary\.\((\d+),(\d+)\))\.rp\.net\.6\.(weight|bias)")


def last_layers(state_dict: Mapping[str, Any]) -> dict[str, tuple[str, int, int]]:
    """What in a state dict belongs to the last layers of radial networks, whose rows have the signs of the basis.

    Args:
        state_dict: of any module.

    Returns:
        for each such name, the kernel that it belongs to and the degrees in and out.
    """
    matches = {name: LAST_LAYER.fullmatch(str(name)) for name in state_dict}
    return {name: (found[1], int(found[2]), int(found[3])) for name, found in matches.items() if found}


def version(state_dict: Mapping[str, Any], kernel: str) -> int:
    """What the metadata of a ``state_dict`` say of the weights of a ``kernel``: THEIRS, UNKNOWN or OURS."""
    found = getattr(state_dict, "_metadata", {}).get(kernel, {}).get("version")
    return UNKNOWN if found is None else found


def with_origin(
    values: Mapping[str, Any], metadata: Mapping[str, Any], versions: Mapping[str, int]
) -> OrderedDict[str, Any]:
    """A state dict of ``values`` with its ``metadata``, and in these the ``versions`` of some kernels."""
    marked, metadata = OrderedDict(values), OrderedDict(metadata)
    metadata.update({kernel: {**metadata.get(kernel, {}), "version": version} for kernel, version in versions.items()})
    marked._metadata = metadata  # type: ignore[attr-defined]
    return marked


def with_our_signs(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """The same ``state_dict``, which now says that its signs are this library's, unless it said that they are not."""
    kernels = {kernel for kernel, *_ in last_layers(state_dict).values()}
    versions = {kernel: OURS for kernel in kernels if version(state_dict, kernel) != THEIRS}
    return with_origin(state_dict, getattr(state_dict, "_metadata", {}), versions)


@cache  # once per process
def warn_of_unknown_signs() -> None:
    """Say what is to be done with weights of unknown origin."""
    warnings.warn(
        "weights are loaded that do not say whose basis they were trained with. Those of the published code need the "
        "signs of the cache/trans_Q that was beside them, or outputs are wrong: load "
        "equivariant_attention.published.converted(weights, signs), with signs from published.read_signs(folder) or "
        "published.signs(name), or convert the file: python -m equivariant_attention.published convert. Weights of "
        "this library that were kept without their metadata: published.converted(weights, {})",
        stacklevel=2,
    )
