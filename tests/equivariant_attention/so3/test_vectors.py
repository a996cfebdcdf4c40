import pytest
import torch

from equivariant_attention.so3.vectors import length_and_direction


def test_plain_vectors(dtype):
    vectors = torch.randn(20, 3, dtype=dtype)
    length, direction = length_and_direction(vectors)
    torch.testing.assert_close(length, vectors.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(direction, vectors / vectors.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-10, 1e10, 1e30, 1e38])
def test_every_magnitude_that_float32_holds(scale):
    vectors = scale * torch.tensor([[1.0, 2.0, -2.0], [0.0, 0.0, 1.0]])
    length, direction = length_and_direction(vectors)
    torch.testing.assert_close(length / scale, torch.tensor([[3.0], [1.0]]))
    torch.testing.assert_close(direction, torch.tensor([[1 / 3, 2 / 3, -2 / 3], [0, 0, 1]]))


def test_derivatives():
    vectors = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(length_and_direction, vectors)
    assert torch.autograd.gradgradcheck(length_and_direction, vectors)


def test_zero_vectors_have_length_direction_and_derivatives_zero(dtype):
    vectors = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    length, direction = length_and_direction(vectors)
    assert not length.any()
    assert not direction.any()
    (first,) = torch.autograd.grad(length.sum() + direction.sum(), vectors, create_graph=True)
    assert not first.any()
    (second,) = torch.autograd.grad(first.sum(), vectors, allow_unused=True)
    assert second is None or not second.any()
