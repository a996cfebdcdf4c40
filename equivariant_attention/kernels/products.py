"""Products of tensor cores that are as exact as float32: each three in TF32, of the leading bits and of the rest."""

import triton
import triton.language as tl


@triton.jit
def _halves(v):
    """A float32 rounded to TF32, to nearest, and the rest, of which TF32 keeps all bits but the last.

    Triton's own 'tf32x3' also looks for what is not finite, in twice as many instructions: here an infinite factor
    makes NaN.
    """
    high = (v.to(tl.int32, bitcast=True) + 0x1000 & -0x2000).to(tl.float32, bitcast=True)
    return high, v - high


@triton.jit
def dot(a, b, total, SUM: tl.constexpr, PRECISION: tl.constexpr):
    """The product of two matrices, added to a sum."""
    if PRECISION == "tf32x3":
        a, a_low = _halves(a)
        b, b_low = _halves(b)
        total = tl.dot(a_low, b, total, input_precision="tf32", out_dtype=SUM)
        total = tl.dot(a, b_low, total, input_precision="tf32", out_dtype=SUM)
        total = tl.dot(a, b, total, input_precision="tf32", out_dtype=SUM)
    else:
        total = tl.dot(a, b, total, input_precision=PRECISION, out_dtype=SUM)
    return total


@triton.jit
def summed(v, ones, total, SUM: tl.constexpr, PRECISION: tl.constexpr):
    """The same where one matrix is ones, which have no other half: sums over its rows."""
    if PRECISION == "tf32x3":
        high, low = _halves(v)
        total = tl.dot(low, ones, total, input_precision="tf32", out_dtype=SUM)
        total = tl.dot(high, ones, total, input_precision="tf32", out_dtype=SUM)
    else:
        total = tl.dot(v, ones, total, input_precision=PRECISION, out_dtype=SUM)
    return total
