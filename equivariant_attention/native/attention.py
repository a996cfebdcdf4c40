"""Calls ``attention.cpp``: multi-head attention over the incoming edges of each node, and its derivatives."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..native.calls import Threads, address, addresses, array, call
from ..native.operation import Operation, Plain, Tensors, differentiated, empty_like, if_used, plain_gradient
from ..native.operators import register

SOURCE = str(Path(__file__).with_suffix(".cpp"))


class Shape(NamedTuple):
    """The sizes that attention depends on.

    Attributes:
        num_nodes, n_heads: numbers of nodes and of attention heads.
        scale: what the inner products of queries and keys are multiplied by.
        num_values, num_keys: numbers of degrees of the values, and of the keys.
    """

    num_nodes: int
    n_heads: int
    scale: float
    num_values: int
    num_keys: int

    def split(self, tensors: Tensors) -> tuple[Tensors, Tensors, Tensors, Any, Any]:
        """Split the flat list of tensors into values, keys and queries, degree by degree, envelope and ``dst``."""
        v, k = self.num_values, self.num_keys
        envelope, dst = tensors[v + 2 * k :]
        return tensors[:v], tensors[v : v + k], tensors[v + k : v + 2 * k], envelope, dst


def attention(shape: Shape, plain: Plain = None) -> Operation:
    """Attention as a differentiable operation; :class:`~equivariant_attention.modules.GMABSE3` has the equation.

    Its tensors are values, keys and queries, degree by degree, the envelope ``[edges, 1]`` or None, and the destination
    node of each edge, int64 ``[edges]``. Its values are the output, degree by degree.

    Args:
        shape: the sizes.
        plain: the same function in PyTorch.
    """
    allocate, forward, gradient = partial(_allocate, shape), partial(_forward, shape), partial(_gradient, shape)
    second = partial(_second, shape, plain)
    return Operation("attention", tuple(shape), allocate, forward, gradient, plain, second)


class _Part(ctypes.Structure):
    """``attention.cpp`` says what the fields of this structure and the next one are."""

    _fields_ = (("size", ctypes.c_int64), *((name, ctypes.c_void_p) for name in ("values", "gradient", "tangent")))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "heads", "num_values", "num_keys")),
        ("scale", ctypes.c_double),
        ("dst", ctypes.c_void_p),
        *((name, ctypes.POINTER(_Part)) for name in ("values", "keys", "queries")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("outputs", "toutputs")),
        *((name, ctypes.c_void_p) for name in ("envelope", "denvelope")),
        ("threads", Threads),
    )


def _allocate(shape: Shape, tensors: Tensors) -> list[Tensor]:
    return [v.new_empty(shape.num_nodes, *v.shape[1:]) for v in shape.split(tensors)[0]]


def _forward(shape: Shape, tensors: Tensors, output: Sequence[Tensor]) -> None:
    _call("forward", shape, tensors, [None] * len(tensors), output)


def _gradient(shape: Shape, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    v = shape.num_values
    derivatives = empty_like(tensors, [*if_used(needed[:v], gradients), *needed[v:]])
    denvelope = shape.split(derivatives)[3]
    if denvelope is not None:
        denvelope.zero_()
    _call("gradient", shape, tensors, derivatives, gradients)
    return derivatives


def _second(
    shape: Shape,
    plain: Plain,
    tensors: Tensors,
    gradients: Tensors,
    tangents: Tensors,
    needed: Sequence[bool],
) -> tuple[Tensors, Sequence[Tensor]]:
    """Tangents of first derivatives and of the output; with an envelope, by PyTorch."""
    if shape.split(tensors)[3] is not None:
        if plain is None:
            raise NotImplementedError("attention with an envelope has no second derivatives where it is recorded")
        wanted = [*needed, *(d is not None for d in gradients)]
        every = [*tensors, *gradients, *tangents]
        found = differentiated(partial(plain_gradient, plain), len(tensors), every, wanted)
        return found[: len(tensors)], found[len(tensors) :]
    v = shape.num_values
    derivatives = empty_like(tensors, [*if_used(needed[:v], gradients), *needed[v:]])
    toutput = _allocate(shape, tensors)
    _call("second", shape, tensors, derivatives, gradients, tangents, toutput)
    return derivatives, toutput


def _call(
    function: str,
    shape: Shape,
    tensors: Tensors,
    derivatives: Tensors,
    output: Tensors,
    tangents: Tensors | None = None,
    toutput: Tensors = (),
) -> None:
    *parts, envelope, dst = shape.split(tensors)
    *dparts, denvelope, _ = shape.split(derivatives)
    *tparts, _, _ = shape.split(tangents or [None] * len(tensors))
    values, keys, queries = (_parts(shape, *every) for every in zip(parts, dparts, tparts, strict=True))
    arguments = _Attention(
        num_nodes=shape.num_nodes,
        num_edges=len(dst),
        heads=shape.n_heads,
        num_values=shape.num_values,
        num_keys=shape.num_keys,
        scale=shape.scale,
        dst=address(dst),
        values=values,
        keys=keys,
        queries=queries,
        outputs=addresses(output),
        toutputs=addresses(toutput),
        envelope=address(envelope),
        denvelope=address(denvelope),
        threads=Threads(),
    )
    call(SOURCE, function, parts[0][0].dtype, arguments)


def _parts(shape: Shape, *tensors: Tensors) -> ctypes.Array[_Part]:
    """The :class:`_Part` of each degree, of values, where their derivatives are written, and their tangents."""
    sizes = [v.shape[1] * v.shape[2] // shape.n_heads for v in tensors[0]]
    rows = [*zip(sizes, *(map(address, part) for part in tensors), strict=True)]
    return array(_Part, len(rows))(*rows)


register(
    "attention",
    "SymInt num_nodes, int n_heads, float scale, int num_values, int num_keys",
    lambda *shape: attention(Shape(*shape)),
)
