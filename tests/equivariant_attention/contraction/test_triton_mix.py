"""The kernels that mix, alone, on CUDA or in Triton's interpreter: ``TRITON_INTERPRET=1 pytest <this file>``."""

import subprocess
import sys

import pytest
import torch

from equivariant_attention.contraction import triton_mix
from equivariant_attention.contraction.triton_mix import available, mix_product, mix_product_gradient, plain_product

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
runs = pytest.mark.skipif(not available(DEVICE), reason="needs CUDA, or Triton's interpreter")
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6}
# kernels, rows, orders and edges, channels out, channels in
SIZES = [(2, 70, 1, 8, 16), (1, 40, 2, 16, 8), (1, 9, 3, 8, 8), (1, 5, 2, 8, 64), (2, 5, 4, 8, 32)]


def inputs(size, dtype=torch.float64):
    """The arguments, and a derivative with respect to the value."""
    kernels, rows, M, P, C = size
    h, A = torch.randn(kernels, rows, 33, dtype=dtype), torch.randn(kernels, 33, P * C, dtype=dtype)
    h[..., -1] = 1
    x, dy = (torch.randn(kernels * rows, M, n, dtype=dtype) for n in (C, P))
    return [v.to(DEVICE) for v in (h, A, x, dy)]


def assert_near(found, expected, tolerance):
    """Equal up to so much of the largest number."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@runs
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
def test_values_and_derivatives_are_those_of_the_plain_product(size, dtype):
    *leaves, dy = inputs(size, dtype)
    exact = [v.double().requires_grad_() for v in leaves]
    expected = plain_product(*exact)
    assert_near(mix_product(*leaves), expected.detach().to(dtype), TOLERANCE[dtype])
    dh, *others = mix_product_gradient(*leaves, dy)
    for found, d in zip((dh.squeeze(2), *others), torch.autograd.grad(expected, exact, dy.double()), strict=True):
        assert_near(found, d.to(dtype), TOLERANCE[dtype])


@runs
def test_derivatives_of_separate_edges():
    h, A, x, dy = inputs((2, 5, 4, 8, 8))
    dh, dA, dx = mix_product_gradient(h, A, x, dy, separate=2)
    for d in range(2):
        dR = (dy[:, d::2].mT @ x[:, d::2]).view(*h.shape[:2], -1)
        assert_near(dh[:, :, d], dR @ A.mT, 1e-13)
    once = mix_product_gradient(h, A, x, dy)
    assert torch.equal(dA, once[1])
    assert torch.equal(dx, once[2])
    assert mix_product_gradient(h, A, x, dy, by_weights=False)[1] is None


@runs
def test_views_are_read_as_they_are():
    given = inputs(SIZES[1])
    spread = [v.mT.contiguous().mT for v in given]
    assert not any(v.is_contiguous() for v in spread)
    assert torch.equal(mix_product(*spread[:3]), mix_product(*given[:3]))
    for a, b in zip(mix_product_gradient(*spread), mix_product_gradient(*given), strict=True):
        assert torch.equal(a, b)


@runs
def test_what_does_not_fit_is_refused():
    h, A, x, dy = inputs(SIZES[-1])
    wrong = [(h[:, 1:], A, x), (h, A[:, 1:], x), (h, A[:, :, 1:], x), (h[..., 1:], A[:, 1:], x), (h[0], A, x)]
    wrong += [inputs((1, 2, M, P, C))[:3] for M, P, C in ((5, 8, 8), (1, 12, 8), (1, 8, 4))]
    for given in wrong:
        with pytest.raises(ValueError, match=r"^h, A and x must be \[kernels, rows, 33\]"):
            mix_product(*given)
    for given in ((h, A.float(), x), (h, A, x.to("meta")), (h.half(), A.half(), x.half())):
        with pytest.raises(ValueError, match=r"^h, A and x do not suit the kernels: they (must share|need float32)"):
            mix_product(*given)
    with pytest.raises(ValueError, match=r"^separate must divide the 4 orders and edges of a row, got 3"):
        mix_product_gradient(h, A, x, dy, separate=3)


def test_triton_is_optional_and_imported_by_the_first_call():
    script = f"""
import sys
import torch
from {triton_mix.__name__} import available, mix_product
assert "triton" not in sys.modules
sys.modules["triton"] = None
assert not available(torch.device("cpu"))
try:
    mix_product(torch.ones(1, 1, 33), torch.ones(1, 33, 64), torch.ones(1, 1, 8))
except ValueError as error:
    assert "h, A and x do not suit the kernels: they need Triton" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)


if available(DEVICE):
    import triton
    import triton.language as tl

    from equivariant_attention.kernels.products import _halves

    @triton.jit
    def halves(v_at, high_at, low_at, N: tl.constexpr):
        """Both halves of N numbers."""
        i = tl.arange(0, N)
        high, low = _halves(tl.load(v_at + i))
        tl.store(high_at + i, high)
        tl.store(low_at + i, low)


@runs
def test_factors_are_rounded_to_tf32_and_nothing_is_lost():
    v = torch.randn(1024, device=DEVICE) * 10 ** torch.linspace(-30, 30, 1024, device=DEVICE)
    high, low = torch.empty_like(v), torch.empty_like(v)
    halves[1,](v, high, low, N=1024)
    assert not (high.view(torch.int32) & 0x1FFF).any()  # 10 bits of 23
    assert torch.equal(high + low, v)
    assert (low.abs() <= 2.0**-11 * v.abs()).all()
