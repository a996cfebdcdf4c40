import pytest
import torch

from equivariant_attention.so3 import random_rotation, wigner_d


def test_random_rotations_are_rotations(dtype):
    R = random_rotation(100, dtype=dtype)
    identity = torch.eye(3, dtype=dtype).expand_as(R)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(R @ R.mT, identity, rtol=0, atol=tolerance)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(100, dtype=dtype), rtol=0, atol=tolerance)


def test_random_rotations_are_uniform():
    R = random_rotation(200_000, dtype=torch.float64)
    # Under the uniform distribution the mean is 0 and the trace, 1 + 2 cos(angle), has mean 0 and variance 1.
    assert R.mean(0).abs().max() < 0.01
    trace = R.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert abs(trace.mean()) < 0.01
    assert abs(trace.var() - 1) < 0.01


@pytest.mark.parametrize("degree", range(9))
def test_wigner_d_is_an_orthogonal_representation(degree):
    A, B = random_rotation(2, dtype=torch.float64)
    D = wigner_d(degree, A)
    assert D.shape == (2 * degree + 1, 2 * degree + 1)
    torch.testing.assert_close(D @ D.T, torch.eye(2 * degree + 1, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(wigner_d(degree, A @ B), D @ wigner_d(degree, B), rtol=0, atol=1e-13)
    torch.testing.assert_close(wigner_d(degree, -A), (-1) ** degree * D)


def test_gradients_flow():
    R = random_rotation(dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda M: wigner_d(4, M), R)
