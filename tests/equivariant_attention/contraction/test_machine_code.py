"""Triton kernels, compiled for GPUs that are not there: nothing spills, and tensor cores are used in the inner loop."""

import os

import pytest

from equivariant_attention.contraction import triton_mix
from tests.machine_code import CAPABILITIES, compiled

pytest.importorskip("triton")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter compiles nothing"),
]
CHANNELS_IN, CHANNELS_OUT, ROWS = 32, 16, 4475


def kernel_of(kind, orders, D):
    """A kernel as triton_mix launches it for a layer of QM9: itself, the types of its arguments, and its constants."""
    import triton.language as tl

    outer, inner, H, M = orders * CHANNELS_OUT, CHANNELS_IN, 33, orders * D
    numbers = {"HIDDEN": 32, "TYPE": tl.float32, "DOT": tl.float32, "SUM": tl.float32, "PRECISION": "tf32"}
    types = dict.fromkeys(("h_at", "A_at", "x_at", "y_at", "dh_at", "dy_at", "dA_at"), "*fp32")
    types |= {"rows": ("i32", ROWS), "inner": ("i32", inner), "outer": ("i32", outer), "H": ("i32", H)}
    names = ("stride_k", "stride_i", "stride_j", "stride_o")
    kernels = triton_mix._kernels()
    constants = {"M": M, "ROWS": triton_mix.ROWS, **numbers}
    if kind == "forward":
        strides = (inner * H * outer, H * outer, outer, 1)
        constants["COLUMNS"] = min(triton_mix._power(outer), 32 if M <= 2 else 16)
        kernel, warps = kernels.multiply, 4
    elif kind == "by hidden values":
        strides = (H * outer * inner, outer * inner, 1, inner)
        constants["COLUMNS"] = 16
        kernel, warps = kernels.hidden_gradient, 8
    else:
        strides = ()
        types["of_part"] = ("i32", 512)
        constants |= {"ROWS": triton_mix.ROWS_OF_SUM, "COLUMNS": 32, "OTHERS": triton_mix.COLUMNS_OF_SUM // 32}
        kernel, warps = kernels.weight_gradient, 8
    types |= {name: ("i32", stride) for name, stride in zip(names, strides, strict=False)}
    return kernel, types, constants, warps


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("orders", [1, 2])
@pytest.mark.parametrize("kind", ["forward", "by hidden values", "by weights"])
def test_products_of_pairs_of_edges(kind, orders, capability):
    kernel, types, constants, warps = kernel_of(kind, orders, D=2)
    code = compiled(kernel, types, constants, capability, num_warps=warps, enable_fp_fusion=True)
    assert code.spilled == 0
    assert any("MMA" in name for loop in code.loops for name in loop)
