"""The kernels on CUDA where there is one, else in Triton's interpreter: ``TRITON_INTERPRET=1 pytest <this file>``."""

import os
import subprocess
import sys

import pytest
import torch

from equivariant_attention.contraction import triton_mix
from equivariant_attention.contraction.triton_mix import available, mix_product, mix_product_gradient, plain_product

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED or not torch.cuda.is_available() else "cuda")

# kernels, rows, hidden values and the one, orders, D, channels out, channels in
SIZES = {
    "one of everything": (1, 1, 2, 1, 1, 1, 1),
    "no hidden values": (2, 3, 1, 1, 1, 2, 3),
    "scalars of pairs": (2, 70, 33, 1, 2, 8, 16),
    "vectors": (1, 65, 33, 2, 1, 3, 32),
    "vectors of pairs": (1, 33, 33, 2, 2, 32, 3),
    "one channel out": (1, 64, 33, 1, 1, 1, 16),
    "one channel in": (1, 64, 33, 2, 2, 16, 1),
    "many channels": (1, 9, 33, 1, 1, 36, 40),
    "many hidden values": (1, 17, 50, 2, 1, 8, 8),
    "three edges": (1, 9, 33, 2, 3, 5, 7),
}
TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture
def runs():
    """Skip what needs the kernels where they cannot run."""
    pytest.importorskip("triton")
    if not available(DEVICE):
        pytest.skip("neither CUDA nor Triton's interpreter (TRITON_INTERPRET=1)")


def inputs(size, dtype=torch.float64, dtype_of_x=None):
    kernels, rows, hidden, orders, D, out, channels = size
    shapes = (kernels, rows, hidden), (kernels, hidden, orders * out * channels), (kernels * rows, orders * D, channels)
    dtypes = dtype, dtype, dtype_of_x or dtype
    return [
        torch.randn(s, dtype=torch.float64).to(DEVICE, t).requires_grad_() for s, t in zip(shapes, dtypes, strict=True)
    ]


def assert_near(found, expected, tolerance):
    """Equal up to so much of the largest number."""
    expected = expected.detach()
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def assert_same_function(leaves, tolerance):
    """Values and derivatives are those of the plain product of the same numbers in float64."""
    y = mix_product(*leaves)
    dy = torch.randn_like(y)
    exact = [v.detach().double().requires_grad_() for v in leaves]
    expected = plain_product(*exact)
    assert y.dtype == leaves[2].dtype
    assert_near(y, expected, tolerance)
    found = torch.autograd.grad(y, leaves, dy)
    for leaf, a, b in zip(leaves, found, torch.autograd.grad(expected, exact, dy.double()), strict=True):
        assert a.dtype == leaf.dtype
        assert_near(a, b, tolerance)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SIZES)
def test_values_and_derivatives_are_those_of_the_plain_product(name, dtype):
    assert_same_function(inputs(SIZES[name], dtype), TOLERANCE[dtype])


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("dtype_of_x", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype, dtype_of_x):
    assert_same_function(inputs(SIZES["vectors"], dtype, dtype_of_x), TOLERANCE[dtype])


@pytest.mark.usefixtures("runs")
def test_values_of_half_precision_are_rounded_once():
    leaves = inputs((1, 40, 33, 1, 1, 8, 32), torch.bfloat16, torch.float32)
    assert_near(mix_product(*leaves), plain_product(*(v.double() for v in leaves)), TOLERANCE[torch.float32])


@pytest.mark.usefixtures("runs")
def test_derivatives_of_separate_edges():
    h, A, x = (v.detach() for v in inputs((2, 20, 33, 2, 2, 8, 3)))
    dy = torch.randn_like(plain_product(h, A, x))
    dh, dA, dx = mix_product_gradient(h, A, x, dy, separate=2)
    for d in range(2):
        dR = (dy[:, d::2].mT @ x[:, d::2]).view(*h.shape[:2], -1)
        assert_near(dh[:, :, d], dR @ A.mT, 1e-13)
    once = mix_product_gradient(h, A, x, dy)
    assert_near(dh.sum(2, keepdim=True), once[0], 1e-13)
    assert torch.equal(dA, once[1])
    assert torch.equal(dx, once[2])
    assert mix_product_gradient(h, A, x, dy, by_weights=False)[1] is None


@pytest.mark.usefixtures("runs")
def test_a_sum_over_rows_in_parts():
    assert_same_function(inputs((1, 550, 3, 1, 1, 2, 2)), 1e-13)


@pytest.mark.usefixtures("runs")
def test_views_are_read_as_they_are():
    h, A, x = (v.detach() for v in inputs((2, 10, 33, 2, 1, 4, 6)))
    spread = [v.mT.contiguous().mT.requires_grad_() for v in (h, A, x)]
    assert not any(v.is_contiguous() for v in spread)
    assert_same_function(spread, 1e-13)


@pytest.mark.usefixtures("runs")
def test_only_what_is_asked_for_is_derived():
    h, A, x = inputs(SIZES["three edges"])
    x.requires_grad_(False)
    mix_product(h, A.detach(), x).sum().backward()
    assert h.grad is not None
    assert A.grad is None


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("size", [(2, 3, 4, 2, 2, 2, 3), (1, 2, 3, 1, 1, 3, 2)])
def test_first_and_second_derivatives(size):
    leaves = inputs(size)
    assert torch.autograd.gradcheck(mix_product, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(mix_product, leaves, fast_mode=True)


@pytest.mark.usefixtures("runs")
def test_what_does_not_fit_is_refused():
    h, A, x = (v.detach() for v in inputs(SIZES["vectors"]))
    for wrong in ((h[:, 1:], A, x), (h, A[:, 1:], x), (h, A[:, :, 1:], x), (h[:, :0], A, x[:0]), (h[0], A, x)):
        with pytest.raises(ValueError, match=r"must be \[kernels, rows, hidden\]"):
            mix_product(*wrong)
    for wrong in ((h, A.float(), x), (h.float(), A.float(), x), (h.long(), A.long(), x)):
        with pytest.raises(ValueError, match="must share a floating type"):
            mix_product(*wrong)
    with pytest.raises(ValueError, match="one CUDA device, or a CPU in Triton's interpreter"):
        mix_product(h, A, x.to("meta"))
    with pytest.raises(ValueError, match="not 3 times a whole number"):
        mix_product_gradient(h, A, x, plain_product(h, A, x), separate=3)


def test_an_old_triton_is_refused(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", "3.2.0")
    with pytest.raises(ImportError, match=r"needs Triton 3\.3 or later, this is 3\.2\.0"):
        triton_mix._kernels.__wrapped__()


@pytest.mark.usefixtures("runs")
def test_float64_is_refused_where_triton_has_none(monkeypatch):
    kernels = triton_mix._kernels()._replace(has_float64=False)
    monkeypatch.setattr(triton_mix, "_kernels", lambda: kernels)
    with pytest.raises(ValueError, match=r"float64 needs Triton 3\.9"):
        mix_product(*inputs(SIZES["vectors"]))


def test_triton_is_optional_and_imported_by_the_first_call():
    script = f"""
import sys
import torch
from {triton_mix.__name__} import available, mix_product
assert "triton" not in sys.modules
sys.modules["triton"] = None
assert not available(torch.device("cpu"))
try:
    mix_product(torch.ones(1, 1, 2), torch.ones(1, 2, 1), torch.ones(1, 1, 1))
except ImportError as error:
    assert "needs Triton, which is not installed" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True)
