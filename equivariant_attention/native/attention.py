"""Calls ``attention.cpp``: multi-head attention over the incoming edges of every node."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from equivariant_attention.native.calls import Threads, address, call
from equivariant_attention.native.operation import Operation, Tensors, empty_like

SOURCE = Path(__file__).with_suffix(".cpp")


class Shape(NamedTuple):
    """What attention depends on beside tensors that have derivatives.

    Attributes:
        dst: the node that each edge leads to, int64 ``[edges]``.
        num_nodes, n_heads: how many there are.
        scale: what the products of queries and keys are multiplied by.
        num_values, num_keys: how many degrees values have, and keys.
    """

    dst: Tensor
    num_nodes: int
    n_heads: int
    scale: float
    num_values: int
    num_keys: int

    def split(self, tensors: Tensors) -> tuple[Tensors, Tensors, Tensors, Tensor | None]:
        """Values, keys and queries degree by degree, and the envelope, from all of them in one list."""
        v, k = self.num_values, self.num_keys
        return tensors[:v], tensors[v : v + k], tensors[v + k : v + 2 * k], tensors[v + 2 * k]


def attention(shape: Shape, plain: Callable[[Tensors], Sequence[Tensor]]) -> Operation:
    """From values, keys, queries and the envelope (or None) to the output and the weights, as ``plain`` has them."""
    return Operation(partial(_forward, shape), partial(_gradient, shape), plain)


class _Part(ctypes.Structure):
    """``attention.cpp`` tells what the fields of this and the next one are."""

    _fields_ = (("numbers", ctypes.c_int64), ("values", ctypes.c_void_p), ("gradient", ctypes.c_void_p))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "heads", "num_values", "num_keys")),
        ("scale", ctypes.c_double),
        ("dst", ctypes.c_void_p),
        *((name, ctypes.POINTER(_Part)) for name in ("values", "keys", "queries", "outputs")),
        *((name, ctypes.c_void_p) for name in ("envelope", "denvelope", "weights", "dweights")),
        ("threads", Threads),
    )


def _forward(shape: Shape, tensors: Tensors) -> Sequence[Tensor]:
    values = shape.split(tensors)[0]
    output = [v.new_empty(shape.num_nodes, *v.shape[1:]) for v in values]
    weights = values[0].new_empty(len(shape.dst), shape.n_heads)
    _call("forward", shape, tensors, [None] * len(tensors), [None] * len(output), output, weights=address(weights))
    return [*output, weights]


def _gradient(shape: Shape, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    derivatives = empty_like(tensors, needed)
    if derivatives[-1] is not None:
        derivatives[-1].zero_()
    *by_output, by_weights = gradients
    _call("gradient", shape, tensors, derivatives, by_output, [None] * len(by_output), dweights=address(by_weights))
    return derivatives


def _call(
    function: str,
    shape: Shape,
    tensors: Tensors,
    derivatives: Tensors,
    by_output: Tensors,
    output: Tensors,
    **weights: int | None,
) -> None:
    *parts, envelope = shape.split(tensors)
    *dparts, denvelope = shape.split(derivatives)
    values, keys, queries = (_parts(shape, v, v, d) for v, d in zip(parts, dparts, strict=True))
    arguments = _Attention(
        num_nodes=shape.num_nodes,
        num_edges=len(shape.dst),
        heads=shape.n_heads,
        num_values=shape.num_values,
        num_keys=shape.num_keys,
        scale=shape.scale,
        dst=shape.dst.data_ptr(),
        values=values,
        keys=keys,
        queries=queries,
        outputs=_parts(shape, parts[0], by_output, output),
        envelope=address(envelope),
        denvelope=address(denvelope),
        threads=Threads(),
        **weights,
    )
    call(SOURCE, function, parts[0][0].dtype, arguments)


def _parts(shape: Shape, like: Tensors, values: Tensors, gradients: Tensors) -> ctypes.Array[_Part]:
    sizes = [v.shape[1] * v.shape[2] // shape.n_heads for v in like]
    rows = [*zip(sizes, map(address, values), map(address, gradients), strict=True)]
    return (_Part * len(rows))(*rows)  # type: ignore[misc]  # it takes the fields as well
