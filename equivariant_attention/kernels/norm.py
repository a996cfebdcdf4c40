"""Norm nonlinearities: features rescaled to ReLU(LayerNorm(norms)), or to ReLU(norm + bias), all degrees in one launch.

Norms below SMALLEST are raised to it. Norms below the fraction NOISE of the largest norm of their node are rounding
noise, and count as zero. In either case the norm is a constant for derivatives. The phase is a feature divided by its
norm.
"""

import triton
import triton.language as tl


@triton.jit
def _zeros(C: tl.constexpr, SUM: tl.constexpr):
    return tl.zeros((C,), dtype=SUM)


@triton.jit
def _squares(values_at, node, is_node, nodes, N: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr):
    """The squared norms of some nodes, ``[nodes, C]``."""
    return _along(values_at, values_at, node, is_node, N, CHANNELS, C)


@triton.jit
def _all_squares(values, node, is_node, nodes, ORDERS: tl.constexpr, CHANNELS: tl.constexpr, WIDTHS: tl.constexpr):
    """The squared norms of all degrees, and the largest of each node."""
    first = _squares(values[0], node, is_node, nodes, ORDERS[0], CHANNELS[0], WIDTHS[0])
    found, largest = (first,), tl.max(first, axis=1)
    for i in tl.static_range(1, len(ORDERS)):
        squares = _squares(values[i], node, is_node, nodes, ORDERS[i], CHANNELS[i], WIDTHS[i])
        found += (squares,)
        largest = tl.maximum(largest, tl.max(squares, axis=1))
    return found, largest


@triton.jit
def _norm(squares, largest, SMALLEST: tl.constexpr, NOISE: tl.constexpr):
    """The norms, whether they are rounding noise, and whether they are constants for derivatives."""
    is_noise = squares < NOISE * NOISE * largest[:, None]
    constant = is_noise | (squares < SMALLEST * SMALLEST)
    return tl.sqrt(tl.where(constant, SMALLEST * SMALLEST, squares)), is_noise, constant


@triton.jit
def _changed(
    norm, scale_at, shift_at, EPS: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr, LAYER_NORM: tl.constexpr
):
    """The input of ReLU; and of the LayerNorm the normalised norms, and 1 / sqrt(variance + eps)."""
    c = tl.arange(0, C)
    is_c = c < CHANNELS
    scale = tl.load(scale_at + c, mask=is_c, other=0.0)
    inverse = tl.sum(norm * 0, axis=1) + 1
    if LAYER_NORM:
        centred = tl.where(
            is_c[None, :], norm - (tl.sum(tl.where(is_c[None, :], norm, 0.0), axis=1) / CHANNELS)[:, None], 0.0
        )
        inverse = 1 / tl.sqrt(tl.sum(centred * centred, axis=1) / CHANNELS + EPS)
        normed = centred * inverse[:, None]
        z = normed * scale[None, :] + tl.load(shift_at + c, mask=is_c, other=0.0)[None, :]
    else:
        normed = norm
        z = norm + scale[None, :]
    return z, normed, inverse


@triton.jit
def _places(node, is_node, N: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr):
    """Where the first order of each channel of some nodes is, and which of these exist, ``[nodes, C]``."""
    c = tl.arange(0, C)
    return (node[:, None] * CHANNELS + c[None, :]) * N, is_node[:, None] & (c < CHANNELS)[None, :]


@triton.jit
def _store_scaled(
    values_at, outputs_at, factor, node, is_node, N: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr
):
    at, mask = _places(node, is_node, N, CHANNELS, C)
    for j in tl.static_range(N):
        tl.store(outputs_at + at + j, factor * tl.load(values_at + at + j, mask=mask, other=0.0), mask=mask)


@triton.jit
def _along(values_at, gradients_at, node, is_node, N: tl.constexpr, CHANNELS: tl.constexpr, C: tl.constexpr):
    """The inner products of features with derivatives, ``[nodes, C]``."""
    at, mask = _places(node, is_node, N, CHANNELS, C)
    total = tl.load(values_at + at, mask=mask, other=0.0) * tl.load(gradients_at + at, mask=mask, other=0.0)
    for j in tl.static_range(1, N):
        v = tl.load(values_at + at + j, mask=mask, other=0.0)
        total += v * tl.load(gradients_at + at + j, mask=mask, other=0.0)
    return total


@triton.jit
def _store_gradient(
    values_at, gradients_at, dvalues_at, factor, by_norm, node, is_node, N: tl.constexpr, CHANNELS: tl.constexpr,
    C: tl.constexpr,
):  # fmt: skip
    """``factor gradient + by_norm value``."""
    at, mask = _places(node, is_node, N, CHANNELS, C)
    for j in tl.static_range(N):
        v = tl.load(values_at + at + j, mask=mask, other=0.0)
        arriving = tl.load(gradients_at + at + j, mask=mask, other=0.0)
        tl.store(dvalues_at + at + j, factor * arriving + by_norm * v, mask=mask)


@triton.jit
def forward(
    values, scales, shifts, outputs, nodes,
    ORDERS: tl.constexpr, CHANNELS: tl.constexpr, WIDTHS: tl.constexpr, NOISE: tl.constexpr, SMALLEST: tl.constexpr,
    EPS: tl.constexpr, LAYER_NORM: tl.constexpr, NODES: tl.constexpr,
):  # fmt: skip
    """Write the rescaled features."""
    node = tl.program_id(0).to(tl.int64) * NODES + tl.arange(0, NODES)
    is_node = node < nodes
    squares, largest = _all_squares(values, node, is_node, nodes, ORDERS, CHANNELS, WIDTHS)
    for i in tl.static_range(len(ORDERS)):
        norm, is_noise, _ = _norm(squares[i], largest, SMALLEST, NOISE[i])
        z, _, _ = _changed(norm, scales[i], shifts[i], EPS, CHANNELS[i], WIDTHS[i], LAYER_NORM)
        factor = tl.where(is_noise, 0.0, tl.maximum(z, 0.0) / norm)
        _store_scaled(values[i], outputs[i], factor, node, is_node, ORDERS[i], CHANNELS[i], WIDTHS[i])


@triton.jit
def gradient(
    values, scales, shifts, gradients, dvalues, sums_at, nodes, of_part, total,
    PLACES: tl.constexpr, ORDERS: tl.constexpr, CHANNELS: tl.constexpr, WIDTHS: tl.constexpr, NOISE: tl.constexpr,
    SMALLEST: tl.constexpr, EPS: tl.constexpr, LAYER_NORM: tl.constexpr, NODES: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """First derivatives with respect to features, and to scales and shifts as partial sums over some of the nodes.

    The latter, of all degrees, are stored in one row, that of a degree from its element of PLACES on.
    """
    part = tl.program_id(0)
    dscales, dshifts = (), ()
    for i in tl.static_range(len(ORDERS)):
        dscales += (_zeros(WIDTHS[i], SUM),)
        dshifts += (_zeros(WIDTHS[i], SUM),)
    end = tl.minimum((part + 1) * of_part, nodes)
    for start in range(part * of_part, end, NODES):
        node = start + tl.arange(0, NODES).to(tl.int64)
        is_node = node < end
        squares, largest = _all_squares(values, node, is_node, nodes, ORDERS, CHANNELS, WIDTHS)
        new_scales, new_shifts = (), ()
        for i in tl.static_range(len(ORDERS)):
            norm, is_noise, constant = _norm(squares[i], largest, SMALLEST, NOISE[i])
            z, normed, inverse = _changed(norm, scales[i], shifts[i], EPS, CHANNELS[i], WIDTHS[i], LAYER_NORM)
            c = tl.arange(0, WIDTHS[i])
            along = _along(values[i], gradients[i], node, is_node, ORDERS[i], CHANNELS[i], WIDTHS[i])
            along = tl.where(is_noise, 0.0, along / norm)  # the derivative by the new norm: <gradient, phase>
            d = tl.where(z > 0, along, 0.0)
            if LAYER_NORM:
                new_scales += (dscales[i] + tl.sum(d * normed, axis=0),)
                new_shifts += (dshifts[i] + tl.sum(d, axis=0),)
                d *= tl.load(scales[i] + c, mask=c < CHANNELS[i], other=0.0)[None, :]
                mean, product = tl.sum(d, axis=1) / CHANNELS[i], tl.sum(d * normed, axis=1) / CHANNELS[i]
                d = (d - mean[:, None] - normed * product[:, None]) * inverse[:, None]
            else:
                new_scales += (dscales[i] + tl.sum(d, axis=0),)
                new_shifts += (dshifts[i],)
            # Through the phase, which turns, and through the norm; neither where the norm is a constant.
            factor = tl.maximum(z, 0.0) / norm
            by_norm = tl.where(constant, 0.0, (d - factor * along) / norm)
            factor = tl.where(constant, 0.0, factor)
            _store_gradient(values[i], gradients[i], dvalues[i], factor, by_norm, node, is_node, ORDERS[i], CHANNELS[i],
                            WIDTHS[i])  # fmt: skip
        dscales, dshifts = new_scales, new_shifts
    for i in tl.static_range(len(ORDERS)):
        c = tl.arange(0, WIDTHS[i])
        at = sums_at + part.to(tl.int64) * total + PLACES[i]
        tl.store(at + c, dscales[i], mask=c < CHANNELS[i])
        if LAYER_NORM:
            tl.store(at + CHANNELS[i] + c, dshifts[i], mask=c < CHANNELS[i])
