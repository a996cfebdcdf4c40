"""Attention, norms and linear maps as Triton kernels on a GPU: the counterparts of ``attention``, ``norm``, ``linear``.

A forward pass launches one kernel for all degrees, and the backward pass of attention one more. The other backward
passes need derivatives with respect to parameters, which are sums over nodes: programs sum over parts of the nodes, and
PyTorch adds up these partial sums in a fixed order, so results are reproducible. Second derivatives are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.launch import launch, power_of_two
from ..native import attention as attention_in_cpp
from ..native import linear as linear_in_cpp
from ..native import norm as norm_in_cpp
from ..native.attention import Shape
from ..native.norm import Zero
from ..native.operation import Operation, Plain, Tensors, empty_like, if_used, only, split
from ..native.operators import or_zeros, register
from ..segments import segments_of

PROGRAMS = 528  # programs that fill a GPU: four on each of the 132 multiprocessors of an H100
ROWS = 64  # rows of a tile: a row is one order of one node
DEVICES = ("CPU", "CUDA")


def attention(shape: Shape, plain: Plain = None) -> Operation:
    """The operation :func:`equivariant_attention.native.attention.attention`, in Triton."""
    forward, gradient = partial(_attended, shape), partial(_attention_gradient, shape)
    operation = attention_in_cpp.attention(shape, plain)
    return replace(operation, name="attention_on_gpu", forward=forward, gradient=gradient, second=None)


def linear(plain: Plain = None) -> Operation:
    """The operation :func:`equivariant_attention.native.linear.linear`, in Triton."""
    operation = linear_in_cpp.linear(plain)
    return replace(operation, name="linear_on_gpu", forward=_mixed, gradient=_linear_gradient, second=None)


def joined(plain: Plain = None) -> Operation:
    """The operation :func:`equivariant_attention.native.linear.joined`, in Triton."""
    operation = linear_in_cpp.joined(plain)
    return replace(operation, name="joined_on_gpu", forward=_joined, gradient=_joined_gradient, second=None)


def normalised(zero: Zero, eps: float, plain: Plain = None) -> Operation:
    """The operation :func:`equivariant_attention.native.norm.normalised`, in Triton."""
    return _norm(norm_in_cpp.normalised(zero, eps, plain), "normalised_on_gpu", zero, eps)


def biased(zero: Zero, plain: Plain = None) -> Operation:
    """The operation :func:`equivariant_attention.native.norm.biased`, in Triton."""
    return _norm(norm_in_cpp.biased(zero, plain), "biased_on_gpu", zero, None)


register(
    "attention_on_gpu",
    "SymInt num_nodes, int n_heads, float scale, int num_values, int num_keys",
    lambda *shape: attention(Shape(*shape)),
    DEVICES,
)
register("linear_on_gpu", "", linear, DEVICES)
register("joined_on_gpu", "", joined, DEVICES)
register(
    "normalised_on_gpu", "float smallest, float[] noise, float eps", lambda s, n, e: normalised(Zero(s, n), e), DEVICES
)
register("biased_on_gpu", "float smallest, float[] noise", lambda s, n: biased(Zero(s, n)), DEVICES)


# ---------------------------------------------------------------------------------------------------- attention


def _attention_arguments(shape: Shape, like: Sequence[Sequence[Tensor]]) -> dict[str, Any]:
    limits = torch.finfo(like[0][0].dtype)
    arguments: dict[str, Any] = {"HEADS": shape.n_heads, "H": power_of_two(shape.n_heads)}
    for name, parts in zip(("VALUE", "KEY"), like, strict=True):
        sizes = tuple(v.shape[1] * v.shape[2] // shape.n_heads for v in parts)
        arguments[f"{name}S"], arguments[f"{name}_WIDTHS"] = sizes, tuple(map(power_of_two, sizes))
    return {**arguments, "TINY": limits.tiny, "LEAST": limits.min, "SUM": _type(like[0][0]), "num_warps": 1}


def _attended(shape: Shape, tensors: Tensors, output: Sequence[Tensor]) -> None:
    from ..kernels import attention as kernels

    values, keys, queries, envelope, dst = shape.split(tensors)
    edges, ends = segments_of(dst, shape.num_nodes)
    launch(
        kernels.forward, (shape.num_nodes,),
        tuple(values), tuple(keys), tuple(queries), tuple(output), ends if envelope is None else envelope, edges, ends,
        shape.scale, HAS_ENVELOPE=envelope is not None, **_attention_arguments(shape, (values, keys)),
    )  # fmt: skip


def _attention_gradient(shape: Shape, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    from ..kernels import attention as kernels

    values, keys, queries, envelope, dst = shape.split(tensors)
    edges, ends = segments_of(dst, shape.num_nodes)
    arriving = or_zeros(gradients, attention_in_cpp.attention(shape).allocate(tensors))
    made = [None if v is None else torch.empty_like(v) for v in tensors[:-1]]
    dvalues, dkeys, dqueries, denvelope, _ = shape.split([*made, None])
    launch(
        kernels.gradient, (shape.num_nodes,),
        *map(tuple, (values, keys, queries, arriving, dvalues, dkeys, dqueries)),
        ends if envelope is None else envelope, ends if envelope is None else denvelope, edges, ends, shape.scale,
        HAS_ENVELOPE=envelope is not None, **_attention_arguments(shape, (values, keys)),
    )  # fmt: skip
    return only([*made, None], needed)


# ----------------------------------------------------------------------------------------------------- linear maps


def _mixed(tensors: Tensors, output: Sequence[Tensor]) -> None:
    weights, values = split(tensors, 2)
    _joined([*weights, *values, *[None] * len(values)], output)


def _linear_gradient(tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    n = len(tensors) // 2
    return _joined_gradient([*tensors, *[None] * n], [*needed, *[False] * n], gradients)[: 2 * n]


def _joined(tensors: Tensors, output: Sequence[Tensor]) -> None:
    from ..kernels import linear as kernels

    weights, values, others = split(tensors, 3)
    inside, beside, outside = (_channels(part) for part in (values, others, output))
    nodes, out = len(values[0]), _tile(max(outside))
    launch(
        kernels.mixed, _grid(nodes, values, outside),
        tuple(weights), tuple(values), tuple(v if o is None else o for v, o in zip(values, others, strict=True)),
        tuple(output), nodes,
        ORDERS=tuple(v.shape[2] for v in values), INSIDE=inside, BESIDE=beside, OUTSIDE=outside, ROWS=ROWS, OUT=out,
        # Larger tiles would spill registers on an A100.
        IN=min(_tile(max(inside)), 32 if max(*inside, *beside, *outside) <= 64 else 16),
        SUM=_type(values[0]), PRECISION=_precision(values[0]), num_warps=4,
    )  # fmt: skip


def _joined_gradient(tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    weights, *both = split(tensors, 3)
    wanted = if_used(needed, gradients)
    parts = [
        Part(W, v, d, first, i)
        for part, firsts in zip(both, ([0] * len(weights), _channels(both[0])), strict=True)
        for i, (W, v, d, first) in enumerate(zip(weights, part, gradients, firsts, strict=True))
        if v is not None and d is not None
    ]
    by_weights = _by_weights(weights, [part for part in parts if wanted[part.degree]])
    made = empty_like(tensors, wanted)
    n = len(weights)
    output = [made[n + i] for i, v in enumerate(tensors[n:]) if v is not None and gradients[i % n] is not None]
    _by_values([(part, d) for part, d in zip(parts, output, strict=True) if d is not None])
    return [*(by_weights.get(i) for i in range(n)), *made[n:]]


class Part(NamedTuple):
    """One factor of a product W f: features, the matrix, and the derivatives with respect to the product.

    Attributes:
        weight: W, ``[m_out, m_in]``.
        values: f, ``[nodes, channels, 2 degree + 1]``.
        gradient: derivatives with respect to W f.
        first: the column of W that acts on the first channel of f.
        degree: the index of the degree.
    """

    weight: Tensor
    values: Tensor
    gradient: Tensor
    first: int
    degree: int


def _by_values(parts: Sequence[tuple[Part, Tensor]]) -> None:
    from ..kernels import linear as kernels

    if not parts:
        return
    weights, gradients, output = (
        tuple(values) for values in zip(*((p.weight, p.gradient, d) for p, d in parts), strict=True)
    )
    inside, outside, nodes = _channels(gradients), _channels(output), len(output[0])
    launch(
        kernels.by_values, _grid(nodes, gradients, outside), weights, gradients, output, nodes,
        ORDERS=tuple(v.shape[2] for v in output), INSIDE=inside, FIRST=tuple(p.first for p, _ in parts),
        OUTSIDE=outside, COLUMNS=_channels(weights), ROWS=ROWS, OUT=_tile(max(outside)), IN=min(_tile(max(inside)), 32),
        SUM=_type(output[0]), PRECISION=_precision(output[0]), num_warps=4,
    )  # fmt: skip


def _by_weights(weights: Tensors, parts: Sequence[Part]) -> dict[int, Tensor]:
    """Derivatives with respect to matrices, by the index of the degree."""
    from ..kernels import linear as kernels

    if not parts:
        return {}
    values, gradients = tuple(p.values for p in parts), tuple(p.gradient for p in parts)
    which = sorted({p.degree for p in parts})
    sizes = [weights[i].numel() for i in which]
    places = dict(zip(which, accumulate(sizes[:-1], initial=0), strict=True))
    inside, outside, nodes = _channels(values), _channels(gradients), len(values[0])
    out, into = _tile(max(outside)), _tile(max(inside))
    tiles = -(-max(outside) // out) * -(-max(inside) // into)
    of_part, count = _parts(nodes, tiles * len(parts), ROWS // 4)
    sums = values[0].new_empty(count, sum(sizes))
    launch(
        kernels.by_weights, (tiles, len(parts), count), values, gradients, sums, nodes, of_part, sum(sizes),
        PLACES=tuple(places[p.degree] + p.first for p in parts), ORDERS=tuple(v.shape[2] for v in values),
        INSIDE=inside, OUTSIDE=outside, COLUMNS=_channels([p.weight for p in parts]), ROWS=ROWS // 2, OUT=out, IN=into,
        SUM=_type(values[0]), PRECISION=_precision(values[0]), num_warps=4,
    )  # fmt: skip
    pieces = zip(which, sums.sum(0).split(sizes), strict=True)
    return {i: d.view_as(weights[i]) for i, d in pieces}


def _channels(values: Sequence[Tensor | None]) -> tuple[int, ...]:
    return tuple(0 if v is None else v.shape[1] for v in values)


def _grid(nodes: int, values: Sequence[Tensor], outside: Sequence[int]) -> tuple[int, int, int]:
    rows = nodes * max(v.shape[2] for v in values)
    return -(-rows // ROWS), len(values), -(-max(outside) // _tile(max(outside)))


# ------------------------------------------------------------------------------------------------------------ norms


def _norm(operation: Operation, name: str, zero: Zero, eps: float | None) -> Operation:
    forward, gradient = partial(_normed, zero, eps), partial(_norm_gradient, zero, eps)
    return replace(operation, name=name, forward=forward, gradient=gradient, second=None)


def _norm_arguments(zero: Zero, eps: float | None, values: Tensors, most: int) -> dict[str, Any]:
    widths = tuple(power_of_two(v.shape[1]) for v in values)
    return {
        "ORDERS": tuple(v.shape[2] for v in values),
        "CHANNELS": tuple(v.shape[1] for v in values),
        "WIDTHS": widths,
        "NOISE": tuple(zero.noise),
        "SMALLEST": zero.smallest,
        "EPS": 0.0 if eps is None else eps,
        "LAYER_NORM": eps is not None,
        "NODES": max(1, most // max(widths)),
        "num_warps": 4,
    }


def _normed(zero: Zero, eps: float | None, tensors: Tensors, output: Sequence[Tensor]) -> None:
    from ..kernels import norm as kernels

    values, scales, shifts = _with_shifts(tensors, eps)
    arguments = _norm_arguments(zero, eps, values, 512)
    grid = (-(-len(values[0]) // arguments["NODES"]),)
    launch(kernels.forward, grid, *map(tuple, (values, scales, shifts, output)), len(values[0]), **arguments)


def _norm_gradient(
    zero: Zero, eps: float | None, tensors: Tensors, needed: Sequence[bool], gradients: Tensors
) -> Tensors:
    from ..kernels import norm as kernels

    values, scales, shifts = _with_shifts(tensors, eps)
    n, nodes, of_each = len(values), len(values[0]), 1 if eps is None else 2
    arriving = or_zeros(gradients, values)
    made = [torch.empty_like(v) for v in values]
    sizes = [of_each * v.shape[1] for v in values]
    arguments = _norm_arguments(zero, eps, values, 256)
    of_part, parts = _parts(nodes, 1, arguments["NODES"])
    sums = values[0].new_empty(parts, sum(sizes))
    launch(
        kernels.gradient, (parts,), *map(tuple, (values, scales, shifts, arriving, made)), sums, nodes, of_part,
        sum(sizes), PLACES=tuple(accumulate(sizes[:-1], initial=0)), SUM=_type(values[0]), **arguments,
    )  # fmt: skip
    found = [*made, *[None] * (n * of_each)]
    if any(needed[n:]):
        pieces = [piece.view(of_each, -1) for piece in sums.sum(0).split(sizes)]
        by_parameters = [piece[i] for i in range(of_each) for piece in pieces]
        found[n:] = [d.view_as(v) for d, v in zip(by_parameters, tensors[n:], strict=True)]
    return only(found, if_used(needed, gradients))


def _with_shifts(tensors: Tensors, eps: float | None) -> tuple[Tensors, Tensors, Tensors]:
    """Values, scales and shifts of the LayerNorm. Without one (``eps`` is None), the biases stand for both."""
    n = len(tensors) // (2 if eps is None else 3)
    return tensors[:n], tensors[n : 2 * n], tensors[-n:]


# ------------------------------------------------------------------------------------------------------------ sizes


def _tile(channels: int) -> int:
    return min(power_of_two(channels, 16), 64)


def _parts(nodes: int, programs: int, tile: int) -> tuple[int, int]:
    """How to split a sum over nodes: nodes in each part, and the number of parts.

    Args:
        nodes: how many there are.
        programs: programs that each part is given to.
        tile: nodes that a program takes at a time, the least that is worth a part.
    """
    parts = max(1, min(PROGRAMS // programs, -(-nodes // tile)))
    of_part = -(-nodes // parts)
    return of_part, -(-nodes // of_part) if nodes else 0


def _type(value: Tensor) -> Any:
    import triton.language as tl

    return tl.float64 if value.dtype == torch.float64 else tl.float32


def _precision(value: Tensor) -> str:
    return "ieee" if value.dtype == torch.float64 else "tf32x3"
