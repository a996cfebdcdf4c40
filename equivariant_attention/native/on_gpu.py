"""Attention, norms and linear maps in Triton, on a GPU: the operations of the files of these names, which are in C++.

Forward is one launch for all degrees. Attention's derivatives are one more; those of the others with respect to
parameters are sums over parts of the nodes, in a fixed order, so they are two. PyTorch takes second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..kernels.launch import launch, power_of_two
from ..native import attention as attention_in_cpp
from ..native import linear as linear_in_cpp
from ..native import norm as norm_in_cpp
from ..native.attention import Shape
from ..native.norm import Zero
from ..native.operation import Operation, Tensors, halves, if_used, register
from ..segments import segments_of

PROGRAMS = 528  # that fill a GPU, four on each of 132 multiprocessors
ROWS = 64
DEVICES = ("CPU", "CUDA")
Plain = Callable[[Tensors], Sequence[Tensor]] | None


def attention(shape: Shape, plain: Plain = None) -> Operation:
    """As :func:`equivariant_attention.native.attention.attention`."""
    forward, gradient = partial(_attended, shape), partial(_attention_gradient, shape)
    operation = attention_in_cpp.attention(shape, plain)
    return replace(operation, name="attention_on_gpu", forward=forward, gradient=gradient, second=None)


def linear(plain: Plain = None) -> Operation:
    """As :func:`equivariant_attention.native.linear.linear`."""
    operation = linear_in_cpp.linear(plain)
    return replace(operation, name="linear_on_gpu", forward=_mixed, gradient=_linear_gradient, second=None)


def normalised(zero: Zero, eps: float, plain: Plain = None) -> Operation:
    """As :func:`equivariant_attention.native.norm.normalised`."""
    return _norm(norm_in_cpp.normalised(zero, eps, plain), "normalised_on_gpu", zero, eps)


def biased(zero: Zero, plain: Plain = None) -> Operation:
    """As :func:`equivariant_attention.native.norm.biased`."""
    return _norm(norm_in_cpp.biased(zero, plain), "biased_on_gpu", zero, None)


register(
    "attention_on_gpu",
    "SymInt num_nodes, int n_heads, float scale, int num_values, int num_keys",
    lambda *shape: attention(Shape(*shape)),
    DEVICES,
)
register("linear_on_gpu", "", linear, DEVICES)
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
    arriving = [
        v.new_zeros(shape.num_nodes, *v.shape[1:]) if d is None else d for v, d in zip(values, gradients, strict=True)
    ]
    made = [None if v is None else torch.empty_like(v) for v in tensors[:-1]]
    dvalues, dkeys, dqueries, denvelope, _ = shape.split([*made, None])
    launch(
        kernels.gradient, (shape.num_nodes,),
        *map(tuple, (values, keys, queries, arriving, dvalues, dkeys, dqueries)),
        ends if envelope is None else envelope, ends if envelope is None else denvelope, edges, ends, shape.scale,
        HAS_ENVELOPE=envelope is not None, **_attention_arguments(shape, (values, keys)),
    )  # fmt: skip
    return [d if n else None for d, n in zip([*made, None], needed, strict=True)]


# ----------------------------------------------------------------------------------------------------- linear maps


def _mixed(tensors: Tensors, output: Sequence[Tensor]) -> None:
    _products(*halves(tensors), output, transposed=False)


def _products(weights: Tensors, values: Tensors, output: Tensors, transposed: bool) -> None:
    """Products with the matrices, or with what they are transposed."""
    from ..kernels import linear as kernels

    inside, outside = (tuple(v.shape[1] for v in part) for part in (values, output))
    nodes, out = len(values[0]), _tile(max(outside))
    grid = -(-nodes * max(v.shape[2] for v in values) // ROWS), len(values), -(-max(outside) // out)
    launch(
        kernels.mixed, grid, tuple(weights), tuple(values), tuple(output), nodes,
        ORDERS=tuple(v.shape[2] for v in values), INSIDE=inside, OUTSIDE=outside, TRANSPOSED=transposed, ROWS=ROWS,
        OUT=out, IN=_tile(max(inside)), SUM=_type(values[0]), PRECISION=_precision(values[0]), num_warps=4,
    )  # fmt: skip


def _linear_gradient(tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
    weights, values = halves(tensors)
    by_weights, by_values = halves(if_used(needed, gradients))
    made = [torch.empty_like(v) if n else None for v, n in zip(values, by_values, strict=True)]
    which = [i for i, n in enumerate(by_values) if n]
    if which:
        chosen, arriving, output = ([parts[i] for i in which] for parts in (weights, gradients, made))
        _products(chosen, arriving, output, transposed=True)
    which = [i for i, n in enumerate(by_weights) if n]
    found = iter(_by_weights(*([parts[i] for i in which] for parts in (weights, values, gradients))))
    return [*(next(found) if n else None for n in by_weights), *made]


def _by_weights(weights: Tensors, values: Tensors, gradients: Tensors) -> list[Tensor]:
    from ..kernels import linear as kernels

    if not weights:
        return []
    nodes, sizes = len(values[0]), [W.numel() for W in weights]
    inside, outside = (tuple(v.shape[1] for v in part) for part in (values, gradients))
    out, into = _tile(max(outside)), _tile(max(inside))
    tiles = -(-max(outside) // out) * -(-max(inside) // into)
    of_part, parts = _parts(nodes, tiles * len(weights), ROWS // 4)
    sums = values[0].new_empty(parts, sum(sizes))
    launch(
        kernels.by_weights, (tiles, len(weights), parts), tuple(values), tuple(gradients), sums, nodes, of_part,
        sum(sizes), PLACES=tuple(accumulate(sizes[:-1], initial=0)), ORDERS=tuple(v.shape[2] for v in values),
        INSIDE=inside, OUTSIDE=outside, ROWS=ROWS // 2, OUT=out, IN=into, SUM=_type(values[0]),
        PRECISION=_precision(values[0]), num_warps=4,
    )  # fmt: skip
    return [d.view_as(W) for d, W in zip(sums.sum(0).split(sizes), weights, strict=True)]


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
    arriving = [torch.zeros_like(v) if d is None else d for v, d in zip(values, gradients, strict=True)]
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
    return [d if w else None for d, w in zip(found, if_used(needed, gradients), strict=True)]


def _with_shifts(tensors: Tensors, eps: float | None) -> tuple[Tensors, Tensors, Tensors]:
    """Values, scales and shifts; where there are biases alone, these for both."""
    n = len(tensors) // (2 if eps is None else 3)
    return tensors[:n], tensors[n : 2 * n], tensors[-n:]


# ------------------------------------------------------------------------------------------------------------ sizes


def _tile(channels: int) -> int:
    return min(power_of_two(channels, 16), 64)


def _parts(nodes: int, programs: int, tile: int) -> tuple[int, int]:
    """Nodes of a part of a sum over nodes, and how many parts: so many that they fill a GPU, times these programs."""
    parts = max(1, min(PROGRAMS // programs, -(-nodes // tile)))
    of_part = -(-nodes // parts)
    return of_part, -(-nodes // of_part) if nodes else 0


def _type(value: Tensor) -> Any:
    import triton.language as tl

    return tl.float64 if value.dtype == torch.float64 else tl.float32


def _precision(value: Tensor) -> str:
    return "ieee" if value.dtype == torch.float64 else "tf32x3"
