"""Edges turned to the polar axis: the rotations, and what the basis is there."""

import pytest
import torch

from equivariant_attention.basis import get_basis
from equivariant_attention.graphs import Graph
from equivariant_attention.so3 import aligned_coupling, aligning_matrices, aligning_rotation, wigner_matrices
from equivariant_attention.so3.vectors import length_and_direction

AXIS = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)


def directions():
    axes = torch.eye(3, dtype=torch.float64)
    near = torch.nn.functional.normalize(axes.roll(1, 0) + 1e-9 * axes, dim=-1)
    return torch.cat(
        [torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1), axes, -axes, near, -near]
    )


def test_every_direction_is_taken_to_the_axis_by_a_rotation():
    u = directions()
    R = aligning_rotation(u)
    torch.testing.assert_close(R @ u.unsqueeze(-1), AXIS.expand_as(u).unsqueeze(-1), rtol=0, atol=1e-15)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=torch.float64).expand_as(R), rtol=0, atol=1e-15)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(len(u), dtype=torch.float64))


def test_matrices_are_those_of_the_rotation(dtype):
    u = directions().to(dtype)
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    for found, expected in zip(aligning_matrices(6, u), wigner_matrices(6, aligning_rotation(u)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        assert found.is_contiguous()
    grid = u[:60].view(3, 4, 5, 3)
    assert torch.equal(aligning_matrices(2, grid)[2].flatten(0, 2), aligning_matrices(2, u[:60])[2])
    assert [matrix.shape for matrix in aligning_matrices(2, u[0])] == [(1, 1), (3, 3), (5, 5)]


def test_no_direction_has_matrices_that_are_zero():
    u = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    one, *others = aligning_matrices(3, u)
    assert torch.equal(one, torch.ones(2, 1, 1, dtype=torch.float64))
    assert not any(matrix.any() for matrix in others)
    (gradient,) = torch.autograd.grad(sum(matrix.square().sum() for matrix in others), u)
    assert torch.equal(gradient, torch.zeros_like(u))


def test_derivatives_are_those_of_the_rotation():
    d = (1.5 * directions()).requires_grad_()
    weights = [torch.randn(2 * l + 1, 2 * l + 1, dtype=torch.float64) for l in range(4)]

    def first_and_second(matrices):
        found = zip(weights, matrices(length_and_direction(d)[1]), strict=True)
        total = sum((w * matrix).sum((1, 2)).square().sum() for w, matrix in found)
        (first,) = torch.autograd.grad(total, d, create_graph=True)
        return first.detach(), torch.autograd.grad(first.square().sum(), d)[0]

    found = first_and_second(lambda u: aligning_matrices(3, u))
    expected = first_and_second(lambda u: wigner_matrices(3, aligning_rotation(u)))
    for value, expected_value in zip(found, expected, strict=True):
        torch.testing.assert_close(value, expected_value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("l", "k"), [(l, k) for l in range(6) for k in range(6)])
def test_the_basis_in_the_frame_is_the_aligned_coupling(l, k):
    u = directions()
    D = aligning_matrices(5, u)
    ends = torch.zeros(len(u), dtype=torch.int64)
    G = Graph(ends, ends)
    G.edata["d"] = u
    W = get_basis(G, 5)[f"{k},{l}"][:, 0, :, 0]
    found = torch.einsum("eap,epqf,ebq->eabf", D[l], W, D[k])
    T = aligned_coupling(l, k)
    expected = torch.zeros(2 * l + 1, 2 * k + 1, 2 * min(l, k) + 1, dtype=torch.float64)
    expected[l, k] = T[0]
    for m in range(1, min(l, k) + 1):
        a, b = T[2 * m - 1], T[2 * m]
        expected[l + m, k + m], expected[l - m, k - m] = a, a
        expected[l + m, k - m], expected[l - m, k + m] = b, -b
    torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=1e-14)


def test_no_direction_gives_the_identity():
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    R = aligning_rotation(zero)
    assert torch.equal(R[0], torch.eye(3, dtype=torch.float64))
