"""What autocast and TF32 do not reach."""

import pytest
import torch

from equivariant_attention.precision import full_precision


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_on_a_gpu_are_not_rounded(precision):
    torch.set_float32_matmul_precision(precision)
    try:
        with full_precision(torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == "highest"
        with full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == precision
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision("highest")
