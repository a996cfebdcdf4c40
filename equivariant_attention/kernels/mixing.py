"""SO(2) convolutions (eSCN, arXiv 2302.03655) with radial weights that are made and consumed on chip, and derivatives.

For a kernel from a slot of features x to a slot of messages y, with R = A g + b,

    y- = R_a x- - R_b x+,      y+ = R_b x- + R_a x+,      of order 0 alone y = R_a x,

    dx- = R_a dy- + R_b dy+,   dx+ = R_a dy+ - R_b dy-    (the same map, with A transposed and -b),
    dR_a = dy- x- + dy+ x+,    dR_b = dy+ x- - dy- x+,    dg = dR A,    dA = dR g.

A row is one edge, or D = 2 that share radial weights. A program owns some rows and PT channels out. Channels in are the
columns of a tile of R, so x is read once for all channels out and stays in registers, in the layout of the tensor
cores' accumulators. Nothing is atomic.

To a tile a pointer is moved by 64 bits, and within one by 32, so that no register holds half an index of a row; in
`by_weights`, compiled, that takes more registers, not fewer.

dR is made twice, in `by_hidden` and in `by_weights`: its rows are the rows of the one product and the inner dimension
of the other, and TF32 has no operand whose inner dimension is not contiguous. A kernel for both was compiled for sm_90:
a program has 64 rows at a time, goes through all of a part of them, and keeps dA of 128 columns transposed, [64, 128],
whose 33rd row is db; dR is in registers for dg, and written to shared memory for dA; dg, one per kernel, is read and
written anew for each tile. Counted for 64 rows and 128 columns, two edges to a row, in 'high':

    m > 0: 710 instructions of a thread, in 255 registers; the two kernels take 381 and 548
    m = 0: 536, in 221 registers; 286 and 334
    all of bonded-240, from that: .44 ms of issue slots, not .55; by the tiles, some 8.9 GB through L2, not 7.0
    in 'highest' it spills 576 bytes, and for sm_80, whose fragments it must turn in shared memory, 32

So it would help one GPU in one precision, as a third kernel beside these two, and is not here.
"""

import triton
import triton.language as tl

from .products import dot, summed


@triton.jit
def _split(v, ROWS: tl.constexpr, N: tl.constexpr):
    """``[ROWS, 4, N]`` to N tensors ``[ROWS, 4]``, each a register or two of a thread."""
    parts = (v,)
    for level in tl.static_range(16):
        if N >> level > 1:
            halves = ()
            for i in tl.static_range(len(parts)):
                if N >> level == 2:
                    low, high = tl.split(parts[i])
                else:
                    pairs = tl.reshape(parts[i], (ROWS, 4, 2, N >> level + 1))
                    low, high = tl.split(tl.permute(pairs, (0, 1, 3, 2)))
                halves += (low, high)
            parts = halves
    return parts


@triton.jit
def _columns(R, ROWS: tl.constexpr, N: tl.constexpr):
    """The columns of a product, as each of the four threads of a row has them, N to each."""
    R = tl.permute(tl.reshape(R, (ROWS // 16, 2, 8, N // 2, 4, 2)), (1, 0, 2, 4, 3, 5))
    return _split(tl.reshape(R, (ROWS, 4, N)), ROWS, N)


@triton.jit
def messages(
    g_at,  # [networks, rows, 32]
    A0_at,  # [kernels, P, AB, C, 32]
    b0_at,  # [kernels, P, AB, C]
    x0_at,  # [slots in, AB, edges, C]
    y0_at,  # [slots out, AB, edges, P]
    targets0_at,  # int32 per slot out: first kernel, number of kernels, first slot in
    nets0_at,  # int32 per kernel
    A_at,
    b_at,
    x_at,
    y_at,
    targets_at,
    nets_at,
    slots0,  # out
    slots,
    edges,
    rows,  # of g
    first_row,
    count,  # of rows that are taken here, the first of which is first_row
    first_edge,
    D: tl.constexpr,
    HAS_M: tl.constexpr,  # whether there are orders m > 0; without them their registers are not asked for
    P: tl.constexpr,
    PT0: tl.constexpr,
    PD0: tl.constexpr,
    PT: tl.constexpr,
    PD: tl.constexpr,
    C: tl.constexpr,
    CT: tl.constexpr,
    H: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    DOT: tl.constexpr,
    SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The messages of m = 0, and of all others; programs that follow each other read the same rows of g."""
    tiles0: tl.constexpr = P // PT0
    tiles: tl.constexpr = P // PT
    tiles_of_rows = slots0 * tiles0 + slots * tiles
    block, number = tl.program_id(0) // tiles_of_rows, tl.program_id(0) % tiles_of_rows
    if number < slots0 * tiles0:
        _messages(g_at, A0_at, b0_at, x0_at, y0_at, targets0_at, nets0_at, block, number // tiles0, number % tiles0,
                  edges, rows, first_row, count, first_edge, 1, D, P, PT0, PD0, C, CT, H, HAS_BIAS, ROWS, DOT,
                  SUM, PRECISION)  # fmt: skip
    elif HAS_M:
        number -= slots0 * tiles0
        _messages(g_at, A_at, b_at, x_at, y_at, targets_at, nets_at, block, number // tiles, number % tiles, edges,
                  rows, first_row, count, first_edge, 2, D, P, PT, PD, C, CT, H, HAS_BIAS, ROWS, DOT,
                  SUM, PRECISION)  # fmt: skip


@triton.jit
def _messages(
    g_at, A_at, b_at, x_at, y_at, targets_at, nets_at, block, slot, tile, edges, rows, first_row, count, first_edge,
    AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, PD: tl.constexpr, C: tl.constexpr,
    CT: tl.constexpr, H: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One slot out; PD channels out, with a and b, are made by one product: columns (p, a or b, c).

    Of each row, four threads have I channels in each, side by side, where the tensor cores have two in eight columns;
    and of sixteen rows, as tensor cores have them, the second eight are half a tile away.
    """
    S: tl.constexpr = AB * D
    Q: tl.constexpr = AB * PD
    I: tl.constexpr = CT // 4
    V: tl.constexpr = I if I < 4 else 4
    p0, r = tile * PT, tl.arange(0, ROWS)
    first, left = block.to(tl.int64) * ROWS, count - block * ROWS
    row = r // 8 % 2 * (ROWS // 2) + r // 16 * 8 + r % 8
    j, n, is_e = tl.arange(0, H), tl.arange(0, Q * CT), r < left
    own = tl.arange(0, 4)[None, :, None] * I + tl.arange(0, V)[None, None, :]
    column = n // CT * C + n // 2 % 4 * I + n % CT // 8 * 2 + n % 2
    two = tl.arange(0, Q * CT // 2)
    pair = (two // (CT // 2) * C + two % 4 * I + two % (CT // 2) // 4 * 2)[:, None] + tl.arange(0, 2)[None, :]
    edge = first_edge + first * D
    first_kernel, kernels, first_slot = (
        tl.load(targets_at + 3 * slot),
        tl.load(targets_at + 3 * slot + 1),
        tl.load(targets_at + 3 * slot + 2),
    )
    acc = ()
    for _ in tl.static_range(PT * S):
        acc += (tl.zeros((ROWS, 4), dtype=SUM),)
    for number in range(kernels * (C // CT)):
        k, c0 = number // (C // CT), number % (C // CT) * CT
        kernel = (first_kernel + k).to(tl.int64)
        at = g_at + (tl.load(nets_at + kernel).to(tl.int64) * rows + first_row + first) * H
        h = tl.load(at + (row[:, None] * H + j[None, :]), mask=(row < left)[:, None], other=0.0).to(DOT)
        x = ()
        for ab in tl.static_range(AB):
            for d in tl.static_range(D):
                at = x_at + (((first_slot + k).to(tl.int64) * AB + ab) * edges + edge + d) * C + c0
                for i in tl.static_range(I // V):
                    v = tl.load(at + (r[:, None, None] * (D * C) + own + i * V), mask=is_e[:, None, None], other=0.0)
                    x += _split(v.to(SUM), ROWS, V)
        at = (kernel * P + p0) * AB * C + c0
        new = ()
        for part in tl.static_range(PT // PD):
            A = tl.load(A_at + (at + part * Q * C) * H + (column[None, :] * H + j[:, None])).to(DOT)
            if HAS_BIAS:
                b = tl.load(b_at + at + part * Q * C + pair).to(SUM)
                R = tl.broadcast_to(tl.reshape(b, (Q * CT,))[None, :], (ROWS, Q * CT))
                R = dot(h, A, R, SUM, PRECISION)
            else:
                R = dot(h, A, None, SUM, PRECISION)
            weights = _columns(R, ROWS, Q * I)
            for p in tl.static_range(PD):
                for d in tl.static_range(D):
                    minus = acc[(part * PD + p) * S + d]
                    for i in tl.static_range(I):
                        minus += weights[p * AB * I + i] * x[d * I + i]
                    if AB == 2:
                        for i in tl.static_range(I):
                            minus -= weights[(p * AB + 1) * I + i] * x[(D + d) * I + i]
                    new += (minus,)
                if AB == 2:
                    for d in tl.static_range(D):
                        plus = acc[(part * PD + p) * S + D + d]
                        for i in tl.static_range(I):
                            plus += weights[p * AB * I + i] * x[(D + d) * I + i]
                        for i in tl.static_range(I):
                            plus += weights[(p * AB + 1) * I + i] * x[d * I + i]
                        new += (plus,)
        acc = new
    for ab in tl.static_range(AB):
        for d in tl.static_range(D):
            at = y_at + ((slot.to(tl.int64) * AB + ab) * edges + edge + d) * P + p0 + r * (D * P)
            for p in tl.static_range(PT):
                tl.store(at + p, tl.sum(acc[p * S + ab * D + d], axis=1), mask=is_e)


@triton.jit
def _by_R(dy, x, b: tl.constexpr, AB: tl.constexpr, D: tl.constexpr):
    """The derivative with respect to R_a for b = 0, to R_b for b = 1, from AB D tensors each."""
    dR = dy[b * D] * x[0]
    for d in tl.static_range(1, D):
        dR += dy[b * D + d] * x[d]
    if AB == 2:
        for d in tl.static_range(D):
            if b == 0:
                dR += dy[D + d] * x[D + d]
            else:
                dR -= dy[d] * x[D + d]
    return dR


@triton.jit
def _by_kernels(
    dg, kernels_at, first, last, numbers_at, A_at, x_at, dy_at, edge, left, edges,
    AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, C: tl.constexpr, CT: tl.constexpr,
    H: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    p, c, j, n = tl.arange(0, PT), tl.arange(0, CT), tl.arange(0, H), tl.arange(0, PT * CT)
    r = tl.arange(0, ROWS)
    is_e, column = r < left, n // CT * (AB * C) + n % CT
    for i in range(first * (C // CT), last * (C // CT)):
        c0 = i % (C // CT) * CT
        kernel = tl.load(kernels_at + i // (C // CT)).to(tl.int64)
        x_slot = tl.load(numbers_at + 2 * kernel).to(tl.int64)
        y_slot = tl.load(numbers_at + 2 * kernel + 1).to(tl.int64)
        x = ()
        for ab in tl.static_range(AB):
            for d in tl.static_range(D):
                of_x = x_at + ((x_slot * AB + ab) * edges + edge + d) * C + c0
                of_x += r[:, None] * (D * C) + c[None, :]
                x += (tl.load(of_x, mask=is_e[:, None], other=0.0).to(SUM)[:, None, :],)
        for p0 in range(0, P, PT):
            dy = ()
            for ab in tl.static_range(AB):
                for d in tl.static_range(D):
                    of_dy = dy_at + ((y_slot * AB + ab) * edges + edge + d) * P + p0
                    of_dy += r[:, None] * (D * P) + p[None, :]
                    dy += (tl.load(of_dy, mask=is_e[:, None], other=0.0).to(SUM)[:, :, None],)
            for b in tl.static_range(AB):
                dR = tl.reshape(_by_R(dy, x, b, AB, D), (ROWS, PT * CT))
                at = A_at + (((kernel * P + p0) * AB + b) * C + c0) * H
                A = tl.load(at + (column[:, None] * H + j[None, :])).to(DOT)
                dg = dot(dR.to(DOT), A, dg, SUM, PRECISION)
    return dg


@triton.jit
def by_hidden(
    A0_at, x0_at, dy0_at, A_at, x_at, dy_at, dg_at,
    ends_at,  # int32 per network: where its kernels of m = 0 and of m > 0 begin in the lists, and end
    kernels0_at, kernels_at, numbers0_at, numbers_at,  # int32 per kernel: slot in, slot out
    edges, rows, first_row, count, first_edge,
    D: tl.constexpr, HAS_M: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, C: tl.constexpr, CT: tl.constexpr,
    H: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The derivative with respect to g, ``[networks, rows, 32]``: a program sums over all that a network makes."""
    network = tl.program_id(1)
    first, left = tl.program_id(0).to(tl.int64) * ROWS, count - tl.program_id(0) * ROWS
    r, edge = tl.arange(0, ROWS), first_edge + first * D
    at = ends_at + 4 * network
    dg = tl.zeros((ROWS, H), dtype=SUM)
    dg = _by_kernels(dg, kernels0_at, tl.load(at), tl.load(at + 1), numbers0_at, A0_at, x0_at, dy0_at, edge, left,
                     edges, 1, D, P, PT, C, CT, H, ROWS, DOT, SUM, PRECISION)  # fmt: skip
    if HAS_M:
        dg = _by_kernels(dg, kernels_at, tl.load(at + 2), tl.load(at + 3), numbers_at, A_at, x_at, dy_at, edge, left,
                         edges, 2, D, P, PT, C, CT, H, ROWS, DOT, SUM, PRECISION)  # fmt: skip
    to = dg_at + (network.to(tl.int64) * rows + first_row + first) * H
    tl.store(to + (r[:, None] * H + tl.arange(0, H)[None, :]), dg, mask=(r < left)[:, None])


@triton.jit
def by_weights(
    g_at, x0_at, dy0_at, dA0_at, db0_at, numbers0_at, nets0_at, x_at, dy_at, dA_at, db_at, numbers_at, nets_at,
    kernels0, kernels, edges, rows, first_row, count, first_edge, of_part, first_part,
    D: tl.constexpr, HAS_M: tl.constexpr, P: tl.constexpr, PT0: tl.constexpr, PT: tl.constexpr, PD: tl.constexpr,
    C: tl.constexpr, CT: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The derivatives with respect to A and b, for m = 0 and for all others; a part for some of the rows."""
    tiles0: tl.constexpr = P // PT0
    tiles: tl.constexpr = P // PT
    number, end = tl.program_id(0), tl.minimum((tl.program_id(1) + 1) * of_part, count)
    if number < kernels0 * tiles0:
        _by_weights(g_at, x0_at, dy0_at, dA0_at, db0_at, numbers0_at, nets0_at, number // tiles0, number % tiles0,
                    kernels0, edges, rows, first_row, end, first_edge, of_part, first_part, 1, D, P, PT0, PD, C, CT,
                    H, ROWS, DOT, SUM, PRECISION)  # fmt: skip
    elif HAS_M:
        number -= kernels0 * tiles0
        _by_weights(g_at, x_at, dy_at, dA_at, db_at, numbers_at, nets_at, number // tiles, number % tiles, kernels,
                    edges, rows, first_row, end, first_edge, of_part, first_part, 2, D, P, PT, PD, C, CT, H, ROWS,
                    DOT, SUM, PRECISION)  # fmt: skip


@triton.jit
def _by_weights(
    g_at, x_at, dy_at, dA_at, db_at, numbers_at, nets_at, kernel, tile, kernels, edges, rows, first_row, end,
    first_edge, of_part, first_part, AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr,
    PD: tl.constexpr, C: tl.constexpr, CT: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr,
    SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """PT channels out and CT in, with a and b; PD of those out, with a or b, are a product, whose rows are (p, c)."""
    MOST: tl.constexpr = 64 // CT if CT < 64 else 1  # channels out in 64 rows
    LO: tl.constexpr = PD if PD < MOST else MOST
    HI: tl.constexpr = PD // LO
    kernel, part, p0, c0 = kernel.to(tl.int64), tl.program_id(1), tile * PT, tl.program_id(2) * CT
    c, p, j, n = tl.arange(0, CT), tl.arange(0, PD), tl.arange(0, H), tl.arange(0, PD * CT)
    x_at += (tl.load(numbers_at + 2 * kernel).to(tl.int64) * AB * edges + first_edge) * C + c0
    dy_at += (tl.load(numbers_at + 2 * kernel + 1).to(tl.int64) * AB * edges + first_edge) * P + p0
    first = tl.load(nets_at + kernel).to(tl.int64) * rows + first_row
    ones = tl.full((ROWS, 8), 1.0, dtype=DOT)
    dA, db = (), ()
    for _ in tl.static_range(PT // PD * AB):
        dA += (tl.zeros((PD * CT, H), dtype=SUM),)
        db += (tl.zeros((PD * CT, 8), dtype=SUM),)
    for start in range(part * of_part, end, ROWS):
        e = start + tl.arange(0, ROWS).to(tl.int64)
        is_e = e < end
        g = tl.load(g_at + (first + e)[:, None] * H + j[None, :], mask=is_e[:, None], other=0.0).to(DOT)
        x = ()
        for ab in tl.static_range(AB):
            for d in tl.static_range(D):
                at = x_at + (ab * edges + e * D + d)[:, None] * C + c[None, :]
                x += (tl.trans(tl.load(at, mask=is_e[:, None], other=0.0).to(SUM))[None, None, :, :],)
        new_A, new_b = (), ()
        for of in tl.static_range(PT // PD):
            dy = ()
            for ab in tl.static_range(AB):
                for d in tl.static_range(D):
                    at = dy_at + (ab * edges + e * D + d)[:, None] * P + (of * PD + p)[None, :]
                    v = tl.load(at, mask=is_e[:, None], other=0.0).to(SUM)
                    dy += (tl.permute(tl.reshape(v, (ROWS, LO, HI)), (2, 1, 0))[:, :, None, :],)
            for b in tl.static_range(AB):
                dR = tl.reshape(_by_R(dy, x, b, AB, D), (PD * CT, ROWS)).to(DOT)
                new_b += (summed(dR, ones, db[of * AB + b], SUM, PRECISION),)
                new_A += (dot(dR, g, dA[of * AB + b], SUM, PRECISION),)
        dA, db = new_A, new_b
    for of in tl.static_range(PT // PD):
        for b in tl.static_range(AB):
            channel = p0 + of * PD + n // CT % LO * HI + n // (CT * LO)
            to = ((first_part + part).to(tl.int64) * kernels + kernel) * P * AB * C
            to += (channel * AB + b) * C + c0 + n % CT
            tl.store(dA_at + to[:, None] * H + j[None, :], dA[of * AB + b])
            tl.store(db_at + to, tl.max(db[of * AB + b], axis=1))
