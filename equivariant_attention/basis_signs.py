"""Which signs of the basis weights were trained with: the metadata of a state dict, which PyTorch saves, tell that."""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
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


def metadata(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A copy of the metadata of a ``state_dict``, which keep something of every module; empty, if it has none."""
    found = getattr(state_dict, "_metadata", None)
    return OrderedDict(found) if isinstance(found, Mapping) else OrderedDict()


def version(state_dict: Mapping[str, Any], kernel: str) -> int:
    """What the metadata of a ``state_dict`` say of the weights of a ``kernel``: THEIRS, UNKNOWN or OURS."""
    of_kernel = metadata(state_dict).get(kernel)
    found = of_kernel.get("version") if isinstance(of_kernel, Mapping) else None
    return found if found in (THEIRS, OURS) else UNKNOWN


def with_versions(state_dict: Mapping[str, Any], versions: Mapping[str, int]) -> OrderedDict[str, Any]:
    """The values and metadata of a ``state_dict``, with other ``versions`` of some kernels."""
    marked, kept = OrderedDict(state_dict), metadata(state_dict)
    marked._metadata = kept | {kernel: {"version": version} for kernel, version in versions.items()}  # type: ignore
    return marked


def with_our_signs(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """The same ``state_dict``, which now says that its signs are this library's, unless it said that they are not."""
    kernels = {kernel for kernel, *_ in last_layers(state_dict).values()}
    return with_versions(state_dict, {k: OURS for k in kernels if version(state_dict, k) != THEIRS})


_has_warned = False


def warn_of_unknown_signs() -> None:
    """Say what is to be done with weights of unknown origin, once per process."""
    global _has_warned
    if _has_warned:
        return
    _has_warned = True  # first, so that it is once where warnings are errors, too
    warnings.warn(
        "weights are loaded that do not say whose basis they were trained with. Those of the published code need the "
        "signs of the cache/trans_Q that was beside them, or outputs are wrong: load "
        "equivariant_attention.published.converted(weights, signs), with signs from published.read_signs(folder) or "
        "published.signs(name), or convert the file: python -m equivariant_attention.published convert. Weights of "
        "this library that were kept without their metadata: published.converted(weights, {})",
        stacklevel=2,
    )
