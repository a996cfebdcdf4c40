"""Linear maps of channels, one matrix for each degree, all degrees in one launch; and their derivatives.

A degree has ``values[nodes, channels, orders]``; a row is an order of a node. Each product in float32 is three products
of tensor cores in TF32 (``tf32x3``), which is as accurate as float32, whatever precision PyTorch is set to: rounding
vectors to TF32 would break equivariance.

Names: INSIDE, BESIDE and OUTSIDE are the channels of the input of a kernel, of a second input whose channels follow
those of the first, and of the output.
"""

import triton
import triton.language as tl

from .products import dot


@triton.jit
def mixed(
    weights, values, others, outputs, nodes,
    ORDERS: tl.constexpr, INSIDE: tl.constexpr, BESIDE: tl.constexpr, OUTSIDE: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``output = W v``, or ``W [v, other]`` for a degree with a second input."""
    for i in tl.static_range(len(ORDERS)):
        if tl.program_id(1) == i:
            row, o, is_row, total = _accumulator(nodes, ORDERS[i], ROWS, OUT, SUM)
            total = _added(total, weights[i], values[i], row, o, is_row, ORDERS[i], INSIDE[i], OUTSIDE[i],
                           INSIDE[i] + BESIDE[i], 1, IN, SUM, PRECISION)  # fmt: skip
            if BESIDE[i]:
                total = _added(total, weights[i] + INSIDE[i], others[i], row, o, is_row, ORDERS[i], BESIDE[i],
                               OUTSIDE[i], INSIDE[i] + BESIDE[i], 1, IN, SUM, PRECISION)  # fmt: skip
            _stored(outputs[i], total, row, o, is_row, ORDERS[i], OUTSIDE[i])


@triton.jit
def by_values(
    weights, gradients, outputs, nodes,
    ORDERS: tl.constexpr, INSIDE: tl.constexpr, FIRST: tl.constexpr, OUTSIDE: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Derivatives with respect to the input, ``W^T gradient``, for OUTSIDE of the COLUMNS of W, from FIRST on."""
    for i in tl.static_range(len(ORDERS)):
        if tl.program_id(1) == i:
            row, o, is_row, total = _accumulator(nodes, ORDERS[i], ROWS, OUT, SUM)
            total = _added(total, weights[i] + FIRST[i], gradients[i], row, o, is_row, ORDERS[i], INSIDE[i], OUTSIDE[i],
                           1, COLUMNS[i], IN, SUM, PRECISION)  # fmt: skip
            _stored(outputs[i], total, row, o, is_row, ORDERS[i], OUTSIDE[i])


@triton.jit
def _accumulator(nodes, N: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, SUM: tl.constexpr):
    """The rows and channels out of a program, which rows exist, and a tile of zeros for their sums."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    return row, tl.program_id(2) * OUT + tl.arange(0, OUT), row < nodes * N, tl.zeros((ROWS, OUT), dtype=SUM)


@triton.jit
def _added(
    total, weight_at, values_at, row, o, is_row, N: tl.constexpr, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr,
    STEP_OUT: tl.constexpr, STEP_IN: tl.constexpr, IN: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    for first in range(0, INSIDE, IN):
        c = first + tl.arange(0, IN)
        is_c = c < INSIDE
        at = values_at + (row // N * INSIDE * N + row % N)[:, None] + c[None, :] * N
        v = tl.load(at, mask=is_row[:, None] & is_c[None, :], other=0.0)
        at = weight_at + o[None, :] * STEP_OUT + c[:, None] * STEP_IN
        W = tl.load(at, mask=is_c[:, None] & (o < OUTSIDE)[None, :], other=0.0)
        total = dot(v, W, total, SUM, PRECISION)
    return total


@triton.jit
def _stored(output_at, total, row, o, is_row, N: tl.constexpr, OUTSIDE: tl.constexpr):
    at = output_at + (row // N * OUTSIDE * N + row % N)[:, None] + o[None, :] * N
    tl.store(at, total, mask=is_row[:, None] & (o < OUTSIDE)[None, :])


@triton.jit
def by_weights(
    values, gradients, sums_at, nodes, of_part, total,
    PLACES: tl.constexpr, ORDERS: tl.constexpr, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Derivatives with respect to W, ``gradient v^T``, as partial sums over some of the nodes.

    Those of all degrees are stored in one row, that of a degree from its element of PLACES on.
    """
    for i in tl.static_range(len(ORDERS)):
        if tl.program_id(1) == i:
            _by_weights(
                values[i], gradients[i], sums_at + tl.program_id(2).to(tl.int64) * total + PLACES[i], nodes, of_part,
                ORDERS[i], INSIDE[i], OUTSIDE[i], COLUMNS[i], ROWS, OUT, IN, SUM, PRECISION,
            )  # fmt: skip


@triton.jit
def _by_weights(
    values_at, gradient_at, sum_at, nodes, of_part, N: tl.constexpr, INSIDE: tl.constexpr, OUTSIDE: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    tiles: tl.constexpr = (INSIDE + IN - 1) // IN
    o = tl.program_id(0) // tiles * OUT + tl.arange(0, OUT)
    c = tl.program_id(0) % tiles * IN + tl.arange(0, IN)
    is_o, is_c = o < OUTSIDE, c < INSIDE
    total = tl.zeros((OUT, IN), dtype=SUM)
    part = tl.program_id(2)
    end = tl.minimum((part + 1) * of_part, nodes) * N
    for start in range(part * of_part * N, end, ROWS):
        row = start + tl.arange(0, ROWS).to(tl.int64)
        is_row = row < end
        at = values_at + (row // N * INSIDE * N + row % N)[:, None] + c[None, :] * N
        v = tl.load(at, mask=is_row[:, None] & is_c[None, :], other=0.0)
        at = gradient_at + (row // N * OUTSIDE * N + row % N)[:, None] + o[None, :] * N
        d = tl.load(at, mask=is_row[:, None] & is_o[None, :], other=0.0)
        total = dot(tl.trans(d), v, total, SUM, PRECISION)
    tl.store(sum_at + o[:, None] * COLUMNS + c[None, :], total, mask=is_o[:, None] & is_c[None, :])
