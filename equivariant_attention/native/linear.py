"""Calls ``linear.cpp``: channels mixed by a matrix."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..native.calls import Threads, address, call
from ..native.operation import Operation, Tensors, empty_like, halves, if_used, register

SOURCE = Path(__file__).with_suffix(".cpp")


def linear(plain: Callable[[Tensors], Sequence[Tensor]] | None = None) -> Operation:
    """From matrices and features to their products, as ``plain`` has them.

    First come the matrices of all degrees, ``[m_out, m_in]``, then as many features, ``[nodes, m_in, 2 degree + 1]``.
    """
    return Operation("linear", (), _allocate, _forward, _gradient, plain, _second)


class _Degree(ctypes.Structure):
    """``linear.cpp`` says what the fields of this structure and the next one are."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("orders", "channels_in", "channels_out")),
        *((name, ctypes.c_void_p) for name in ("weight", "values", "dweight", "dvalues", "output")),
    )


class _Linear(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_degrees")),
        ("degrees", ctypes.POINTER(_Degree)),
        ("threads", Threads),
    )


def _allocate(tensors: Tensors) -> list[Tensor]:
    return [v.new_empty(v.shape[0], W.shape[0], v.shape[2]) for W, v in zip(*halves(tensors), strict=True)]


def _forward(tensors: Tensors, output: Sequence[Tensor]) -> None:
    _call("forward", tensors, [None] * len(tensors), output)


def _gradient(tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    derivatives = empty_like(tensors, if_used(needed, gradients))
    _call("gradient", tensors, derivatives, gradients)
    return derivatives


def _second(
    tensors: Tensors, gradients: Tensors, directions: Tensors, needed: Sequence[bool]
) -> tuple[Tensors, Sequence[Tensor]]:
    """Second derivatives: products are linear in matrices and in features."""
    every = [_or_zeros(t, like) for t, like in zip(directions, tensors, strict=True)]
    (W, v), (tW, tv) = halves(tensors), halves(every)
    tangents = _allocate(tensors)
    _forward([*W, *tv], tangents)
    if any(t is not None for t in directions[: len(W)]):
        by_matrices = _allocate(tensors)
        _forward([*tW, *v], by_matrices)
        tangents = [a + b for a, b in zip(tangents, by_matrices, strict=True)]
    return _gradient([*tW, *tv], needed, gradients), tangents


def _or_zeros(tangent: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if tangent is None else tangent


def _call(function: str, tensors: Tensors, derivatives: Tensors, output: Tensors) -> None:
    (weights, values), (dweights, dvalues) = halves(tensors), halves(derivatives)
    rows = [
        (v.shape[2], W.shape[1], W.shape[0], *map(address, (W, v, dW, dv, out)))
        for W, v, dW, dv, out in zip(weights, values, dweights, dvalues, output, strict=True)
        if out is not None
    ]
    degrees = (_Degree * len(rows))(*rows)  # type: ignore[misc]  # it takes the fields as well
    call(SOURCE, function, values[0].dtype, _Linear(len(values[0]), len(degrees), degrees, Threads()))


register("linear", "", linear)
