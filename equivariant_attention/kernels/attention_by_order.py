"""Attention on messages that lie in the frames of their edges, and are turned back in registers only.

One program per node, with an online softmax, as in ``attention.py``. Messages are stored by order, as in ``frames.py``:
first those of the values, then those of the keys. ``place`` is the position of an edge in the order of the plan. In
registers, a message of degree l is a tuple of 2l+1 components, ``[heads, channels]`` each.
"""

import triton
import triton.language as tl

from .attention import _softmax_step, _with_envelope, _zeros


@triton.jit
def _at(H: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """The indices of the channels of each head, ``[H, WIDTH]``."""
    return tl.arange(0, H)[:, None] * SIZE + tl.arange(0, WIDTH)[None, :]


@triton.jit
def _mask(H: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    return (tl.arange(0, H)[:, None] < HEADS) & (tl.arange(0, WIDTH)[None, :] < SIZE)


@triton.jit
def _of_node(at, row, L: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """The components of a feature of a node, which lies in memory as ``[channels, 2l+1]``."""
    found = ()
    for j in tl.static_range(2 * L + 1):
        to = at + (row * (HEADS * SIZE) + _at(H, SIZE, WIDTH)) * (2 * L + 1) + j
        found += (tl.load(to, mask=_mask(H, HEADS, SIZE, WIDTH), other=0.0),)
    return found


@triton.jit
def _message(
    m0_at, m_at, frame_at, slots_at, place, edges, L: tl.constexpr, ORDERS: tl.constexpr, C: tl.constexpr,
    H: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The components of a message, turned back: the transposed frame times the orders 0, -1, 1, -2, 2, ..."""
    channel, mask = _at(H, SIZE, WIDTH), _mask(H, HEADS, SIZE, WIDTH)
    at = m0_at + (tl.load(slots_at).to(tl.int64) * edges + place) * C + channel
    y = (tl.load(at, mask=mask, other=0.0),)
    for m in tl.static_range(1, L + 1 if L < ORDERS else ORDERS):
        at = m_at + (2 * tl.load(slots_at + m).to(tl.int64) * edges + place) * C + channel
        y += (tl.load(at, mask=mask, other=0.0), tl.load(at + edges * C, mask=mask, other=0.0))
    found = ()
    for j in tl.static_range(2 * L + 1):
        total = y[0]
        if L:
            column = frame_at + place * (2 * L + 1) * (2 * L + 1) + j
            total = tl.load(column + L * (2 * L + 1)) * y[0]
            for i in tl.static_range(1, len(y)):
                row = column + (L + (i // 2 if i % 2 == 0 else -(i // 2) - 1)) * (2 * L + 1)
                total += tl.load(row) * y[i]
        found += (total,)
    return found


@triton.jit
def _turn_and_store(
    m0_at, m_at, frame_at, slots_at, place, edges, v, L: tl.constexpr, ORDERS: tl.constexpr, C: tl.constexpr,
    H: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The transpose of ``_message``: turn components of a derivative, and store them by order, padded with zeros."""
    channel, mask = _at(H, SIZE, WIDTH), _mask(H, HEADS, SIZE, WIDTH)
    c = tl.arange(0, C)
    zero = tl.zeros((C,), dtype=m0_at.dtype.element_ty)
    for m in tl.static_range(L + 1 if L < ORDERS else ORDERS):
        slot = tl.load(slots_at + m).to(tl.int64)
        for sign in tl.static_range(2 if m else 1):
            total = v[0]
            if L:
                at = frame_at + (place * (2 * L + 1) + (L + m if sign else L - m)) * (2 * L + 1)
                total = tl.load(at) * v[0]
                for j in tl.static_range(1, 2 * L + 1):
                    total += tl.load(at + j) * v[j]
            at = m0_at + (slot * edges + place) * C
            if m:
                at = m_at + ((2 * slot + sign) * edges + place) * C
            tl.store(at + channel, total, mask=mask)
            if HEADS * SIZE < C:
                tl.store(at + c, zero, mask=c >= HEADS * SIZE)


@triton.jit
def _dot(q, FIRST: tl.constexpr, v, N: tl.constexpr):
    """The inner product of N components of ``q``, from FIRST on, with those of a message, for each head."""
    total = q[FIRST] * v[0]
    for j in tl.static_range(1, N):
        total += q[FIRST + j] * v[j]
    return tl.sum(total, axis=1)


@triton.jit
def _product(
    q, m0_at, m_at, frames, slots_at, place, edges, START: tl.constexpr, END: tl.constexpr, FIRST: tl.constexpr,
    DEGREES: tl.constexpr, SIZES: tl.constexpr, WIDTHS: tl.constexpr, ORDERS: tl.constexpr, C: tl.constexpr,
    H: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """The inner product of ``q`` with messages START to END - 1, summed over degrees, ``[H]``."""
    v = _message(m0_at, m_at, frames[START], slots_at + START * ORDERS, place, edges, DEGREES[START], ORDERS, C, H,
                 HEADS, SIZES[START], WIDTHS[START])  # fmt: skip
    total = _dot(q, FIRST[START], v, 2 * DEGREES[START] + 1)
    for i in tl.static_range(START + 1, END):
        v = _message(m0_at, m_at, frames[i], slots_at + i * ORDERS, place, edges, DEGREES[i], ORDERS, C, H, HEADS,
                     SIZES[i], WIDTHS[i])  # fmt: skip
        total += _dot(q, FIRST[i], v, 2 * DEGREES[i] + 1)
    return total


@triton.jit
def _logit(
    q, m0_at, m_at, frames, slots_at, place, edges, edge, envelope_at, scale, VALUES: tl.constexpr,
    FIRST: tl.constexpr, DEGREES: tl.constexpr, SIZES: tl.constexpr, WIDTHS: tl.constexpr, ORDERS: tl.constexpr,
    C: tl.constexpr, H: tl.constexpr, HEADS: tl.constexpr, TINY: tl.constexpr, LEAST: tl.constexpr,
    HAS_ENVELOPE: tl.constexpr,
):  # fmt: skip
    """The logits of an edge, ``[H]``, and its envelope."""
    product = _product(q, m0_at, m_at, frames, slots_at, place, edges, VALUES, len(DEGREES), FIRST, DEGREES, SIZES,
                       WIDTHS, ORDERS, C, H, HEADS)  # fmt: skip
    return _with_envelope(scale * product, envelope_at, edge, TINY, LEAST, HAS_ENVELOPE)


@triton.jit
def attended(
    m0_at, m_at, frames, slots_at, queries, outputs, envelope_at, order_at, places_at, ends_at, edges, scale,
    DEGREES: tl.constexpr, SIZES: tl.constexpr, WIDTHS: tl.constexpr, FIRST: tl.constexpr, VALUES: tl.constexpr,
    ORDERS: tl.constexpr, C: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, HAS_ENVELOPE: tl.constexpr,
    TINY: tl.constexpr, LEAST: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """The output at each node.

    FIRST has, for each message, the index of its first component among those of all values, or of all keys.
    """
    node = tl.program_id(0).to(tl.int64)
    q, acc = (), ()
    for i in tl.static_range(len(DEGREES)):
        if i < VALUES:
            for _ in tl.static_range(2 * DEGREES[i] + 1):
                acc += (_zeros(H, WIDTHS[i], SUM),)
        else:
            q += _of_node(queries[i - VALUES], node, DEGREES[i], H, HEADS, SIZES[i], WIDTHS[i])
    largest, total = tl.full((H,), float("-inf"), dtype=SUM), tl.zeros((H,), dtype=SUM)
    for number in range(tl.load(ends_at + node), tl.load(ends_at + node + 1)):
        place = tl.load(places_at + number)
        edge = tl.load(order_at + place)
        logit, u = _logit(q, m0_at, m_at, frames, slots_at, place, edges, edge, envelope_at, scale, VALUES, FIRST,
                          DEGREES, SIZES, WIDTHS, ORDERS, C, H, HEADS, TINY, LEAST, HAS_ENVELOPE)  # fmt: skip
        weight, correction, largest, total = _softmax_step(logit, largest, total)
        weight *= u
        added = ()
        for i in tl.static_range(VALUES):
            v = _message(m0_at, m_at, frames[i], slots_at + i * ORDERS, place, edges, DEGREES[i], ORDERS, C, H, HEADS,
                         SIZES[i], WIDTHS[i])  # fmt: skip
            for j in tl.static_range(2 * DEGREES[i] + 1):
                added += (acc[FIRST[i] + j] * correction[:, None] + weight[:, None] * v[j],)
        acc = added
    total = tl.where(total > 0, total, 1.0)
    for i in tl.static_range(VALUES):
        for j in tl.static_range(2 * DEGREES[i] + 1):
            at = (node * (HEADS * SIZES[i]) + _at(H, SIZES[i], WIDTHS[i])) * (2 * DEGREES[i] + 1) + j
            value = acc[FIRST[i] + j] / total[:, None]
            tl.store(outputs[i] + at, value, mask=_mask(H, HEADS, SIZES[i], WIDTHS[i]))


@triton.jit
def attended_gradient(
    m0_at, m_at, frames, slots_at, queries, gradients, dm0_at, dm_at, dqueries, envelope_at, denvelope_at, order_at,
    places_at, ends_at, edges, scale,
    DEGREES: tl.constexpr, SIZES: tl.constexpr, WIDTHS: tl.constexpr, FIRST: tl.constexpr, VALUES: tl.constexpr,
    ORDERS: tl.constexpr, C: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr, HAS_ENVELOPE: tl.constexpr,
    TINY: tl.constexpr, LEAST: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """All first derivatives but those with respect to frames, in two loops over the edges, as in ``attention.py``."""
    node = tl.program_id(0).to(tl.int64)
    start, end = tl.load(ends_at + node), tl.load(ends_at + node + 1)
    q, d, dq = (), (), ()
    for i in tl.static_range(len(DEGREES)):
        if i < VALUES:
            d += _of_node(gradients[i], node, DEGREES[i], H, HEADS, SIZES[i], WIDTHS[i])
        else:
            q += _of_node(queries[i - VALUES], node, DEGREES[i], H, HEADS, SIZES[i], WIDTHS[i])
            for _ in tl.static_range(2 * DEGREES[i] + 1):
                dq += (_zeros(H, WIDTHS[i], SUM),)
    largest, total = tl.full((H,), float("-inf"), dtype=SUM), tl.zeros((H,), dtype=SUM)
    along = tl.zeros((H,), dtype=SUM)  # <output, gradient> for each head
    for number in range(start, end):
        place = tl.load(places_at + number)
        edge = tl.load(order_at + place)
        logit, u = _logit(q, m0_at, m_at, frames, slots_at, place, edges, edge, envelope_at, scale, VALUES, FIRST,
                          DEGREES, SIZES, WIDTHS, ORDERS, C, H, HEADS, TINY, LEAST, HAS_ENVELOPE)  # fmt: skip
        weight, correction, largest, total = _softmax_step(logit, largest, total)
        by_weight = _product(d, m0_at, m_at, frames, slots_at, place, edges, 0, VALUES, FIRST, DEGREES, SIZES, WIDTHS,
                             ORDERS, C, H, HEADS)  # fmt: skip
        along = along * correction + weight * u * by_weight
    total = tl.where(total > 0, total, 1.0)
    along /= total
    for number in range(start, end):
        place = tl.load(places_at + number)
        edge = tl.load(order_at + place)
        logit, u = _logit(q, m0_at, m_at, frames, slots_at, place, edges, edge, envelope_at, scale, VALUES, FIRST,
                          DEGREES, SIZES, WIDTHS, ORDERS, C, H, HEADS, TINY, LEAST, HAS_ENVELOPE)  # fmt: skip
        weight = tl.exp(logit - largest) / total
        by_weight = _product(d, m0_at, m_at, frames, slots_at, place, edges, 0, VALUES, FIRST, DEGREES, SIZES, WIDTHS,
                             ORDERS, C, H, HEADS)  # fmt: skip
        by_logit = weight * (u * by_weight - along)
        if HAS_ENVELOPE:
            # Through the factor u, and through log u in the logit unless u is tiny. Padding heads contribute zero.
            found = tl.sum(weight * by_weight, axis=0)
            found += tl.where(u >= TINY, tl.sum(by_logit, axis=0) / tl.where(u >= TINY, u, 1.0), 0.0)
            tl.store(denvelope_at + edge, found)
            by_logit = tl.where(u >= TINY, by_logit, 0.0)
        weight = (weight * u)[:, None]
        by_logit = (by_logit * scale)[:, None]
        added = ()
        for i in tl.static_range(len(DEGREES)):
            v = ()
            if i < VALUES:
                for j in tl.static_range(2 * DEGREES[i] + 1):
                    v += (weight * d[FIRST[i] + j],)
            else:
                key = _message(m0_at, m_at, frames[i], slots_at + i * ORDERS, place, edges, DEGREES[i], ORDERS, C, H,
                               HEADS, SIZES[i], WIDTHS[i])  # fmt: skip
                for j in tl.static_range(2 * DEGREES[i] + 1):
                    v += (by_logit * q[FIRST[i] + j],)
                    added += (dq[FIRST[i] + j] + by_logit * key[j],)
            _turn_and_store(dm0_at, dm_at, frames[i], slots_at + i * ORDERS, place, edges, v, DEGREES[i], ORDERS, C, H,
                            HEADS, SIZES[i], WIDTHS[i])  # fmt: skip
        dq = added
    for i in tl.static_range(VALUES, len(DEGREES)):
        for j in tl.static_range(2 * DEGREES[i] + 1):
            at = (node * (HEADS * SIZES[i]) + _at(H, SIZES[i], WIDTHS[i])) * (2 * DEGREES[i] + 1) + j
            tl.store(dqueries[i - VALUES] + at, dq[FIRST[i] + j], mask=_mask(H, HEADS, SIZES[i], WIDTHS[i]))
