"""Weights of the published code, which stand beside a basis of other signs, turned into weights of this library."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..basis_signs import OURS, THEIRS, last_layers, version, with_versions
from .tables import Signs, Triple, is_triple, triples


def converted(state_dict: Mapping[str, Any], signs: Mapping[Triple, int]) -> OrderedDict[str, Any]:
    r"""Weights for this library's signs of the basis, from weights for a client's, or the other way.

    The signs of the published :math:`Q_J` depend on the machine that they were computed on. Messages are sums over J
    of :math:`R_J W_J`, so the rows of the last layer of the radial networks that make :math:`R_J` are negated wherever
    the sign is -1. To do so twice gives the weights again: converted in the other direction, weights that were trained
    here run there.

    Args:
        state_dict: of a layer or a model of any of them, under any prefix; or anything else with the names and shapes
            of the parameters, such as their gradients. A value may be None.
        signs: of the client, from :func:`read_signs`, :func:`signs` or :func:`fit_signs`: what a :class:`Signs` lacks
            is unknown. In a plain dict ``{(k, l, J): 1 or -1}`` what is absent counts as 1, so that ``{}`` says that
            these are weights of this library.

    Returns:
        an OrderedDict, as of ``state_dict()``, with the same names in the same order. Negated values are new tensors,
        others are shared. Where the weights are now this library's, its metadata say so, and loading does not warn.

    Raises:
        TypeError: an argument is no mapping, or a weight no tensor of floating-point numbers.
        ValueError: a key of ``signs`` is no (k, l, J), a sign is not 1 or -1, one that is needed is unknown, or a
            weight has another shape.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping from names to tensors, got {type(state_dict).__name__}")
    if wrong := [name for name, value in state_dict.items() if isinstance(value, Mapping)]:
        raise TypeError(f"state_dict must be a mapping from names to tensors, got a checkpoint: take its {wrong[0]!r}")
    check_signs(signs)
    found, versions = with_versions(state_dict, {}), {}
    for name, (kernel, k, l) in last_layers(state_dict).items():
        if (value := state_dict[name]) is not None:
            _check_rows(value, 2 * min(k, l) + 1, name)
            pattern = [_sign(signs, triple, name) for triple in triples(k, l)]
            if -1 in pattern:
                found[name] = _with_signs(value, pattern)
            versions[kernel] = THEIRS if -1 in pattern and version(state_dict, kernel) == OURS else OURS
    return with_versions(found, versions)


def check_signs(signs: Any) -> None:
    """Refuse ``signs`` that are not ``{(k, l, J): 1 or -1}``.

    Raises:
        TypeError, ValueError: as said, for another type and for other content.
    """
    if not isinstance(signs, Mapping):
        raise TypeError(f"signs must be {{(k, l, J): 1 or -1}}, got {type(signs).__name__}")
    for triple, sign in signs.items():
        if not is_triple(triple):
            raise ValueError(f"signs must have keys (k, l, J) with J from |k - l| to k + l, got {triple!r}")
        if isinstance(sign, bool) or sign not in (1, -1):
            raise ValueError(f"signs must be 1 or -1, got {sign!r} for {triple}")


def _sign(signs: Mapping[Triple, int], triple: Triple, name: str) -> int:
    if isinstance(signs, Signs) and triple not in signs:
        raise ValueError(f"signs must hold (k, l, J) = {triple} for {name}, and do not: they are of smaller degrees")
    return int(signs.get(triple, 1))


def _check_rows(value: Any, num_freq: int, name: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    shape = "[rows, hidden values]" if name.endswith("weight") else "[rows]"
    if value.dim() != shape.count(",") + 1 or not len(value) or len(value) % num_freq:
        raise ValueError(f"{name} must have shape {shape}, rows a multiple of {num_freq}, got {list(value.shape)}")


def _with_signs(value: Tensor, pattern: list[int]) -> Tensor:
    """The rows, which are numbered (channel out, channel in, J), times their signs."""
    rows = torch.tensor(pattern, dtype=value.dtype, device=value.device).repeat(len(value) // len(pattern))
    return value.detach() * rows.view(-1, *(1,) * (value.dim() - 1))
