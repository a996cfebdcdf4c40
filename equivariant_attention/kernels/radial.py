"""Radial networks: hidden values, last layers for coefficients of the orders, and the derivatives of both.

A network is an MLP: Linear, LayerNorm, ReLU, Linear, LayerNorm, ReLU, Linear, or the same without the LayerNorms. Its
ten parameters stay where PyTorch has them: kernels read their addresses from a table. Each product of the hidden layers
is three products of tensor cores in TF32, which is as accurate as float32, whatever the precision of radial weights.
"""

import triton
import triton.language as tl

from .products import dot, summed

HIDDEN = tl.constexpr(32)
EPSILON = tl.constexpr(1e-5)
PARAMETERS = tl.constexpr(10)
# Derivatives with respect to the hidden layers of one network lie side by side: the first weight, [32, scalars], then
# so many elements: bias, scale, shift of the first layer; weight [32, 32], bias, scale, shift of the second.
BEHIND = tl.constexpr(3 * 32 + 32 * 32 + 3 * 32)


@triton.jit
def _row_places(rows, first_alone):
    """The position of the first edge of each row in the order of the plan: rows of two edges come first."""
    return tl.where(rows < first_alone, 2 * rows, rows + first_alone)


@triton.jit
def _parameter(table_at, network, NUMBER: tl.constexpr, like_at):
    """A pointer to a parameter, of the type of another pointer."""
    return tl.load(table_at + network * PARAMETERS + NUMBER).to(like_at.dtype)


@triton.jit
def _first_values(
    table_at, scalars_at, order_at, like_at, start, network, rows, first_alone, scalars,
    SCALARS: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of a tile of rows: indices, which exist, the scalars that the network sees, and what its first Linear gives."""
    row, s, h = start + tl.arange(0, ROWS), tl.arange(0, SCALARS), tl.arange(0, HIDDEN)
    is_e, is_s = row < rows, s < scalars
    edge = tl.load(order_at + _row_places(row, first_alone), mask=is_e, other=0)
    at = scalars_at + edge[:, None] * scalars + s[None, :]
    seen = tl.load(at, mask=is_e[:, None] & is_s[None, :], other=0.0)
    at = _parameter(table_at, network, 0, like_at) + h[None, :] * scalars + s[:, None]
    weight = tl.load(at, mask=is_s[:, None], other=0.0)
    bias = tl.load(_parameter(table_at, network, 1, like_at) + h)
    return row, is_e, seen, dot(seen, weight, tl.zeros((ROWS, HIDDEN), dtype=SUM) + bias[None, :], SUM, PRECISION)


@triton.jit
def _normed(z, HAS_NORM: tl.constexpr):
    """Values normalised to mean 0 and variance 1, and 1 / sqrt(variance + eps); without a LayerNorm as they are."""
    inverse = tl.sum(z * 0, axis=1) + 1
    if HAS_NORM:
        z -= (tl.sum(z, axis=1) / HIDDEN)[:, None]
        inverse = tl.rsqrt(tl.sum(z * z, axis=1) / HIDDEN + EPSILON)
        z *= inverse[:, None]
    return z, inverse


@triton.jit
def _activated(z, table_at, network, SCALE: tl.constexpr, like_at, HAS_NORM: tl.constexpr):
    h = tl.arange(0, HIDDEN)
    if HAS_NORM:
        scale = tl.load(_parameter(table_at, network, SCALE, like_at) + h)
        z = z * scale[None, :] + tl.load(_parameter(table_at, network, SCALE + 1, like_at) + h)[None, :]
    return tl.maximum(z, 0.0)


@triton.jit
def _hidden(
    table_at, scalars_at, order_at, g_at, rows, first_alone, scalars, network, block,
    HAS_NORM: tl.constexpr, SCALARS: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    h = tl.arange(0, HIDDEN)
    row, is_e, _, z = _first_values(table_at, scalars_at, order_at, g_at, block * ROWS, network, rows, first_alone,
                                    scalars, SCALARS, ROWS, SUM, PRECISION)  # fmt: skip
    z, _ = _normed(z, HAS_NORM)
    x = _activated(z, table_at, network, 2, g_at, HAS_NORM)
    weight = tl.load(_parameter(table_at, network, 4, g_at) + h[None, :] * HIDDEN + h[:, None])  # transposed
    bias = tl.load(_parameter(table_at, network, 5, g_at) + h)
    z = dot(x, weight, tl.zeros((ROWS, HIDDEN), dtype=SUM) + bias[None, :], SUM, PRECISION)
    z, _ = _normed(z, HAS_NORM)
    g = _activated(z, table_at, network, 6, g_at, HAS_NORM)
    at = g_at + (network.to(tl.int64) * rows + row[:, None]) * HIDDEN + h[None, :]
    tl.store(at, g, mask=is_e[:, None])


@triton.jit
def _norm_gradient(d, z, inverse, table_at, network, SCALE: tl.constexpr, like_at, HAS_NORM: tl.constexpr):
    """The backward pass of the LayerNorm: from derivatives with respect to its output to those by its input."""
    if HAS_NORM:
        d *= tl.load(_parameter(table_at, network, SCALE, like_at) + tl.arange(0, HIDDEN))[None, :]
        along = tl.sum(d * z, axis=1) / HIDDEN
        d = (d - (tl.sum(d, axis=1) / HIDDEN)[:, None] - z * along[:, None]) * inverse[:, None]
    return d


@triton.jit
def hidden_gradient(
    table_at, scalars_at, order_at, dg_at, parts_at, dscalars_at, rows, first_alone, scalars, of_part,
    HAS_NORM: tl.constexpr, BY_SCALARS: tl.constexpr, SCALARS: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """First derivatives of hidden layers with respect to parameters, as partial sums over some rows, and to scalars.

    One loop over the rows is for the second layer, another for the first, as registers cannot hold the sums of both.
    The derivatives with respect to the input of the first ReLU overwrite ``dg`` in between.
    """
    network, part = tl.program_id(0), tl.program_id(1)
    first, end = part * of_part, tl.minimum((part + 1) * of_part, rows)
    to = parts_at + (part.to(tl.int64) * tl.num_programs(0) + network) * (HIDDEN * scalars + BEHIND)
    _by_second_layer(table_at, scalars_at, order_at, dg_at, to + HIDDEN * (scalars + 3), network, first, end, rows,
                     first_alone, scalars, HAS_NORM, SCALARS, ROWS, SUM, PRECISION)  # fmt: skip
    tl.debug_barrier()
    _by_first_layer(table_at, scalars_at, order_at, dg_at, to, dscalars_at, network, first, end, rows, first_alone,
                    scalars, HAS_NORM, BY_SCALARS, SCALARS, ROWS, SUM, PRECISION)  # fmt: skip


@triton.jit
def _by_second_layer(
    table_at, scalars_at, order_at, dg_at, to, network, first, end, rows, first_alone, scalars,
    HAS_NORM: tl.constexpr, SCALARS: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    h = tl.arange(0, HIDDEN)
    weight_at = _parameter(table_at, network, 4, dg_at)
    bias = tl.load(_parameter(table_at, network, 5, dg_at) + h)
    dweight, dbias = tl.zeros((HIDDEN, HIDDEN), dtype=SUM), tl.zeros((HIDDEN, 8), dtype=SUM)
    dscale, dshift, ones = dbias, dbias, tl.full((ROWS, 8), 1.0, dtype=SUM)
    for start in range(first, end, ROWS):
        row, is_e, _, z = _first_values(table_at, scalars_at, order_at, dg_at, start, network, rows, first_alone,
                                        scalars, SCALARS, ROWS, SUM, PRECISION)  # fmt: skip
        x, _ = _normed(z, HAS_NORM)
        x = _activated(x, table_at, network, 2, dg_at, HAS_NORM)
        weight = tl.load(weight_at + h[:, None] * HIDDEN + h[None, :])
        z = dot(x, tl.trans(weight), tl.zeros((ROWS, HIDDEN), dtype=SUM) + bias[None, :], SUM, PRECISION)
        z, inverse = _normed(z, HAS_NORM)
        at = dg_at + network.to(tl.int64) * rows * HIDDEN + (row[:, None] * HIDDEN + h[None, :])
        d = tl.load(at, mask=is_e[:, None], other=0.0)
        d = tl.where(_activated(z, table_at, network, 6, dg_at, HAS_NORM) > 0, d, 0.0)
        dscale = summed(tl.trans(d * z), ones, dscale, SUM, PRECISION)
        dshift = summed(tl.trans(d), ones, dshift, SUM, PRECISION)
        d = _norm_gradient(d, z, inverse, table_at, network, 6, dg_at, HAS_NORM)
        dbias = summed(tl.trans(d), ones, dbias, SUM, PRECISION)
        dweight = dot(tl.trans(d), x, dweight, SUM, PRECISION)
        d = tl.where(x > 0, dot(d, weight, tl.zeros((ROWS, HIDDEN), dtype=SUM), SUM, PRECISION), 0.0)
        tl.store(at, d, mask=is_e[:, None])
    tl.store(to + h[:, None] * HIDDEN + h[None, :], dweight)
    _store_sums(to + HIDDEN * HIDDEN, dbias, dscale, dshift)


@triton.jit
def _by_first_layer(
    table_at, scalars_at, order_at, dg_at, to, dscalars_at, network, first, end, rows, first_alone, scalars,
    HAS_NORM: tl.constexpr, BY_SCALARS: tl.constexpr, SCALARS: tl.constexpr, ROWS: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    h, s = tl.arange(0, HIDDEN), tl.arange(0, SCALARS)
    is_s = s < scalars
    weight_at = _parameter(table_at, network, 0, dg_at)
    dweight, dbias = tl.zeros((HIDDEN, SCALARS), dtype=SUM), tl.zeros((HIDDEN, 8), dtype=SUM)
    dscale, dshift, ones = dbias, dbias, tl.full((ROWS, 8), 1.0, dtype=SUM)
    for start in range(first, end, ROWS):
        row, is_e, seen, z = _first_values(table_at, scalars_at, order_at, dg_at, start, network, rows, first_alone,
                                           scalars, SCALARS, ROWS, SUM, PRECISION)  # fmt: skip
        z, inverse = _normed(z, HAS_NORM)
        at = dg_at + network.to(tl.int64) * rows * HIDDEN + (row[:, None] * HIDDEN + h[None, :])
        d = tl.load(at, mask=is_e[:, None], other=0.0)
        dscale = summed(tl.trans(d * z), ones, dscale, SUM, PRECISION)
        dshift = summed(tl.trans(d), ones, dshift, SUM, PRECISION)
        d = _norm_gradient(d, z, inverse, table_at, network, 2, dg_at, HAS_NORM)
        dbias = summed(tl.trans(d), ones, dbias, SUM, PRECISION)
        dweight = dot(tl.trans(d), seen, dweight, SUM, PRECISION)
        if BY_SCALARS:
            weight = tl.load(weight_at + h[:, None] * scalars + s[None, :], mask=is_s[None, :], other=0.0)
            edge = tl.load(order_at + _row_places(row, first_alone), mask=is_e, other=0)
            at = dscalars_at + (network.to(tl.int64) * rows + edge[:, None]) * scalars + s[None, :]
            found = dot(d, weight, tl.zeros((ROWS, SCALARS), dtype=SUM), SUM, PRECISION)
            tl.store(at, found, mask=is_e[:, None] & is_s[None, :])
    tl.store(to + h[:, None] * scalars + s[None, :], dweight, mask=is_s[None, :])
    _store_sums(to + HIDDEN * scalars, dbias, dscale, dshift)


@triton.jit
def _store_sums(to, dbias, dscale, dshift):
    """Of eight equal columns, one: products with ones take fewer instructions than tl.sum over threads."""
    h = tl.arange(0, HIDDEN)
    tl.store(to + h, tl.max(dbias, axis=1))
    tl.store(to + HIDDEN + h, tl.max(dscale, axis=1))
    tl.store(to + 2 * HIDDEN + h, tl.max(dshift, axis=1))


@triton.jit
def networks(
    table_at,
    scalars_at,
    order_at,
    g_at,
    rows,
    first_alone,
    scalars,
    blocks,
    networks,
    numbers0_at,  # int32 per kernel: network, first, step_out, step_in, F, channels out, channels in, transposed index
    coupling0_at,  # per kernel, [2, F]
    A0_at,
    b0_at,
    AT0_at,
    bT0_at,
    numbers_at,
    coupling_at,
    A_at,
    b_at,
    AT_at,
    bT_at,
    kernels0,
    HAS_NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
    SCALARS: tl.constexpr,
    ROWS: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The hidden values ``g[networks, rows, 32]``, and the last layers, changed to coefficients of the orders.

    The last layers are weights ``A[kernels, P, (a, b), C, 32]`` and biases ``b[kernels, P, (a, b), C]``, for m = 0 and
    for all m > 0; if TRANSPOSED, also those of the transposed kernels, ``AT[kernels, C, (a, -b), P, 32]``. A kernel
    here is an order m of a pair of degrees (``triton_layout.py``). P and C are channels out and in, padded.
    """
    number = tl.program_id(0)
    if number < blocks * networks:
        _hidden(table_at, scalars_at, order_at, g_at, rows, first_alone, scalars, number // blocks, number % blocks,
                HAS_NORM, SCALARS, ROWS, SUM, PRECISION)  # fmt: skip
    else:
        number -= blocks * networks
        kernel, p = number // P, number % P
        if kernel < kernels0:
            _last_layers(table_at, numbers0_at, coupling0_at, A0_at, b0_at, AT0_at, bT0_at, kernel, p, 1, P, C, F,
                         HAS_BIAS, TRANSPOSED)  # fmt: skip
        else:
            _last_layers(table_at, numbers_at, coupling_at, A_at, b_at, AT_at, bT_at, kernel - kernels0, p, 2, P, C, F,
                         HAS_BIAS, TRANSPOSED)  # fmt: skip


@triton.jit
def _last_layers(
    table_at, numbers_at, coupling_at, A_at, b_at, AT_at, bT_at, number, p, AB: tl.constexpr, P: tl.constexpr,
    C: tl.constexpr, F: tl.constexpr, HAS_BIAS: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    kernel = number.to(tl.int64)
    h, c = tl.arange(0, HIDDEN), tl.arange(0, C)
    at = numbers_at + kernel * 8
    network, num_freq, channels_out, channels_in = tl.load(at), tl.load(at + 4), tl.load(at + 5), tl.load(at + 6)
    weight_at = _parameter(table_at, network, 8, A_at)
    row = tl.load(at + 1) + p * tl.load(at + 2) + c * tl.load(at + 3)
    is_c = c < tl.where(p < channels_out, channels_in, 0)
    to_transposed = tl.load(at + 7).to(tl.int64)
    for ab in tl.static_range(AB):
        total, bias = tl.zeros((C, HIDDEN), dtype=A_at.dtype.element_ty), tl.zeros((C,), dtype=A_at.dtype.element_ty)
        for J in range(num_freq):
            factor = tl.load(coupling_at + (kernel * 2 + ab) * F + J)
            W = tl.load(weight_at + (row[:, None] + J) * HIDDEN + h[None, :], mask=is_c[:, None], other=0.0)
            total += factor * W
            if HAS_BIAS:
                bias += factor * tl.load(_parameter(table_at, network, 9, A_at) + row + J, mask=is_c, other=0.0)
        place = ((kernel * P + p) * AB + ab) * C + c
        tl.store(A_at + place[:, None] * HIDDEN + h[None, :], total)
        tl.store(b_at + place, bias)
        if TRANSPOSED:
            place = ((to_transposed * C + c) * AB + ab) * P + p
            tl.store(AT_at + place[:, None] * HIDDEN + h[None, :], total * (1 - 2 * ab))
            tl.store(bT_at + place, bias * (1 - 2 * ab))


@triton.jit
def last_layers_gradient(
    hidden_at,  # partial sums for hidden layers, [parts_hidden, networks, size_hidden]
    dA0_at,
    db0_at,
    dA_at,
    db_at,
    numbers_at,  # int32 per pair: kernel of m = 0, number of orders, step_out, step_in, F, channels out, channels in
    kernels_at,  # int32 per pair, [ORDERS]: kernel of m > 0
    places_at,  # int64 per pair: of the derivatives with respect to its weights, and to its biases
    coupling0_at,
    coupling_at,
    d_at,
    size0,
    size,
    parts,
    pairs,
    parts_hidden,
    networks,
    size_hidden,
    ORDERS: tl.constexpr,
    P: tl.constexpr,
    C: tl.constexpr,
    F: tl.constexpr,
    HAS_BIAS: tl.constexpr,
):
    """Add up partial sums of derivatives: of hidden layers, and of last layers, changed back to coefficients J."""
    pair = tl.program_id(0)
    if pair < pairs:
        _last_layer_gradient(dA0_at, db0_at, dA_at, db_at, numbers_at, kernels_at, places_at, coupling0_at, coupling_at,
                             d_at + networks * size_hidden, size0, size, parts, pair, ORDERS, P, C, F,
                             HAS_BIAS)  # fmt: skip
    else:
        at = (pair - pairs) * size_hidden
        step = tl.num_programs(1) * tl.num_programs(2) * HIDDEN
        for first in range((tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)) * HIDDEN, size_hidden, step):
            h = first + tl.arange(0, HIDDEN)
            total = tl.zeros((HIDDEN,), dtype=d_at.dtype.element_ty)
            for part in range(parts_hidden):
                total += tl.load(hidden_at + part * networks * size_hidden + at + h)
            tl.store(d_at + at + h, total)


@triton.jit
def _last_layer_gradient(
    dA0_at, db0_at, dA_at, db_at, numbers_at, kernels_at, places_at, coupling0_at, coupling_at, d_at, size0, size,
    parts, number, ORDERS: tl.constexpr, P: tl.constexpr, C: tl.constexpr, F: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    pair, p, J = number.to(tl.int64), tl.program_id(1), tl.program_id(2)
    h, c = tl.arange(0, HIDDEN), tl.arange(0, C)
    at = numbers_at + pair * 7
    kernel0, orders, channels_in = tl.load(at).to(tl.int64), tl.load(at + 1), tl.load(at + 6)
    if (J < tl.load(at + 4)) & (p < tl.load(at + 5)):
        total, bias = tl.zeros((C, HIDDEN), dtype=d_at.dtype.element_ty), tl.zeros((C,), dtype=d_at.dtype.element_ty)
        factor, place = tl.load(coupling0_at + kernel0 * 2 * F + J), (kernel0 * P + p) * C + c
        for part in range(parts):
            total += factor * tl.load(dA0_at + (part * size0 + place)[:, None] * HIDDEN + h[None, :])
            bias += factor * tl.load(db0_at + part * size0 + place)
        for m in range(1, orders):
            kernel = tl.load(kernels_at + pair * ORDERS + m).to(tl.int64)
            for ab in tl.static_range(2):
                factor = tl.load(coupling_at + (kernel * 2 + ab) * F + J)
                place = ((kernel * P + p) * 2 + ab) * C + c
                for part in range(parts):
                    total += factor * tl.load(dA_at + (part * size + place)[:, None] * HIDDEN + h[None, :])
                    bias += factor * tl.load(db_at + part * size + place)
        row = p * tl.load(at + 2) + c * tl.load(at + 3) + J
        is_c = c < channels_in
        to = d_at + tl.load(places_at + pair * 2) + row[:, None] * HIDDEN + h[None, :]
        tl.store(to, total, mask=is_c[:, None])
        if HAS_BIAS:
            tl.store(d_at + tl.load(places_at + pair * 2 + 1) + row, bias, mask=is_c)
