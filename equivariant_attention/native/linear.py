"""Calls ``linear.cpp``: linear maps of channels, one matrix per degree (self-interaction), and their derivatives."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from ..native.calls import Threads, address, array, call
from ..native.operation import Operation, Plain, Tensors, empty_like, if_used, split
from ..native.operators import or_zeros, register

SOURCE = str(Path(__file__).with_suffix(".cpp"))


def linear(plain: Plain = None) -> Operation:
    """Features multiplied by matrices, ``W f``, as a differentiable operation.

    Its tensors are the matrices of all degrees, ``[m_out, m_in]``, then the features of these degrees,
    ``[nodes, m_in, 2 degree + 1]``.

    Args:
        plain: the same function in PyTorch.
    """
    return _operation("linear", 2, plain)


def joined(plain: Plain = None) -> Operation:
    """:func:`linear` of two features whose channels are concatenated, without a copy of them side by side.

    Its tensors are the matrices of all degrees, ``[m_out, m_first + m_second]``, then the first features of these
    degrees, then the second ones, None for a degree that has none.

    Args:
        plain: the same function in PyTorch.
    """
    return _operation("joined", 3, plain)


def _operation(name: str, lists: int, plain: Plain) -> Operation:
    """The operation whose tensors are ``lists`` lists of equal length: matrices, and one or two lists of features."""
    allocate, forward, gradient = partial(_allocate, lists), partial(_forward, lists), partial(_gradient, lists)
    return Operation(name, (), allocate, forward, gradient, plain, partial(_second, lists))


class _Part(ctypes.Structure):
    """``linear.cpp`` says what the fields of this structure and the next ones are."""

    _fields_ = (("channels", ctypes.c_int64), ("values", ctypes.c_void_p), ("dvalues", ctypes.c_void_p))


class _Degree(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("orders", "channels_in", "channels_out")),
        *((name, ctypes.c_void_p) for name in ("weight", "dweight", "output")),
        ("parts", _Part * 2),
    )


class _Linear(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_degrees")),
        ("degrees", ctypes.POINTER(_Degree)),
        ("threads", Threads),
    )


def _allocate(lists: int, tensors: Tensors) -> list[Tensor]:
    weights, values, *_ = split(tensors, lists)
    return [v.new_empty(v.shape[0], W.shape[0], v.shape[2]) for W, v in zip(weights, values, strict=True)]


def _forward(lists: int, tensors: Tensors, output: Sequence[Tensor]) -> None:
    _call("forward", lists, tensors, [None] * len(tensors), output)


def _gradient(lists: int, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    derivatives = empty_like(tensors, if_used(needed, gradients))
    _call("gradient", lists, tensors, derivatives, gradients)
    return derivatives


def _second(
    lists: int, tensors: Tensors, gradients: Tensors, tangents: Tensors, needed: Sequence[bool]
) -> tuple[Tensors, Sequence[Tensor]]:
    """Tangents of first derivatives and of the output.

    W f is linear in W and in f: its tangent is tW f + W tf, and first derivatives at the tangents are their tangents.
    """
    every, n = or_zeros(tangents, tensors), len(tensors) // lists
    toutput = _allocate(lists, tensors)
    _forward(lists, [*tensors[:n], *every[n:]], toutput)
    if any(t is not None for t in tangents[:n]):
        by_matrices = _allocate(lists, tensors)
        _forward(lists, [*every[:n], *tensors[n:]], by_matrices)
        toutput = [a + b for a, b in zip(toutput, by_matrices, strict=True)]
    return _gradient(lists, every, needed, gradients), toutput


def _call(function: str, lists: int, tensors: Tensors, derivatives: Tensors, output: Tensors) -> None:
    (weights, *parts), (dweights, *dparts) = split(tensors, lists), split(derivatives, lists)
    of_degrees = zip(weights, dweights, zip(*parts, strict=True), zip(*dparts, strict=True), output, strict=True)
    rows = [
        (v[0].shape[2], W.shape[1], W.shape[0], *map(address, (W, dW, out)), (*map(_part, v, dv),))
        for W, dW, v, dv, out in of_degrees
        if out is not None
    ]
    degrees = array(_Degree, len(rows))(*rows)
    call(SOURCE, function, weights[0].dtype, _Linear(len(parts[0][0]), len(degrees), degrees, Threads()))


def _part(values: Tensor | None, dvalues: Tensor | None) -> tuple[int, int | None, int | None]:
    return 0 if values is None else values.shape[1], address(values), address(dvalues)


register("linear", "", linear)
register("joined", "", joined)
