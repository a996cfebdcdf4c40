"""Radial networks: their hidden values, their last layers in the basis of the orders, and derivatives of both.

A network is Linear, LayerNorm, ReLU, Linear, LayerNorm, ReLU, Linear, or the same without the LayerNorms. Its ten
parameters lie wherever PyTorch has put them: kernels read their addresses from a table.
"""

import triton
import triton.language as tl

HIDDEN = tl.constexpr(32)
EPSILON = tl.constexpr(1e-5)
PARAMETERS = tl.constexpr(10)
# Where the derivatives with respect to the parameters of the hidden layers of one network lie side by side, behind
# those of the first weight, [32, scalars]: bias, scale, shift; weight [32, 32], bias, scale, shift.
BEHIND = tl.constexpr(3 * 32 + 32 * 32 + 3 * 32)


@triton.jit
def _row_places(rows, first_alone):
    """Where in the order of the plan the first edge of each row is: rows of two edges come first."""
    return tl.where(rows < first_alone, 2 * rows, rows + first_alone)


@triton.jit
def _parameter(table_at, network, NUMBER: tl.constexpr, like_at):
    """The address of a parameter, as a pointer like another."""
    return tl.load(table_at + network * PARAMETERS + NUMBER).to(like_at.dtype)


@triton.jit
def _first_layer(scalars_at, edge, is_e, weight_at, bias_at, scalars, ROWS: tl.constexpr, TYPE: tl.constexpr):
    h = tl.arange(0, HIDDEN)
    z = tl.zeros((ROWS, HIDDEN), dtype=TYPE) + tl.load(bias_at + h)[None, :]
    for i in range(scalars):
        x = tl.load(scalars_at + edge * scalars + i, mask=is_e, other=0.0)
        z += x[:, None] * tl.load(weight_at + h * scalars + i)[None, :]
    return z


@triton.jit
def _normed(z, HAS_NORM: tl.constexpr):
    """The normed values, and what they were multiplied by."""
    inverse = tl.sum(z * 0, axis=1) + 1
    if HAS_NORM:
        z -= (tl.sum(z, axis=1) / HIDDEN)[:, None]
        inverse = 1 / tl.sqrt(tl.sum(z * z, axis=1) / HIDDEN + EPSILON)
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
    HAS_NORM: tl.constexpr, ROWS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    row, h = block * ROWS + tl.arange(0, ROWS), tl.arange(0, HIDDEN)
    is_e = row < rows
    edge = tl.load(order_at + _row_places(row, first_alone), mask=is_e, other=0)
    weight_at, bias_at = _parameter(table_at, network, 0, g_at), _parameter(table_at, network, 1, g_at)
    z, _ = _normed(_first_layer(scalars_at, edge, is_e, weight_at, bias_at, scalars, ROWS, TYPE), HAS_NORM)
    x = _activated(z, table_at, network, 2, g_at, HAS_NORM)
    weight = tl.load(_parameter(table_at, network, 4, g_at) + h[None, :] * HIDDEN + h[:, None])  # transposed
    bias = tl.load(_parameter(table_at, network, 5, g_at) + h)
    z, _ = _normed(tl.dot(x, weight, input_precision="ieee", out_dtype=TYPE) + bias[None, :], HAS_NORM)
    g = _activated(z, table_at, network, 6, g_at, HAS_NORM)
    at = g_at + (network.to(tl.int64) * rows + row[:, None]) * HIDDEN + h[None, :]
    tl.store(at, g, mask=is_e[:, None])


@triton.jit
def _norm_gradient(d, z, inverse, table_at, network, SCALE: tl.constexpr, like_at, HAS_NORM: tl.constexpr):
    """From the derivative with respect to the values before ReLU to that before the norm."""
    if HAS_NORM:
        d *= tl.load(_parameter(table_at, network, SCALE, like_at) + tl.arange(0, HIDDEN))[None, :]
        along = tl.sum(d * z, axis=1) / HIDDEN
        d = (d - (tl.sum(d, axis=1) / HIDDEN)[:, None] - z * along[:, None]) * inverse[:, None]
    return d


@triton.jit
def hidden_gradient(
    table_at, scalars_at, order_at, dg_at, parts_at, dscalars_at, rows, first_alone, scalars, of_part,
    HAS_NORM: tl.constexpr, BY_SCALARS: tl.constexpr, SCALARS: tl.constexpr, ROWS: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Derivatives with respect to parameters, as partial sums over blocks of rows, and to scalars, of each network."""
    network, part = tl.program_id(0), tl.program_id(1)
    h, s = tl.arange(0, HIDDEN), tl.arange(0, SCALARS)
    is_s = s < scalars
    first_at, first_bias_at = _parameter(table_at, network, 0, dg_at), _parameter(table_at, network, 1, dg_at)
    weight_at = _parameter(table_at, network, 4, dg_at)
    bias = tl.load(_parameter(table_at, network, 5, dg_at) + h)
    dfirst, dweight = tl.zeros((HIDDEN, SCALARS), dtype=TYPE), tl.zeros((HIDDEN, HIDDEN), dtype=TYPE)
    db1, ds1, dt1 = tl.zeros((HIDDEN,), dtype=TYPE), tl.zeros((HIDDEN,), dtype=TYPE), tl.zeros((HIDDEN,), dtype=TYPE)
    db2, ds2, dt2 = tl.zeros((HIDDEN,), dtype=TYPE), tl.zeros((HIDDEN,), dtype=TYPE), tl.zeros((HIDDEN,), dtype=TYPE)
    for start in range(part * of_part, tl.minimum((part + 1) * of_part, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        is_e = row < rows
        edge = tl.load(order_at + _row_places(row, first_alone), mask=is_e, other=0)
        z = _first_layer(scalars_at, edge, is_e, first_at, first_bias_at, scalars, ROWS, TYPE)
        z1, inverse1 = _normed(z, HAS_NORM)
        x = _activated(z1, table_at, network, 2, dg_at, HAS_NORM)
        weight = tl.load(weight_at + h[:, None] * HIDDEN + h[None, :])
        z = tl.dot(x, tl.trans(weight), input_precision="ieee", out_dtype=TYPE) + bias[None, :]
        z2, inverse2 = _normed(z, HAS_NORM)
        at = dg_at + (network.to(tl.int64) * rows + row[:, None]) * HIDDEN + h[None, :]
        d = tl.load(at, mask=is_e[:, None], other=0.0)
        d = tl.where(_activated(z2, table_at, network, 6, dg_at, HAS_NORM) > 0, d, 0.0)
        ds2 += tl.sum(d * z2, axis=0)
        dt2 += tl.sum(d, axis=0)
        d = _norm_gradient(d, z2, inverse2, table_at, network, 6, dg_at, HAS_NORM)
        db2 += tl.sum(d, axis=0)
        dweight = tl.dot(tl.trans(d), x, dweight, input_precision="ieee", out_dtype=TYPE)
        d = tl.where(x > 0, tl.dot(d, weight, input_precision="ieee", out_dtype=TYPE), 0.0)
        ds1 += tl.sum(d * z1, axis=0)
        dt1 += tl.sum(d, axis=0)
        d = _norm_gradient(d, z1, inverse1, table_at, network, 2, dg_at, HAS_NORM)
        db1 += tl.sum(d, axis=0)
        at = scalars_at + edge[:, None] * scalars + s[None, :]
        seen = tl.load(at, mask=is_e[:, None] & is_s[None, :], other=0.0)
        dfirst = tl.dot(tl.trans(d), seen, dfirst, input_precision="ieee", out_dtype=TYPE)
        if BY_SCALARS:
            first = tl.load(first_at + h[:, None] * scalars + s[None, :], mask=is_s[None, :], other=0.0)
            at = dscalars_at + (network.to(tl.int64) * rows + edge[:, None]) * scalars + s[None, :]
            found = tl.dot(d, first, input_precision="ieee", out_dtype=TYPE)
            tl.store(at, found, mask=is_e[:, None] & is_s[None, :])
    at = parts_at + (part.to(tl.int64) * tl.num_programs(0) + network) * (HIDDEN * scalars + BEHIND)
    tl.store(at + h[:, None] * scalars + s[None, :], dfirst, mask=is_s[None, :])
    at += HIDDEN * scalars
    tl.store(at + h, db1)
    tl.store(at + HIDDEN + h, ds1)
    tl.store(at + 2 * HIDDEN + h, dt1)
    at += 3 * HIDDEN
    tl.store(at + h[:, None] * HIDDEN + h[None, :], dweight)
    at += HIDDEN * HIDDEN
    tl.store(at + h, db2)
    tl.store(at + HIDDEN + h, ds2)
    tl.store(at + 2 * HIDDEN + h, dt2)


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
    numbers0_at,  # int32 per kernel: network, first, step_out, step_in, F, channels out, channels in, transposed number
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
    ROWS: tl.constexpr,
    TYPE: tl.constexpr,
):
    """The hidden values that the last layers see, ``g[networks, rows, 32]``, and the last layers.

    These are in the basis of the orders, ``A[kernels, P, (a, b), C, 32]`` and biases ``b[kernels, P, (a, b), C]``: of
    m = 0, and of all others. If wanted, also those of the transposed map, ``AT[kernels, C, (a, -b), P, 32]``.
    """
    number = tl.program_id(0)
    if number < blocks * networks:
        _hidden(table_at, scalars_at, order_at, g_at, rows, first_alone, scalars, number // blocks, number % blocks,
                HAS_NORM, ROWS, TYPE)  # fmt: skip
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
    hidden_at,  # [parts of hidden layers, networks, size of hidden layers]
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
    """Adds up the partial sums: of hidden layers, and of last layers, which are taken back to the coefficients J."""
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
