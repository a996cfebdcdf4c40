"""Turns features into the frames of their edges and stores them by order m; turns messages back.

In its frame an edge is the polar axis, and convolutions are SO(2) convolutions, which connect order m with +m and -m
alone (eSCN, arXiv 2302.03655). A feature of degree k has orders -k to k. By order means two tensors for all degrees:
``[slots, edges, channels]`` for m = 0, and ``[slots, (-m, +m), edges, channels]`` for m > 0, where a slot is an order m
of one feature or message. Edges are in the order of the plan. Channels are padded with zeros to a power of two.

Names: a part is a feature or a message; K and L are its degree.
"""

import triton
import triton.language as tl


@triton.jit
def turned(
    values,  # per part, [rows, channels, 2k+1]
    own,  # per part, features of the edges, [edges, OWN channels, 2k+1]; any tensor where there are none
    frames,  # per part, [edges, 2k+1, 2k+1]
    order_at,
    src_at,
    slots,  # per part, the table of slots
    m0s,  # per part, the outputs of m = 0
    ms,  # per part, the outputs of m > 0
    edges,
    DEGREES: tl.constexpr,
    PARTS: tl.constexpr,  # per part, its row in that table
    CHANNELS: tl.constexpr,
    OWN: tl.constexpr,  # per part, (channel that features of the edges are added from, how many)
    GATHER: tl.constexpr,  # per part, whether rows are source nodes; otherwise they are edges
    ORDERS: tl.constexpr,  # orders are 0, ..., ORDERS - 1
    C: tl.constexpr,  # per part, padded channels
    EDGES: tl.constexpr,  # edges of a program
):
    """Gather values along edges, turn them into the frames, and store them by order."""
    for i in tl.static_range(len(DEGREES)):
        if tl.program_id(1) == i:
            _turned(
                values[i], own[i], frames[i], order_at, src_at, slots[i] + PARTS[i] * ORDERS, m0s[i], ms[i], edges,
                DEGREES[i], CHANNELS[i], OWN[i][0], OWN[i][1], GATHER[i], ORDERS, C[i], EDGES,
            )  # fmt: skip


@triton.jit
def _turned(
    values_at, own_at, frame_at, order_at, src_at, slots_at, m0_at, m_at, edges,
    K: tl.constexpr, CHANNELS: tl.constexpr, FIRST: tl.constexpr, OWN: tl.constexpr, GATHER: tl.constexpr,
    ORDERS: tl.constexpr, C: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    e, c = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES), tl.arange(0, C)
    is_e, is_c = e < edges, (c < CHANNELS)[None, :]
    edge = tl.load(order_at + e, mask=is_e, other=0)
    row = tl.load(src_at + edge, mask=is_e, other=0) if GATHER else edge
    v = ()
    for j in tl.static_range(2 * K + 1):
        at = values_at + (row[:, None] * CHANNELS + c[None, :]) * (2 * K + 1) + j
        one = tl.load(at, mask=is_e[:, None] & is_c, other=0.0)
        if OWN:
            at = own_at + (edge[:, None] * OWN + c[None, :] - FIRST) * (2 * K + 1) + j
            one += tl.load(at, mask=is_e[:, None] & ((c >= FIRST) & (c < FIRST + OWN))[None, :], other=0.0)
        v += (one,)
    to = e[:, None] * C + c[None, :]
    for m in tl.static_range(K + 1 if K < ORDERS else ORDERS):
        slot = tl.load(slots_at + m).to(tl.int64)
        for sign in tl.static_range(2 if m else 1):
            total = v[0]
            if K:
                at = frame_at + (e * (2 * K + 1) + (K + m if sign else K - m)) * (2 * K + 1)
                total = tl.load(at, mask=is_e, other=0.0)[:, None] * v[0]
                for j in tl.static_range(1, 2 * K + 1):
                    total += tl.load(at + j, mask=is_e, other=0.0)[:, None] * v[j]
            if m:
                tl.store(m_at + (2 * slot + sign) * edges * C + to, total, mask=is_e[:, None])
            else:
                tl.store(m0_at + slot * edges * C + to, total, mask=is_e[:, None])


@triton.jit
def turned_back(
    values,  # per part, the output, [edges, channels, 2l+1]
    frames,
    order_at,
    slots_at,
    m0_at,
    m_at,
    edges,
    DEGREES: tl.constexpr,
    PARTS: tl.constexpr,  # per part, its row in the table of slots
    FIRST: tl.constexpr,  # per part, the first channel that is read
    CHANNELS: tl.constexpr,
    ORDERS: tl.constexpr,
    C: tl.constexpr,
    EDGES: tl.constexpr,
):
    """The inverse of ``turned`` on each edge, and its transpose; orders that are not stored are zero."""
    for i in tl.static_range(len(DEGREES)):
        if tl.program_id(1) == i:
            _turned_back(
                values[i], frames[i], order_at, slots_at + PARTS[i] * ORDERS, m0_at, m_at, edges, DEGREES[i],
                FIRST[i], CHANNELS[i], ORDERS, C, EDGES,
            )  # fmt: skip


@triton.jit
def _turned_back(
    values_at, frame_at, order_at, slots_at, m0_at, m_at, edges,
    L: tl.constexpr, FIRST: tl.constexpr, CHANNELS: tl.constexpr, ORDERS: tl.constexpr, C: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    e, c = tl.program_id(0).to(tl.int64) * EDGES + tl.arange(0, EDGES), tl.arange(0, C)
    is_e, is_c = e < edges, ((c >= FIRST) & (c < FIRST + CHANNELS))[None, :]
    edge = tl.load(order_at + e, mask=is_e, other=0)
    y = ()
    for m in tl.static_range(L + 1 if L < ORDERS else ORDERS):
        y += _orders(slots_at, m0_at, m_at, e[:, None] * C + c[None, :], edges * C, is_e[:, None], m)
    at = values_at + (edge[:, None] * CHANNELS + c[None, :] - FIRST) * (2 * L + 1)
    for j in tl.static_range(2 * L + 1):
        tl.store(at + j, _back(y, frame_at + e * (2 * L + 1) * (2 * L + 1) + j, is_e, L), mask=is_e[:, None] & is_c)


@triton.jit
def _orders(slots_at, m0_at, m_at, at, size, mask, M: tl.constexpr):
    """Order M, or orders -M and M, of one part."""
    slot = tl.load(slots_at + M).to(tl.int64)
    if M == 0:
        found = (tl.load(m0_at + slot * size + at, mask=mask, other=0.0),)
    else:
        at = m_at + 2 * slot * size + at
        found = (tl.load(at, mask=mask, other=0.0), tl.load(at + size, mask=mask, other=0.0))
    return found


@triton.jit
def _back(y, column_at, is_e, L: tl.constexpr):
    """One component of a value, from the orders 0, -1, 1, -2, 2, ... and a column of the frame."""
    total = y[0]
    if L:
        total = tl.load(column_at + L * (2 * L + 1), mask=is_e, other=0.0)[:, None] * y[0]
        for i in tl.static_range(1, len(y)):
            at = column_at + (L + (i // 2 if i % 2 == 0 else -(i // 2) - 1)) * (2 * L + 1)
            total += tl.load(at, mask=is_e, other=0.0)[:, None] * y[i]
    return total


@triton.jit
def summed_at_nodes(
    values,  # per part, the output, [nodes, channels, 2k+1]
    frames,
    places_at,
    ends_at,
    slots_at,
    m0_at,
    m_at,
    edges,
    DEGREES: tl.constexpr,
    PARTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    ORDERS: tl.constexpr,
    C: tl.constexpr,
    EDGES: tl.constexpr,
):
    """Turn back on each edge, and sum over the edges of each node.

    The edges of node i are ``places[ends[i]], ..., places[ends[i + 1] - 1]``. No atomic additions: sums have a fixed
    order.
    """
    for i in tl.static_range(len(DEGREES)):
        if tl.program_id(1) == i:
            _summed_at_nodes(
                values[i], frames[i], places_at, ends_at, slots_at + PARTS[i] * ORDERS, m0_at, m_at, edges,
                DEGREES[i], CHANNELS[i], ORDERS, C, EDGES,
            )  # fmt: skip


@triton.jit
def _summed_at_nodes(
    values_at, frame_at, places_at, ends_at, slots_at, m0_at, m_at, edges,
    K: tl.constexpr, CHANNELS: tl.constexpr, ORDERS: tl.constexpr, C: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    node, c = tl.program_id(0).to(tl.int64), tl.arange(0, C)
    first, last = tl.load(ends_at + node), tl.load(ends_at + node + 1)
    totals = ()
    for _ in tl.static_range(2 * K + 1):
        totals += (tl.zeros((EDGES, C), dtype=m0_at.dtype.element_ty),)
    for start in range(first, last, EDGES):
        place = start + tl.arange(0, EDGES)
        is_e = place < last
        e = tl.load(places_at + place, mask=is_e, other=0)
        y = ()
        for m in tl.static_range(K + 1 if K < ORDERS else ORDERS):
            y += _orders(slots_at, m0_at, m_at, e[:, None] * C + c[None, :], edges * C, is_e[:, None], m)
        new = ()
        for j in tl.static_range(2 * K + 1):
            new += (totals[j] + _back(y, frame_at + e * (2 * K + 1) * (2 * K + 1) + j, is_e, K),)
        totals = new
    for j in tl.static_range(2 * K + 1):
        at = values_at + (node * CHANNELS + c) * (2 * K + 1) + j
        tl.store(at, tl.sum(totals[j], axis=0), mask=c < CHANNELS)
