"""Edges turned to the polar axis: the rotations, and what the basis is there."""

import pytest
import torch

from equivariant_attention.basis import get_basis
from equivariant_attention.graphs import Graph
from equivariant_attention.so3 import aligned_coupling, aligning_rotation, wigner_matrices

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


@pytest.mark.parametrize(("l", "k"), [(l, k) for l in range(6) for k in range(6)])
def test_the_basis_in_the_frame_is_the_aligned_coupling(l, k):
    u = directions()
    D = wigner_matrices(5, aligning_rotation(u))
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
