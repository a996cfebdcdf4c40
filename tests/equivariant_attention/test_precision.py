"""What autocast and TF32 do not reach."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import equivariant_attention.nvidia.basis as nvidia
from equivariant_attention.precision import full_precision
from equivariant_attention.so3 import (
    aligning_matrices,
    features_to_symmetric_tensor,
    random_rotation,
    symmetric_tensor_to_features,
    wigner_d,
)

ROOT = Path(__file__).parents[2]


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


def test_autocast_rounds_no_rotation_and_no_tensor():
    turn, symmetric = random_rotation(), torch.randn(2, 3, 3)
    features = {"0": torch.randn(2, 1), "2": torch.randn(2, 5)}
    functions = {
        "wigner_d": lambda: wigner_d(3, turn),
        "aligning_matrices": lambda: aligning_matrices(3, turn[:1])[3],
        "to features": lambda: symmetric_tensor_to_features(symmetric + symmetric.mT)["2"],
        "to a tensor": lambda: features_to_symmetric_tensor(features),
        "nvidia": lambda: nvidia.get_basis(symmetric[0], 2)["2,2"],
    }
    expected = {name: function() for name, function in functions.items()}
    with torch.autocast("cpu", torch.bfloat16):
        for name, function in functions.items():
            assert torch.equal(function(), expected[name]), name


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="before PyTorch 2.9")
@pytest.mark.parametrize("told", ["torch.backends.cuda.matmul.fp32_precision", "torch.backends.fp32_precision"])
def test_what_was_told_by_the_newer_interface_is_known_and_comes_back(told):
    """In a process of its own, as some of it cannot be taken back."""
    code = f"""
import torch
from equivariant_attention.precision import full_precision, matmul_precision
{told} = "tf32"
assert matmul_precision() == "high"
with full_precision(torch.device("cuda")):
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert matmul_precision() == "highest"
assert {told} == torch.backends.cuda.matmul.fp32_precision == "tf32"
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="before PyTorch 2.9")
def test_nothing_else_is_told():
    code = """
import torch
from equivariant_attention.precision import full_precision
torch.backends.cuda.matmul.allow_tf32 = True
before = torch.backends.mkldnn.matmul.fp32_precision
with full_precision(torch.device("cuda")):
    pass
assert torch.backends.cuda.matmul.allow_tf32
assert torch.backends.mkldnn.matmul.fp32_precision == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
