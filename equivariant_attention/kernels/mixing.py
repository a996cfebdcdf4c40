"""SO(2) convolutions (eSCN, arXiv 2302.03655) with radial weights that are made and consumed on chip, and derivatives.

For a kernel from a slot of features x to a slot of messages y, with R = A g + b,

    y- = R_a x- - R_b x+,      y+ = R_b x- + R_a x+,      of order 0 alone y = R_a x,

    dx- = R_a dy- + R_b dy+,   dx+ = R_a dy+ - R_b dy-    (the same map, with A transposed and -b),
    dR_a = dy- x- + dy+ x+,    dR_b = dy+ x- - dy- x+,    dg = dR A,    dA = dR g.

A row is one edge, or D = 2 that share radial weights. A program owns some rows and PT channels out. Channels in are the
columns of a tile of R, so x is read once for all channels out and stays in registers, in the layout of the tensor
cores' accumulators. Nothing is atomic.
"""

import triton
import triton.language as tl


@triton.jit
def _slices(v, ROWS: tl.constexpr, X: tl.constexpr, LEVELS: tl.constexpr):
    """``[ROWS, X 4 2]`` to 2 X tensors ``[ROWS, 4]``, each a register or two of a thread; in bit-reversed order."""
    v = tl.permute(tl.reshape(v, (ROWS, X, 4, 2)), (0, 2, 1, 3))
    parts = (tl.reshape(v, (ROWS, 4, 2 * X)),)
    for level in tl.static_range(LEVELS):
        new = ()
        for i in tl.static_range(len(parts)):
            if X >> level > 1:
                low, high = tl.split(tl.reshape(parts[i], (ROWS, 4, X >> level, 2)))
            else:
                low, high = tl.split(parts[i])
            new += (low, high)
        parts = new
    return parts


@triton.jit
def _column(r, i: tl.constexpr, p: tl.constexpr, b: tl.constexpr, AB: tl.constexpr, Q: tl.constexpr):
    """Of the slices of R: columns are (p, a or b, c), in bit-reversed order."""
    lowest: tl.constexpr = b * (Q // 2)
    return r[i * Q + lowest + p % 2 * (Q // (2 * AB)) + p // 2 % 2 * (Q // (4 * AB)) + p // 4 * (Q // (8 * AB))]


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
    P: tl.constexpr,
    PT0: tl.constexpr,
    PD0: tl.constexpr,
    PT: tl.constexpr,
    PD: tl.constexpr,
    C: tl.constexpr,
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
                  edges, rows, first_row, count, first_edge, 1, D, P, PT0, PD0, C, H, HAS_BIAS, ROWS, DOT, SUM,
                  PRECISION)  # fmt: skip
    else:
        number -= slots0 * tiles0
        _messages(g_at, A_at, b_at, x_at, y_at, targets_at, nets_at, block, number // tiles, number % tiles, edges,
                  rows, first_row, count, first_edge, 2, D, P, PT, PD, C, H, HAS_BIAS, ROWS, DOT, SUM,
                  PRECISION)  # fmt: skip


@triton.jit
def _messages(
    g_at, A_at, b_at, x_at, y_at, targets_at, nets_at, block, slot, tile, edges, rows, first_row, count, first_edge,
    AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, PD: tl.constexpr, C: tl.constexpr,
    H: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One slot out; PD channels out, with a and b, are made by one product: columns (p, a or b, c)."""
    S: tl.constexpr = AB * D
    Q: tl.constexpr = AB * PD  # 1, 2, 4 or 8
    N8: tl.constexpr = C // 8
    I: tl.constexpr = 2 * N8  # channels of a thread
    LX: tl.constexpr = 1 + (N8 > 1) + (N8 > 2) + (N8 > 4) + (N8 > 8)
    LQ: tl.constexpr = (Q > 1) + (Q > 2) + (Q > 4)
    p0 = tile * PT
    e = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c, j, n, is_e = tl.arange(0, C), tl.arange(0, H), tl.arange(0, Q * C), e < count
    edge = first_edge + e * D
    first_kernel, kernels, first_slot = (
        tl.load(targets_at + 3 * slot),
        tl.load(targets_at + 3 * slot + 1),
        tl.load(targets_at + 3 * slot + 2),
    )
    acc = ()
    for _ in tl.static_range(PT * S):
        acc += (tl.zeros((ROWS, 4), dtype=SUM),)
    for k in range(kernels):
        kernel = (first_kernel + k).to(tl.int64)
        row = tl.load(nets_at + kernel).to(tl.int64) * rows + first_row + e
        h = tl.load(g_at + row[:, None] * H + j[None, :], mask=is_e[:, None], other=0.0).to(DOT)
        x = ()
        for ab in tl.static_range(AB):
            for d in tl.static_range(D):
                at = ((first_slot + k).to(tl.int64) * AB + ab) * edges + edge + d
                v = tl.load(x_at + at[:, None] * C + c[None, :], mask=is_e[:, None], other=0.0).to(SUM)
                x += _slices(v, ROWS, N8, LX)
        column = (kernel * P + p0) * AB * C + n
        new = ()
        for part in tl.static_range(PT // PD):
            A = tl.load(A_at + (column + part * Q * C)[None, :] * H + j[:, None]).to(DOT)
            if HAS_BIAS:
                b = tl.load(b_at + column + part * Q * C).to(SUM)
                R = tl.broadcast_to(b[None, :], (ROWS, Q * C))
                R = tl.dot(h, A, R, input_precision=PRECISION, out_dtype=SUM)
            else:
                R = tl.dot(h, A, input_precision=PRECISION, out_dtype=SUM)
            r = _slices(R, ROWS, Q * N8, LX + LQ)
            for p in tl.static_range(PD):
                for d in tl.static_range(D):
                    minus = acc[(part * PD + p) * S + d]
                    for i in tl.static_range(I):
                        minus += _column(r, i, p, 0, AB, Q) * x[d * I + i]
                    if AB == 2:
                        for i in tl.static_range(I):
                            minus -= _column(r, i, p, 1, AB, Q) * x[(D + d) * I + i]
                    new += (minus,)
                if AB == 2:
                    for d in tl.static_range(D):
                        plus = acc[(part * PD + p) * S + D + d]
                        for i in tl.static_range(I):
                            plus += _column(r, i, p, 0, AB, Q) * x[(D + d) * I + i]
                        for i in tl.static_range(I):
                            plus += _column(r, i, p, 1, AB, Q) * x[d * I + i]
                        new += (plus,)
        acc = new
    for ab in tl.static_range(AB):
        for d in tl.static_range(D):
            at = y_at + ((slot.to(tl.int64) * AB + ab) * edges + edge + d) * P + p0
            for p in tl.static_range(PT):
                tl.store(at + p, tl.sum(acc[p * S + ab * D + d], axis=1), mask=is_e)


@triton.jit
def _dR(
    x_at, dy_at, x_slot, y_slot, edge, is_e, edges, p, b,
    AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, C: tl.constexpr, ROWS: tl.constexpr,
    SUM: tl.constexpr,
):  # fmt: skip
    """The derivative with respect to R_a for b = 0, to R_b for b = 1, ``[rows, PT C]``."""
    c = tl.arange(0, C)
    R = tl.zeros((ROWS, PT, C), dtype=SUM)
    for sign in tl.static_range(AB):
        for d in tl.static_range(D):
            at = x_at + ((x_slot * AB + (sign + b) % AB) * edges + edge + d)[:, None] * C + c[None, :]
            x = tl.load(at, mask=is_e[:, None], other=0.0).to(SUM)
            at = dy_at + ((y_slot * AB + sign) * edges + edge + d)[:, None] * P + p[None, :]
            dy = tl.load(at, mask=is_e[:, None], other=0.0).to(SUM)
            if AB == 2 and sign == 0:
                dy = dy * (1.0 - 2.0 * b)
            R += dy[:, :, None] * x[:, None, :]
    return tl.reshape(R, (ROWS, PT * C))


@triton.jit
def _by_kernels(
    dg, kernels_at, first, last, numbers_at, A_at, x_at, dy_at, edge, is_e, edges,
    AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, C: tl.constexpr, H: tl.constexpr,
    ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    j, n = tl.arange(0, H), tl.arange(0, PT * C)
    for i in range(first, last):
        kernel = tl.load(kernels_at + i).to(tl.int64)
        x_slot = tl.load(numbers_at + 2 * kernel).to(tl.int64)
        y_slot = tl.load(numbers_at + 2 * kernel + 1).to(tl.int64)
        for p0 in range(0, P, PT):
            for b in tl.static_range(AB):
                p = p0 + tl.arange(0, PT)
                dR = _dR(x_at, dy_at, x_slot, y_slot, edge, is_e, edges, p, b, AB, D, P, PT, C, ROWS, SUM)
                column = ((kernel * P + p0 + n // C) * AB + b) * C + n % C
                A = tl.load(A_at + column[:, None] * H + j[None, :]).to(DOT)
                dg = tl.dot(dR.to(DOT), A, dg, input_precision=PRECISION, out_dtype=SUM)
    return dg


@triton.jit
def by_hidden(
    A0_at, x0_at, dy0_at, A_at, x_at, dy_at, dg_at,
    ends_at,  # int32 per network: where its kernels of m = 0 and of m > 0 begin in the lists, and end
    kernels0_at, kernels_at, numbers0_at, numbers_at,  # int32 per kernel: slot in, slot out
    edges, rows, first_row, count, first_edge,
    D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, C: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr,
    DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The derivative with respect to g, ``[networks, rows, 32]``: a program sums over all that a network makes."""
    network = tl.program_id(1)
    e = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_e, edge = e < count, first_edge + e * D
    at = ends_at + 4 * network
    dg = tl.zeros((ROWS, H), dtype=SUM)
    dg = _by_kernels(dg, kernels0_at, tl.load(at), tl.load(at + 1), numbers0_at, A0_at, x0_at, dy0_at, edge, is_e,
                     edges, 1, D, P, PT, C, H, ROWS, DOT, SUM, PRECISION)  # fmt: skip
    dg = _by_kernels(dg, kernels_at, tl.load(at + 2), tl.load(at + 3), numbers_at, A_at, x_at, dy_at, edge, is_e,
                     edges, 2, D, P, PT, C, H, ROWS, DOT, SUM, PRECISION)  # fmt: skip
    row = network.to(tl.int64) * rows + first_row + e
    tl.store(dg_at + row[:, None] * H + tl.arange(0, H)[None, :], dg, mask=is_e[:, None])


@triton.jit
def by_weights(
    g_at, x0_at, dy0_at, dA0_at, db0_at, numbers0_at, nets0_at, x_at, dy_at, dA_at, db_at, numbers_at, nets_at,
    kernels0, kernels, edges, rows, first_row, count, first_edge, of_part, first_part,
    D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr, C: tl.constexpr, H: tl.constexpr,
    ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The derivatives with respect to A and b, for m = 0 and for all others; a part for some of the rows."""
    tiles: tl.constexpr = P // PT
    number, end = tl.program_id(0), tl.minimum((tl.program_id(1) + 1) * of_part, count)
    if number < kernels0 * tiles:
        _by_weights(g_at, x0_at, dy0_at, dA0_at, db0_at, numbers0_at, nets0_at, number // tiles, number % tiles, 0,
                    kernels0, edges, rows, first_row, end, first_edge, of_part, first_part, 1, D, P, PT, C, H, ROWS,
                    DOT, SUM, PRECISION)  # fmt: skip
    else:
        number -= kernels0 * tiles
        _by_weights(g_at, x_at, dy_at, dA_at, db_at, numbers_at, nets_at, number // (2 * tiles), number // 2 % tiles,
                    number % 2, kernels, edges, rows, first_row, end, first_edge, of_part, first_part, 2, D, P, PT, C,
                    H, ROWS, DOT, SUM, PRECISION)  # fmt: skip


@triton.jit
def _by_weights(
    g_at, x_at, dy_at, dA_at, db_at, numbers_at, nets_at, kernel, tile, b, kernels, edges, rows, first_row, end,
    first_edge, of_part, first_part, AB: tl.constexpr, D: tl.constexpr, P: tl.constexpr, PT: tl.constexpr,
    C: tl.constexpr, H: tl.constexpr, ROWS: tl.constexpr, DOT: tl.constexpr, SUM: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    kernel, part = kernel.to(tl.int64), tl.program_id(1)
    p, j, n = tile * PT + tl.arange(0, PT), tl.arange(0, H), tl.arange(0, PT * C)
    x_slot = tl.load(numbers_at + 2 * kernel).to(tl.int64)
    y_slot = tl.load(numbers_at + 2 * kernel + 1).to(tl.int64)
    first = tl.load(nets_at + kernel).to(tl.int64) * rows + first_row
    dA, db = tl.zeros((PT * C, H), dtype=SUM), tl.zeros((PT * C,), dtype=SUM)
    for start in range(part * of_part, end, ROWS):
        e = start + tl.arange(0, ROWS).to(tl.int64)
        is_e = e < end
        g = tl.load(g_at + (first + e)[:, None] * H + j[None, :], mask=is_e[:, None], other=0.0).to(DOT)
        dR = _dR(x_at, dy_at, x_slot, y_slot, first_edge + e * D, is_e, edges, p, b, AB, D, P, PT, C, ROWS, SUM)
        dA = tl.dot(tl.trans(dR.to(DOT)), g, dA, input_precision=PRECISION, out_dtype=SUM)
        db += tl.sum(dR, axis=0)
    to = ((first_part + part).to(tl.int64) * kernels + kernel) * P * AB * C
    to += ((tile * PT + n // C) * AB + b) * C + n % C
    tl.store(dA_at + to[:, None] * H + j[None, :], dA)
    tl.store(db_at + to, db)
