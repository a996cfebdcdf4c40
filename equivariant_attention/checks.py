"""Refusing wrong input, with errors that name the argument, what was expected and what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .compiling import constant_when_compiled
from .fibers import Fiber, check_fiber, check_keys

HALF = (
    "directions need float32 or float64: leave the model and its inputs in float32 (model.float()), and call it within "
    "torch.autocast(device_type, dtype=torch.bfloat16), which rounds what may be rounded"
)


def check_whole_number(value: Any, least: int, name: str) -> None:
    """Refuse a ``value`` that is no int of at least ``least`` with a ValueError that calls it ``name``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_positive(value: Any, name: str) -> None:
    """Refuse a ``value`` that is no number larger than 0 with a ValueError that calls it ``name``."""
    if not isinstance(value, numbers.Real) or not float(value) > 0:
        raise ValueError(f"{name} must be larger than 0, got {value!r}")


def check_not_negative(value: Any, name: str) -> None:
    """Refuse a ``value`` that is no finite number of at least 0 with a ValueError that calls it ``name``."""
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")


def check_trailing(value: Any, shape: tuple[int, ...], name: str) -> None:
    """Refuse a ``value`` that is no float32 or float64 tensor ``[..., *shape]`` with an error that calls it ``name``.

    Raises:
        TypeError, ValueError: as said, for the type and for the shape.
    """
    if not isinstance(value, Tensor) or value.dtype not in (torch.float32, torch.float64):
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a float32 or float64 tensor, got {got}")
    if tuple(value.shape[-len(shape) :]) != shape:
        raise ValueError(f"{name} must have shape [..., {', '.join(map(str, shape))}], got {list(value.shape)}")


def check_makes_module(make: Any, name: str) -> None:
    """Refuse a ``make`` that neither is nor makes a module when called with a TypeError that says ``name``."""
    if not callable(make):
        raise TypeError(f"{name} must be a module or a module class, such as torch.nn.ReLU, got {make!r}")


def check_of_graph(name: str, *counts: tuple[str, Any, Any]) -> None:
    """Refuse a ``name`` that is of another graph, told by ``counts`` (what, expected, found), with a ValueError."""
    for what, expected, found in counts:
        if found != expected:
            raise ValueError(f"{name} must be of this graph: {what} must be {expected}, got {found}")


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
    features: Any,
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
        layer: whose parameters' dtype and device the features must have, the dtype except under autocast.

    Raises:
        TypeError: ``features`` is not a mapping of floating-point tensors, or they have another dtype than the layer or
            one another.
        ValueError: a degree is missing or not in the fiber, or a tensor has another shape or is on another device.
    """
    check_keys(features, fiber, name)
    first = str(fiber.min_degree)
    for multiplicity, degree in fiber.structure:
        value, label = features[str(degree)], f"{name}['{degree}']"
        # The others are compared with the first one: finding a parameter takes as long as all other checks.
        check_floating_point(value, label, layer if str(degree) == first else None)
        check_alike(value, label, features[first], f"{name}['{first}']")
        rows = value.shape[0] if rows is None and value.dim() else rows
        shape = (rows, multiplicity, 2 * degree + 1)
        if tuple(value.shape) != shape:
            raise ValueError(f"{label} must have shape {list(shape)}, got {list(value.shape)}")


def of_fiber(features: Any, fiber: Fiber) -> Any:
    """Those of the ``features`` that a ``fiber`` has: some published layers ignore other degrees."""
    if not isinstance(features, Mapping) or len(features) <= len(fiber.degrees):
        return features
    return {degree: features[degree] for degree in map(str, fiber.degrees) if degree in features}


def with_three_dimensions(features: Any) -> Any:
    """The ``features``, with degree 0 in ``[nodes, channels, 1]`` where it was ``[nodes, channels]``, as published."""
    scalars = features.get("0") if isinstance(features, Mapping) else None
    return {**features, "0": scalars.unsqueeze(-1)} if isinstance(scalars, Tensor) and scalars.dim() == 2 else features


def check_floating_point(value: Any, name: str, layer: nn.Module | None = None) -> None:
    """Refuse what is not a floating-point tensor, or not as the layer's parameters are: see :func:`check_alike`.

    Args:
        value: what to look at.
        name: of it, for the message.
        layer: whose parameters' device it must have, and dtype, except under autocast; None for any.
    """
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {got}")
    parameter = None if layer is None else first_parameter(layer)
    if parameter is not None:
        check_alike(value, name, parameter, "the layer")


def first_parameter(module: nn.Module) -> Tensor | None:
    """The first of ``module.parameters()`` that is of floating-point numbers, found faster; None, if there is none."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            return parameter
    for child in module._modules.values():
        if child is not None and (found := first_parameter(child)) is not None:
            return found
    return None


def as_floating_point(value: Any, dtype: torch.dtype) -> Any:
    """A ``value`` of whole numbers or truth values in a ``dtype``; whatever else there is, as it is."""
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    return value.to(dtype) if whole else value


def check_alike(value: Tensor, name: str, other: Tensor, other_name: str) -> None:
    """Refuse a ``value`` on another device than ``other``, or, except under autocast, of another dtype.

    The message calls them ``name`` and ``other_name``.

    Raises:
        TypeError, ValueError: as said, for the dtype and for the device.
    """
    if value.device != other.device:
        raise ValueError(f"{name} must be on {other.device}, as {other_name} is, got a tensor on {value.device}")
    if value.dtype != other.dtype and not is_autocast_on(value.device):
        raise TypeError(
            f"{name} must be {other.dtype}, as {other_name} is, got {value.dtype}{half_remedy(other, value)}"
        )


def half_remedy(*tensors: Tensor) -> str:
    """What to do about half precision, for the end of a message; empty, if none of the ``tensors`` is of it."""
    if not any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in tensors):
        return ""
    return f"; {HALF}"


def is_autocast_on(device: torch.device) -> bool:
    """Whether autocast is enabled for a kind of device."""
    return _has_autocast(device.type) and torch.is_autocast_enabled(device.type)


@constant_when_compiled
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)
