"""What the mathematics of rotations says to wrong input."""

import re

import pytest
import torch

from equivariant_attention.so3 import (
    aligned_coupling,
    aligning_matrices,
    aligning_rotation,
    coupling,
    random_rotation,
    spherical_harmonics,
    wigner_d,
    wigner_matrices,
)
from equivariant_attention.so3.vectors import length_and_direction

WRONG = {
    "coupling: negative": (lambda: coupling(-1, 1, 1), ValueError, "degree_out must be a whole number of at least 0"),
    "coupling: fraction": (lambda: coupling(1, 1.5, 1), ValueError, "degree_in must be a whole number of at least 0"),
    "coupling: J": (lambda: coupling(1, 1, 0.5), ValueError, "J must lie between |l - k| and l + k"),
    "aligned_coupling": (lambda: aligned_coupling(1, -1), ValueError, "degree_in must be a whole number of at least 0"),
    "spherical_harmonics: degree": (
        lambda: spherical_harmonics(-1, torch.zeros(2, 3)), ValueError,
        "max_degree must be a whole number of at least 0",
    ),
    "spherical_harmonics: shape": (
        lambda: spherical_harmonics(1, torch.zeros(3, 2)), ValueError, "direction must have shape [..., 3], got [3, 2]",
    ),
    "spherical_harmonics: dtype": (
        lambda: spherical_harmonics(1, torch.ones(2, 3).long()), TypeError,
        "direction must be a float32 or float64 tensor, got torch.int64",
    ),
    "wigner_d: degree": (lambda: wigner_d(-1, torch.eye(3)), ValueError, "degree must be a whole number of at least 0"),
    "wigner_d: shape": (
        lambda: wigner_d(1, torch.eye(4)), ValueError, "rotation must have shape [..., 3, 3], got [4, 4]",
    ),
    "wigner_matrices": (
        lambda: wigner_matrices(2, [1]), TypeError, "rotation must be a float32 or float64 tensor, got list",
    ),
    "wigner_matrices: degree": (
        lambda: wigner_matrices(1.5, torch.eye(3)), ValueError,
        "max_degree must be a whole number of at least 0, got 1.5",
    ),
    "aligning_rotation": (
        lambda: aligning_rotation(torch.tensor(1.0)), ValueError, "direction must have shape [..., 3], got []",
    ),
    "aligning_matrices": (
        lambda: aligning_matrices(2, torch.ones(4)), ValueError, "direction must have shape [..., 3], got [4]",
    ),
    "aligning_matrices: degree": (
        lambda: aligning_matrices(-1, torch.ones(3)), ValueError,
        "max_degree must be a whole number of at least 0, got -1",
    ),
    "length_and_direction": (
        lambda: length_and_direction(torch.ones(3).half()), TypeError, "vectors must be a float32 or float64 tensor",
    ),
    "random_rotation": (lambda: random_rotation(-1), RuntimeError, "negative dimension -1"),
}  # fmt: skip


@pytest.mark.parametrize("call", WRONG)
def test_wrong_input_is_named(call):
    function, error, message = WRONG[call]
    with pytest.raises(error, match=re.escape(message)):
        function()
