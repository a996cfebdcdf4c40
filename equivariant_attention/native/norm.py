"""Calls ``norm.cpp``: norms of features, and features of given norms."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..native.calls import Threads, address, call
from ..native.operation import Operation, Tensors, empty_like, if_used

SOURCE = Path(__file__).with_suffix(".cpp")


class Zero(NamedTuple):
    """Which norms count as zero.

    Attributes:
        smallest: those that are smaller are raised to it.
        noise: of each degree, those below this part of the largest of their node are rounding noise.
    """

    smallest: float
    noise: Sequence[float]


def norms(zero: Zero, keepdim: bool, plain: Callable[[Tensors], Sequence[Tensor]]) -> Operation:
    """From features, degree by degree, to their norms, as ``plain`` has them.

    These are ``[nodes, channels]``, or ``[nodes, channels, 1]`` with ``keepdim``.
    """

    def forward(values: Tensors) -> Sequence[Tensor]:
        output = [v.new_empty(*v.shape[:2], *[1] * keepdim) for v in values]
        _call("norms", zero, values, output)
        return output

    def gradient(values: Tensors, needed: Sequence[bool], by_output: Tensors) -> Tensors:
        derivatives = empty_like(values, if_used(needed, by_output))
        _call("norms_gradient", zero, values, by_output, dvalues=derivatives)
        return derivatives

    return Operation(forward, gradient, plain)


def rescaled(zero: Zero, plain: Callable[[Tensors], Sequence[Tensor]]) -> Operation:
    """From features and the norms that they are to have, of either shape, to these features, as ``plain`` has them."""
    return _with_parameters("rescaled", zero, plain, ("scale",))


def biased(zero: Zero, plain: Callable[[Tensors], Sequence[Tensor]]) -> Operation:
    """From features and biases, ``[1, channels]``, to features of norms ReLU(norm + bias), as ``plain`` has them."""
    return _with_parameters("biased", zero, plain, ("scale",))


def normalised(zero: Zero, eps: float, plain: Callable[[Tensors], Sequence[Tensor]]) -> Operation:
    """From features, scales and shifts, ``[channels]``, to features of norms after LayerNorm and ReLU, as ``plain``."""
    return _with_parameters("normalised", zero, plain, ("scale", "shift"), eps)


def _with_parameters(
    name: str,
    zero: Zero,
    plain: Callable[[Tensors], Sequence[Tensor]],
    parameters: Sequence[str],
    eps: float = 0,
) -> Operation:
    """From features, then one parameter of all degrees, then the next, to features of other norms."""

    def forward(tensors: Tensors) -> Sequence[Tensor]:
        values, *others = _split(tensors, 1 + len(parameters))
        output = [torch.empty_like(v) for v in values]
        _call(name, zero, values, output, eps, **dict(zip(parameters, others, strict=True)))
        return output

    def gradient(tensors: Tensors, needed: Sequence[bool], by_output: Tensors) -> Tensors:
        values, *others = _split(tensors, 1 + len(parameters))
        derivatives = empty_like(tensors, if_used(needed, by_output))
        dvalues, *dothers = _split(derivatives, 1 + len(parameters))
        places = zip([*parameters, *(f"d{p}" for p in parameters)], [*others, *dothers], strict=True)
        _call(f"{name}_gradient", zero, values, by_output, eps, dvalues=dvalues, **dict(places))
        return derivatives

    return Operation(forward, gradient, plain)


def _split(tensors: Tensors, parts: int) -> list[Tensors]:
    """A list in so many equal parts."""
    size = len(tensors) // parts
    return [tensors[i : i + size] for i in range(0, len(tensors), size)]


class _Part(ctypes.Structure):
    """``norm.cpp`` tells what the fields of this and the next one are."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "orders")),
        ("noise", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("values", "scale", "shift", "dvalues", "dscale", "dshift", "output")),
    )


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_parts")),
        *((name, ctypes.c_double) for name in ("smallest", "eps")),
        ("parts", ctypes.POINTER(_Part)),
        ("threads", Threads),
    )


def _call(function: str, zero: Zero, values: Tensors, output: Tensors, eps: float = 0, **others: Tensors) -> None:
    parts = (_Part * len(values))()
    for i, (part, v, noise, out) in enumerate(zip(parts, values, zero.noise, output, strict=True)):
        part.channels, part.orders, part.noise = v.shape[1], v.shape[2], noise
        part.values, part.output = address(v), address(out)
        for name, tensors in others.items():
            setattr(part, name, address(tensors[i]))
    call(SOURCE, function, values[0].dtype, _Norm(len(values[0]), len(values), zero.smallest, eps, parts, Threads()))
