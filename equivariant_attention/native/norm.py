"""Calls ``norm.cpp``: norms of features, and features of given norms."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..native.calls import Threads, address, call
from ..native.operation import Operation, Tensors, empty_like, halves, if_used

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

    def forward(tensors: Tensors) -> Sequence[Tensor]:
        values, scales = halves(tensors)
        output = [torch.empty_like(v) for v in values]
        _call("rescaled", zero, values, output, scale=scales)
        return output

    def gradient(tensors: Tensors, needed: Sequence[bool], by_output: Tensors) -> Tensors:
        values, scales = halves(tensors)
        dvalues, dscales = halves(empty_like(tensors, if_used(needed, by_output)))
        _call("rescaled_gradient", zero, values, by_output, scale=scales, dvalues=dvalues, dscale=dscales)
        return [*dvalues, *dscales]

    return Operation(forward, gradient, plain)


class _Part(ctypes.Structure):
    """``norm.cpp`` tells what the fields of this and the next one are."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("channels", "orders")),
        ("noise", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("values", "scale", "dvalues", "dscale", "output")),
    )


class _Norm(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_parts")),
        ("smallest", ctypes.c_double),
        ("parts", ctypes.POINTER(_Part)),
        ("threads", Threads),
    )


def _call(function: str, zero: Zero, values: Tensors, output: Tensors, **others: Tensors) -> None:
    parts = (_Part * len(values))()
    for i, (part, v, noise, out) in enumerate(zip(parts, values, zero.noise, output, strict=True)):
        part.channels, part.orders, part.noise = v.shape[1], v.shape[2], noise
        part.values, part.output = address(v), address(out)
        for name, tensors in others.items():
            setattr(part, name, address(tensors[i]))
    call(SOURCE, function, values[0].dtype, _Norm(len(values[0]), len(values), zero.smallest, parts, Threads()))
