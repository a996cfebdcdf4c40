r"""The product of :func:`equivariant_attention.contraction.frame.mix` in Triton: radial weights never reach memory.

.. math:: y_{k e m p} = \sum_c R_{k e p c} \, x_{k e m c}, \qquad R_{k e p c} = \sum_j h_{k e j} A_{k j p c}

for kernels k, rows e, orders and edges of a row m, channels out with their coefficients p, channels in c, and hidden
values j. R is larger than everything else by far. Each program makes a tile of it, of as many rows and channels as fit
its registers, and consumes the tile at once; the derivatives make R, or its derivative, again in the same way:

.. math:: \bar x_{k e m c} = \sum_p R_{k e p c} \, \bar y_{k e m p}, \quad
          \bar R_{k e p c} = \sum_m \bar y_{k e m p} \, x_{k e m c}, \quad
          \bar h_{k e j} = \sum_{p c} \bar R_{k e p c} A_{k j p c}, \quad
          \bar A_{k j p c} = \sum_e h_{k e j} \bar R_{k e p c}

No sum uses atomic operations, so all results are deterministic. Sums are in float32, or float64 for float64 inputs;
products of float32 numbers follow ``torch.get_float32_matmul_precision()``: exact when it is 'highest', else TF32.

This has run in Triton's interpreter only, and been compiled for sm_80 and sm_90: on a GPU it has neither run nor been
measured, and the sizes of its tiles are not tuned. Triton (3.3 or later) is optional, and imported by the first call.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from packaging.version import Version
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

__all__ = ["available", "mix_product", "mix_product_gradient", "plain_product"]

# Sizes of tiles: as large as registers hold, as the compiler reports for sm_80 (but for a few bytes) and sm_90. Tiles
# of sums over rows are wide rather than high.
ROWS, ROWS_OF_SUM, COLUMNS_OF_SUM = 64, 16, 128
PROGRAMS = 1024  # that fill a GPU: a sum over rows with fewer is taken in parts
SMALLEST = 16  # side of a tile that tl.dot takes


class Kernels(NamedTuple):
    """The compiled kernels, and what they need to be told about Triton."""

    multiply: Any
    hidden_gradient: Any
    weight_gradient: Any
    types: dict[torch.dtype, Any]
    interpreted: bool
    has_float64: bool  # in tl.dot: 3.9 does, 3.3 does not


@cache
def _kernels() -> Kernels:
    """Import Triton, which the kernels below find as the global ``tl``.

    Raises:
        ImportError: if it is not installed, or too old: before 3.3 it has no tuples.
    """
    global tl
    try:
        import triton
        import triton.language as tl
    except ImportError as error:
        raise ImportError("mix_product needs Triton, which is not installed: pip install triton") from error
    version = Version(triton.__version__)
    if version < Version("3.3"):
        raise ImportError(f"mix_product needs Triton 3.3 or later, this is {version}")
    types = {
        torch.float16: tl.float16,
        torch.bfloat16: tl.bfloat16,
        torch.float32: tl.float32,
        torch.float64: tl.float64,
    }
    functions = [triton.jit(f) for f in (_multiply, _hidden_gradient, _weight_gradient)]
    interpreted = not isinstance(functions[0], triton.JITFunction)
    return Kernels(*functions, types, interpreted, has_float64=interpreted or version >= Version("3.9"))


def available(device: torch.device) -> bool:
    """Whether :func:`mix_product` runs there: with Triton on CUDA, or in its interpreter (``TRITON_INTERPRET=1``)."""
    if device.type != "cuda" and "TRITON_INTERPRET" not in os.environ:
        return False
    try:
        return _kernels().interpreted or device.type == "cuda"
    except ImportError:
        return False


def plain_product(h: Tensor, A: Tensor, x: Tensor) -> Tensor:
    """:func:`mix_product` as it is written, with R in memory: what the kernels are tested against."""
    return x @ _radial_weights(h, A, x).mT


def _radial_weights(h: Tensor, A: Tensor, x: Tensor) -> Tensor:
    return (h @ A).view(len(x), -1, x.shape[2]).to(x.dtype)


def mix_product(h: Tensor, A: Tensor, x: Tensor) -> Tensor:
    """Multiply by radial weights that are made on the way; differentiable any number of times.

    Derivatives of derivatives are those of :func:`plain_product`: a backward pass with ``create_graph`` holds R.

    Args:
        h: hidden values of the radial networks, and a one for their biases, ``[kernels, rows, hidden + 1]``.
        A: the last layers, ``[kernels, hidden + 1, orders x channels out x channels in]``, of the type of ``h``.
        x: what is multiplied, ``[kernels x rows, orders x D, channels in]``, of any floating type.

    Returns:
        ``[kernels x rows, orders x D, orders x channels out]``, of the type of ``x``.

    Raises:
        ImportError: if Triton is not installed.
        ValueError: if shapes, types or devices do not fit.
    """
    return MixProduct.apply(h, A, x)


class MixProduct(torch.autograd.Function):
    """:func:`mix_product`, of which only the inputs are kept."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, A: Tensor, x: Tensor) -> Tensor:
        _check(h, A, x)
        ctx.save_for_backward(h, A, x)
        return _product(h, A, x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        gradient = _plain_gradient if torch.is_grad_enabled() else _gradient
        return gradient(*ctx.saved_tensors, dy, ctx.needs_input_grad)


def mix_product_gradient(
    h: Tensor, A: Tensor, x: Tensor, dy: Tensor, separate: int = 1, by_weights: bool = True
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The first derivatives of :func:`mix_product`, not differentiable themselves.

    Args:
        h, A, x: as there.
        dy: derivatives with respect to its value, ``[kernels x rows, orders x D, orders x channels out]``.
        separate: D, for derivatives with respect to ``h`` of every edge of a row, or 1, for their sum over the row.
        by_weights: whether derivatives with respect to ``A`` are needed.

    Returns:
        the derivatives with respect to ``h``, ``[kernels, rows, separate, hidden + 1]``, ``A`` (or None), and ``x``.
    """
    _check(h, A, x)
    if x.shape[1] % separate:
        raise ValueError(f"x has {x.shape[1]} orders and edges per row, which are not {separate} times a whole number")
    with torch.no_grad():
        dA = _by_weights(h, A, x, dy) if by_weights else None
        return _by_hidden(h, A, x, dy, separate), dA, _by_input(h, A, x, dy)


Needed = tuple[bool, bool, bool]


def _gradient(h: Tensor, A: Tensor, x: Tensor, dy: Tensor, needed: Needed) -> tuple[Tensor | None, ...]:
    return (
        _by_hidden(h, A, x, dy, 1).squeeze(2) if needed[0] else None,
        _by_weights(h, A, x, dy) if needed[1] else None,
        _by_input(h, A, x, dy) if needed[2] else None,
    )


def _plain_gradient(h: Tensor, A: Tensor, x: Tensor, dy: Tensor, needed: Needed) -> tuple[Tensor | None, ...]:
    """The same in differentiable steps."""
    dR = (dy.mT @ x).view(*h.shape[:2], A.shape[2]).to(h.dtype) if needed[0] or needed[1] else None
    return (
        dR @ A.mT if needed[0] else None,
        h.mT @ dR if needed[1] else None,
        dy @ _radial_weights(h, A, x) if needed[2] else None,
    )


def _check(h: Tensor, A: Tensor, x: Tensor) -> None:
    kernels = _kernels()
    if not (
        h.ndim == A.ndim == x.ndim == 3
        and (len(h), h.shape[2], len(h) * h.shape[1]) == (*A.shape[:2], len(x))
        and min(*h.shape, *A.shape, *x.shape) > 0
        and A.shape[2] % x.shape[2] == 0
    ):
        expected = "[kernels, rows, hidden], [kernels, hidden, out x in] and [kernels x rows, any, in], none empty"
        raise ValueError(f"h, A and x must be {expected}, got {[*h.shape]}, {[*A.shape]} and {[*x.shape]}")
    types = (h.dtype, A.dtype, x.dtype)
    if h.dtype != A.dtype or not kernels.types.keys() >= {*types} or len({t == torch.float64 for t in types}) > 1:
        raise ValueError(f"h and A must share a floating type, all be float64 or none, got {[*map(str, types)]}")
    if h.dtype == torch.float64 and not kernels.has_float64:
        raise ValueError("float64 needs Triton 3.9 or later")
    if len({h.device, A.device, x.device}) > 1 or not (h.is_cuda or kernels.interpreted):
        where = "one CUDA device, or a CPU in Triton's interpreter (TRITON_INTERPRET=1, set before Triton is imported)"
        raise ValueError(f"h, A and x must be on {where}, got {h.device}, {A.device} and {x.device}")


def _power(size: int) -> int:
    return max(SMALLEST, 1 << (size - 1).bit_length())


def _numbers(h: Tensor) -> dict[str, Any]:
    """How a kernel computes: what tl.dot multiplies (in the interpreter it does not know bfloat16), and sums."""
    kernels = _kernels()
    dot = torch.float32 if kernels.interpreted and h.dtype == torch.bfloat16 else h.dtype
    exact = h.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return {
        "TYPE": kernels.types[h.dtype],
        "DOT": kernels.types[dot],
        "SUM": tl.float64 if h.dtype == torch.float64 else tl.float32,
        "PRECISION": "ieee" if exact else "tf32",
        "HIDDEN": _power(h.shape[2] - 1),
        "enable_fp_fusion": True,
    }


def _on_device(tensor: Tensor) -> AbstractContextManager:
    return torch.cuda.device_of(tensor)


def _product(h: Tensor, A: Tensor, x: Tensor) -> Tensor:
    """``y[k, e, m, p] = sum_c (sum_j h[k, e, j] A[k, j, p, c]) x[k, e, m, c]``."""
    weights = A.unflatten(2, (-1, x.shape[2])).permute(0, 3, 1, 2)
    return _multiplied(h, weights.contiguous(), x)


def _by_input(h: Tensor, A: Tensor, x: Tensor, dy: Tensor) -> Tensor:
    """``dx[k, e, m, c] = sum_p (sum_j h[k, e, j] A[k, j, p, c]) dy[k, e, m, p]``."""
    return _multiplied(h, A.unflatten(2, (-1, x.shape[2])).transpose(1, 2), dy)


def _multiplied(h: Tensor, weights: Tensor, x: Tensor) -> Tensor:
    """``y[k, e, m, o] = sum_i (sum_j h[k, e, j] weights[k, i, j, o]) x[k, e, m, i]``."""
    h, x = h.contiguous(), x.contiguous()
    (kernels, rows, H), M, outer = h.shape, x.shape[1], weights.shape[3]
    y = x.new_empty(len(x), M, outer)
    columns = min(_power(outer), 32 if M <= 2 else SMALLEST)
    grid = (-(-rows // ROWS), -(-outer // columns), kernels)
    with _on_device(h):
        _kernels().multiply[grid](
            *(h, weights, x, y, rows, x.shape[2], outer, H, *weights.stride()),
            **{"M": M, "ROWS": ROWS, "COLUMNS": columns, "num_warps": 4, **_numbers(h)},
        )
    return y


def _by_hidden(h: Tensor, A: Tensor, x: Tensor, dy: Tensor, separate: int) -> Tensor:
    """``dh[k, e, s, j] = sum_{m of s, p, c} A[k, j, p, c] dy[k, e, m, p] x[k, e, m, c]``."""
    weights = A.contiguous().unflatten(2, (-1, x.shape[2])).permute(0, 1, 3, 2)
    if x.shape[2] < SMALLEST and x.shape[2] < dy.shape[2]:  # tiles are of many channels of x
        weights, x, dy = weights.mT, dy, x
    x, dy = x.contiguous(), dy.contiguous()
    kernels, rows, H = h.shape
    dh = h.new_empty(kernels, rows, separate, H)
    with _on_device(h):
        _kernels().hidden_gradient[-(-rows // ROWS), kernels, separate](
            *(weights, x, dy, dh, rows, x.shape[2], dy.shape[2], H, *weights.stride()),
            **{"M": x.shape[1] // separate, "ROWS": ROWS, "COLUMNS": SMALLEST, "num_warps": 8, **_numbers(h)},
        )
    return dh


def _by_weights(h: Tensor, A: Tensor, x: Tensor, dy: Tensor) -> Tensor:
    """``dA[k, j, p, c] = sum_{e, m} h[k, e, j] dy[k, e, m, p] x[k, e, m, c]``."""
    h, x, dy = h.contiguous(), x.contiguous(), dy.contiguous()
    (kernels, rows, H), M, inner, outer = h.shape, x.shape[1], x.shape[2], dy.shape[2]
    columns = min(1 << (inner - 1).bit_length(), 32)
    others = COLUMNS_OF_SUM // columns
    tiles, blocks = -(-inner // columns) * -(-outer // others), -(-rows // ROWS_OF_SUM)
    of_part = max(32, -(-blocks * tiles * kernels // PROGRAMS)) * ROWS_OF_SUM
    parts = -(-rows // of_part)
    sums = torch.empty(parts, *A.shape, device=A.device, dtype=torch.promote_types(A.dtype, torch.float32))
    with _on_device(h):
        _kernels().weight_gradient[tiles, kernels, parts](
            *(h, x, dy, sums, rows, inner, outer, H, of_part),
            **{"M": M, "ROWS": ROWS_OF_SUM, "COLUMNS": columns, "OTHERS": others, "num_warps": 8, **_numbers(h)},
        )
    return sums.sum(0).to(A.dtype)


# The kernels. The last hidden value, the one of the bias, is not part of tl.dot: 33 of them would be padded to 64.


def _multiply(
    h_at: tl.tensor,
    A_at: tl.tensor,
    x_at: tl.tensor,
    y_at: tl.tensor,
    rows: int,
    inner: int,
    outer: int,
    H: int,
    stride_k: int,
    stride_i: int,
    stride_j: int,
    stride_o: int,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HIDDEN: tl.constexpr,
    TYPE: tl.constexpr,
    DOT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """``y[k, e, m, o] = sum_i (sum_j h[k, e, j] A[k, i, j, o]) x[k, e, m, i]`` for a block of e and o."""
    k = tl.program_id(2).to(tl.int64)
    e = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    j = tl.arange(0, HIDDEN)
    row, is_e, is_o, is_j = k * rows + e, e < rows, o < outer, j < H - 1
    h = tl.load(h_at + row[:, None] * H + j[None, :], mask=is_e[:, None] & is_j[None, :], other=0.0).to(DOT)
    h_last = tl.load(h_at + row * H + H - 1, mask=is_e, other=0.0).to(SUM)
    A_at += k * stride_k + o[None, :] * stride_o
    y = ()
    for _ in tl.static_range(M):
        y += (tl.zeros((ROWS, COLUMNS), dtype=SUM),)
    for i in range(inner):
        A = tl.load(A_at + j[:, None] * stride_j, mask=is_j[:, None] & is_o[None, :], other=0.0).to(DOT)
        A_last = tl.load(A_at + (H - 1) * stride_j, mask=is_o[None, :], other=0.0).to(SUM)
        R = tl.dot(h, A, input_precision=PRECISION, out_dtype=SUM) + h_last[:, None] * A_last
        total = ()
        for m in tl.static_range(M):
            x = tl.load(x_at + (row * M + m) * inner + i, mask=is_e, other=0.0).to(SUM)
            total += (y[m] + x[:, None] * R,)
        y = total
        A_at += stride_i
    for m in tl.static_range(M):
        tl.store(y_at + (row * M + m)[:, None] * outer + o[None, :], y[m], mask=is_e[:, None] & is_o[None, :])


def _hidden_gradient(
    A_at: tl.tensor,
    x_at: tl.tensor,
    dy_at: tl.tensor,
    dh_at: tl.tensor,
    rows: int,
    inner: int,
    outer: int,
    H: int,
    stride_k: int,
    stride_j: int,
    stride_i: int,
    stride_o: int,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    HIDDEN: tl.constexpr,
    TYPE: tl.constexpr,
    DOT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """``dh[k, e, s, j] = sum_{m, i, o} A[k, j, i, o] dy[k, e, (m, s), o] x[k, e, (m, s), i]`` for some e and one s."""
    k = tl.program_id(1).to(tl.int64)
    s, separate = tl.program_id(2), tl.num_programs(2)
    e = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.arange(0, HIDDEN)
    row, is_e, is_j = k * rows + e, e < rows, j < H - 1
    dh = tl.zeros((ROWS, HIDDEN), dtype=SUM)
    dh_last = tl.zeros((ROWS,), dtype=SUM)
    for start in range(0, inner, COLUMNS):
        i = start + tl.arange(0, COLUMNS)
        is_i = i < inner
        x = ()
        for m in tl.static_range(M):
            at = x_at + ((row * M + m) * separate + s)[:, None] * inner + i[None, :]
            x += (tl.load(at, mask=is_e[:, None] & is_i[None, :], other=0.0).to(SUM),)
        at = A_at + k * stride_k + i * stride_i
        for o in range(outer):
            dR = tl.zeros((ROWS, COLUMNS), dtype=SUM)
            for m in tl.static_range(M):
                dy = tl.load(dy_at + ((row * M + m) * separate + s) * outer + o, mask=is_e, other=0.0).to(SUM)
                dR += dy[:, None] * x[m]
            A = tl.load(at[:, None] + j[None, :] * stride_j, mask=is_i[:, None] & is_j[None, :], other=0.0).to(DOT)
            A_last = tl.load(at + (H - 1) * stride_j, mask=is_i, other=0.0).to(SUM)
            dh = tl.dot(dR.to(TYPE).to(DOT), A, dh, input_precision=PRECISION, out_dtype=SUM)
            dh_last += tl.sum(dR * A_last[None, :], axis=1)
            at += stride_o
    at = dh_at + (row * separate + s) * H
    tl.store(at[:, None] + j[None, :], dh, mask=is_e[:, None] & is_j[None, :])
    tl.store(at + H - 1, dh_last, mask=is_e)


def _weight_gradient(
    h_at: tl.tensor,
    x_at: tl.tensor,
    dy_at: tl.tensor,
    dA_at: tl.tensor,
    rows: int,
    inner: int,
    outer: int,
    H: int,
    of_part: int,
    M: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OTHERS: tl.constexpr,
    HIDDEN: tl.constexpr,
    TYPE: tl.constexpr,
    DOT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """``dA[part, k, j, o, i] = sum_{e of part, m} h[k, e, j] dy[k, e, m, o] x[k, e, m, i]`` for a block of o and i."""
    k, part = tl.program_id(1).to(tl.int64), tl.program_id(2)
    tiles = tl.cdiv(inner, COLUMNS)
    first_i, first_o = tl.program_id(0) % tiles * COLUMNS, tl.program_id(0) // tiles * OTHERS
    i, o, j = first_i + tl.arange(0, COLUMNS), first_o + tl.arange(0, OTHERS), tl.arange(0, HIDDEN)
    is_i, is_o, is_j = (i < inner)[None, None, :], (o < outer)[None, :, None], j < H - 1
    dA = tl.zeros((HIDDEN, OTHERS * COLUMNS), dtype=SUM)
    dA_last = tl.zeros((OTHERS * COLUMNS,), dtype=SUM)
    for start in range(part * of_part, tl.minimum((part + 1) * of_part, rows), ROWS):
        e = start + tl.arange(0, ROWS)
        row, is_e = k * rows + e, e < rows
        dR = tl.zeros((ROWS, OTHERS, COLUMNS), dtype=SUM)
        for m in tl.static_range(M):
            at = (row * M + m)[:, None, None]
            x = tl.load(x_at + at * inner + i[None, None, :], mask=is_e[:, None, None] & is_i, other=0.0).to(SUM)
            dy = tl.load(dy_at + at * outer + o[None, :, None], mask=is_e[:, None, None] & is_o, other=0.0).to(SUM)
            dR += dy * x
        dR = tl.reshape(dR, (ROWS, OTHERS * COLUMNS))
        h = tl.load(h_at + row[None, :] * H + j[:, None], mask=is_j[:, None] & is_e[None, :], other=0.0).to(DOT)
        h_last = tl.load(h_at + row * H + H - 1, mask=is_e, other=0.0).to(SUM)
        dA = tl.dot(h, dR.to(TYPE).to(DOT), dA, input_precision=PRECISION, out_dtype=SUM)
        dA_last += tl.sum(h_last[:, None] * dR, axis=0)
    n = tl.arange(0, OTHERS * COLUMNS)
    to_i, to_o = first_i + n % COLUMNS, first_o + n // COLUMNS
    is_n = (to_i < inner) & (to_o < outer)
    at = dA_at + (part * tl.num_programs(1) + k) * H * outer * inner + to_o * inner + to_i
    tl.store(at[None, :] + j[:, None] * (outer * inner), dA, mask=is_j[:, None] & is_n[None, :])
    tl.store(at + (H - 1) * (outer * inner), dA_last, mask=is_n)
