"""Refusing wrong input, with errors that name the argument, what was expected and what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Fiber


def check_fiber(fiber: Any, name: str) -> None:
    """Refuse a ``fiber`` that is no Fiber with a TypeError that calls it ``name``."""
    if not isinstance(fiber, Fiber):
        raise TypeError(f"{name} must be a Fiber, got {type(fiber).__name__}")


def check_whole_number(value: Any, least: int, name: str) -> None:
    """Refuse a ``value`` that is no int of at least ``least`` with a ValueError that calls it ``name``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_degrees(f_in: Fiber, f_out: Fiber) -> None:
    """Refuse an output with degrees that the input lacks, for layers that keep degrees apart.

    Raises:
        TypeError: one is not a Fiber.
        ValueError: ``f_out`` has a degree that ``f_in`` lacks.
    """
    check_fiber(f_in, "f_in")
    check_fiber(f_out, "f_out")
    missing = sorted({*f_out.degrees} - {*f_in.degrees})
    if missing:
        raise ValueError(f"f_out must have degrees that f_in has: f_in is {f_in}, f_out also has degrees {missing}")


def check_features(
    features: Mapping[str, Tensor],
    fiber: Fiber,
    rows: int | None = None,
    name: str = "features",
    layer: nn.Module | None = None,
) -> None:
    """Refuse features that are not those of a fiber.

    Args:
        features: ``{degree: [rows, multiplicity, 2 degree + 1]}``, the degree as a string.
        fiber: what they must be.
        rows: number of nodes or edges; None, that of the first degree.
        name: of the argument, for the message.
        layer: whose parameters' dtype the features must have, except under autocast.

    Raises:
        TypeError: ``features`` is not a mapping of floating-point tensors, or they have another dtype than the layer.
        ValueError: a degree is missing or not in the fiber, or a tensor has another shape.
    """
    if not isinstance(features, Mapping):
        got = type(features).__name__
        raise TypeError(f"{name} must be a dict of tensors keyed by the degree as a string, got {got}")
    expected = {str(degree) for degree in fiber.degrees}
    if set(features) != expected:
        got = sorted(map(repr, features))
        raise ValueError(f"{name} must have the degrees {sorted(expected)} of {fiber}, got [{', '.join(got)}]")
    for multiplicity, degree in fiber.structure:
        value, label = features[str(degree)], f"{name}['{degree}']"
        check_floating_point(value, label, layer)
        rows = value.shape[0] if rows is None and value.dim() else rows
        shape = (rows, multiplicity, 2 * degree + 1)
        if tuple(value.shape) != shape:
            raise ValueError(f"{label} must have shape {list(shape)}, got {list(value.shape)}")


def check_floating_point(value: Any, name: str, layer: nn.Module | None = None) -> None:
    """Refuse what is not a floating-point tensor, of the dtype of the layer's parameters, with a TypeError.

    Args:
        value: what to look at.
        name: of it, for the message.
        layer: whose parameters' dtype it must have, except under autocast; None for any floating-point dtype.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    parameter = next(layer.parameters(), None) if layer is not None else None
    if parameter is not None and value.dtype != parameter.dtype and not is_autocast_on(value.device):
        raise TypeError(f"{name} must be {parameter.dtype}, as the layer is, got {value.dtype}")


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is enabled for a kind of device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
