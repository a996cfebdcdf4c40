"""Multi-head attention over the incoming edges of each node: one program per node, for all degrees.

The elements of a degree of one edge are contiguous, ``[channels, orders]``, and each head has a range of them. The
softmax is an online softmax (arXiv 1805.02867): one loop over the edges keeps the largest logit so far, the sum of
exponentials and the weighted sum of values, and rescales both sums when the largest logit grows.

Names: HEADS and SIZE are true sizes, H and WIDTH these rounded up to powers of two; SUM is the dtype of sums; TINY and
LEAST are the smallest positive normal number and the lowest number of that dtype.
"""

import triton
import triton.language as tl


@triton.jit
def _zeros(H: tl.constexpr, WIDTH: tl.constexpr, SUM: tl.constexpr):
    return tl.zeros((H, WIDTH), dtype=SUM)


@triton.jit
def _load(at, row, H: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """One row, by heads, ``[H, WIDTH]``; padding is zero."""
    h, i = tl.arange(0, H)[:, None], tl.arange(0, WIDTH)[None, :]
    return tl.load(at + row * (HEADS * SIZE) + h * SIZE + i, mask=(h < HEADS) & (i < SIZE), other=0.0)


@triton.jit
def _store(at, row, value, H: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    h, i = tl.arange(0, H)[:, None], tl.arange(0, WIDTH)[None, :]
    tl.store(at + row * (HEADS * SIZE) + h * SIZE + i, value, mask=(h < HEADS) & (i < SIZE))


@triton.jit
def _load_all(parts, row, H: tl.constexpr, HEADS: tl.constexpr, SIZES: tl.constexpr, WIDTHS: tl.constexpr):
    found = ()
    for i in tl.static_range(len(SIZES)):
        found += (_load(parts[i], row, H, HEADS, SIZES[i], WIDTHS[i]),)
    return found


@triton.jit
def _dot(a, parts, row, H: tl.constexpr, HEADS: tl.constexpr, SIZES: tl.constexpr, WIDTHS: tl.constexpr):
    """The inner product of ``a`` with a row of ``parts`` for each head, summed over degrees, ``[H]``."""
    total = tl.sum(a[0] * _load(parts[0], row, H, HEADS, SIZES[0], WIDTHS[0]), axis=1)
    for i in tl.static_range(1, len(SIZES)):
        total += tl.sum(a[i] * _load(parts[i], row, H, HEADS, SIZES[i], WIDTHS[i]), axis=1)
    return total


@triton.jit
def _with_envelope(logit, envelope_at, edge, TINY: tl.constexpr, LEAST: tl.constexpr, HAS_ENVELOPE: tl.constexpr):
    """The logits plus log u, and u, the envelope (1 if there is none)."""
    u = tl.sum(logit * 0, axis=0) + 1
    if HAS_ENVELOPE:
        u = tl.load(envelope_at + edge)
        logit = tl.where(u >= TINY, logit + tl.log(tl.where(u >= TINY, u, 1.0)), LEAST)
    return logit, u


@triton.jit
def _softmax_step(logit, largest, total):
    """The weight of an edge, the factor that corrects earlier weights, and the new largest logit and sum of weights."""
    new = tl.maximum(largest, logit)
    correction, weight = tl.exp(largest - new), tl.exp(logit - new)
    return weight, correction, new, total * correction + weight


@triton.jit
def _logit(
    q, keys, edge, envelope_at, scale, H: tl.constexpr, HEADS: tl.constexpr, KEYS: tl.constexpr,
    KEY_WIDTHS: tl.constexpr, TINY: tl.constexpr, LEAST: tl.constexpr, HAS_ENVELOPE: tl.constexpr,
):  # fmt: skip
    """The logits of an edge, ``[H]``, and its envelope."""
    product = _dot(q, keys, edge, H, HEADS, KEYS, KEY_WIDTHS)
    return _with_envelope(scale * product, envelope_at, edge, TINY, LEAST, HAS_ENVELOPE)


@triton.jit
def forward(
    values, keys, queries, outputs, envelope_at, edges_at, ends_at, scale,
    HEADS: tl.constexpr, H: tl.constexpr, VALUES: tl.constexpr, VALUE_WIDTHS: tl.constexpr, KEYS: tl.constexpr,
    KEY_WIDTHS: tl.constexpr, HAS_ENVELOPE: tl.constexpr, TINY: tl.constexpr, LEAST: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The output at each node."""
    node = tl.program_id(0).to(tl.int64)
    q = _load_all(queries, node, H, HEADS, KEYS, KEY_WIDTHS)
    largest, total = tl.full((H,), float("-inf"), dtype=SUM), tl.zeros((H,), dtype=SUM)
    acc = ()
    for i in tl.static_range(len(VALUES)):
        acc += (_zeros(H, VALUE_WIDTHS[i], SUM),)
    for place in range(tl.load(ends_at + node), tl.load(ends_at + node + 1)):
        edge = tl.load(edges_at + place)
        logit, u = _logit(q, keys, edge, envelope_at, scale, H, HEADS, KEYS, KEY_WIDTHS, TINY, LEAST, HAS_ENVELOPE)
        weight, correction, largest, total = _softmax_step(logit, largest, total)
        weight *= u
        added = ()
        for i in tl.static_range(len(VALUES)):
            v = _load(values[i], edge, H, HEADS, VALUES[i], VALUE_WIDTHS[i])
            added += (acc[i] * correction[:, None] + weight[:, None] * v,)
        acc = added
    total = tl.where(total > 0, total, 1.0)
    for i in tl.static_range(len(VALUES)):
        _store(outputs[i], node, acc[i] / total[:, None], H, HEADS, VALUES[i], VALUE_WIDTHS[i])


@triton.jit
def gradient(
    values, keys, queries, gradients, dvalues, dkeys, dqueries, envelope_at, denvelope_at, edges_at, ends_at, scale,
    HEADS: tl.constexpr, H: tl.constexpr, VALUES: tl.constexpr, VALUE_WIDTHS: tl.constexpr, KEYS: tl.constexpr,
    KEY_WIDTHS: tl.constexpr, HAS_ENVELOPE: tl.constexpr, TINY: tl.constexpr, LEAST: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """All first derivatives: one loop over the edges computes the softmax again, a second one the derivatives."""
    node = tl.program_id(0).to(tl.int64)
    first, last = tl.load(ends_at + node), tl.load(ends_at + node + 1)
    q = _load_all(queries, node, H, HEADS, KEYS, KEY_WIDTHS)
    d = _load_all(gradients, node, H, HEADS, VALUES, VALUE_WIDTHS)
    largest, total = tl.full((H,), float("-inf"), dtype=SUM), tl.zeros((H,), dtype=SUM)
    along = tl.zeros((H,), dtype=SUM)  # <output, gradient> for each head
    for place in range(first, last):
        edge = tl.load(edges_at + place)
        logit, u = _logit(q, keys, edge, envelope_at, scale, H, HEADS, KEYS, KEY_WIDTHS, TINY, LEAST, HAS_ENVELOPE)
        weight, correction, largest, total = _softmax_step(logit, largest, total)
        along = along * correction + weight * u * _dot(d, values, edge, H, HEADS, VALUES, VALUE_WIDTHS)
    total = tl.where(total > 0, total, 1.0)
    along /= total
    dq = ()
    for i in tl.static_range(len(KEYS)):
        dq += (_zeros(H, KEY_WIDTHS[i], SUM),)
    for place in range(first, last):
        edge = tl.load(edges_at + place)
        logit, u = _logit(q, keys, edge, envelope_at, scale, H, HEADS, KEYS, KEY_WIDTHS, TINY, LEAST, HAS_ENVELOPE)
        weight = tl.exp(logit - largest) / total
        by_weight = _dot(d, values, edge, H, HEADS, VALUES, VALUE_WIDTHS)
        by_logit = weight * (u * by_weight - along)
        if HAS_ENVELOPE:
            # Through the factor u, and through log u in the logit unless u is tiny. Padding heads contribute zero.
            found = tl.sum(weight * by_weight, axis=0)
            found += tl.where(u >= TINY, tl.sum(by_logit, axis=0) / tl.where(u >= TINY, u, 1.0), 0.0)
            tl.store(denvelope_at + edge, found)
            by_logit = tl.where(u >= TINY, by_logit, 0.0)
        for i in tl.static_range(len(VALUES)):
            _store(dvalues[i], edge, (weight * u)[:, None] * d[i], H, HEADS, VALUES[i], VALUE_WIDTHS[i])
        new = ()
        for i in tl.static_range(len(KEYS)):
            _store(dkeys[i], edge, (by_logit * scale)[:, None] * q[i], H, HEADS, KEYS[i], KEY_WIDTHS[i])
            k = _load(keys[i], edge, H, HEADS, KEYS[i], KEY_WIDTHS[i])
            new += (dq[i] + (by_logit * scale)[:, None] * k,)
        dq = new
    for i in tl.static_range(len(KEYS)):
        _store(dqueries[i], node, dq[i], H, HEADS, KEYS[i], KEY_WIDTHS[i])
