import math  # noqa: N999

import pytest
import torch

from equivariant_attention.from_se3cnn import SO3
from equivariant_attention.from_se3cnn.SO3 import irr_repr, rot, rot_y, rot_z, x_to_alpha_beta
from equivariant_attention.so3 import spherical_harmonics

ANGLES = torch.tensor([0.3, 1.1, -2.0], dtype=torch.float64)


def test_rotations_about_axes():
    x, y, z = torch.eye(3)
    torch.testing.assert_close(rot_z(math.pi / 2) @ x, y)
    torch.testing.assert_close(rot_y(math.pi / 2) @ z, x)
    torch.testing.assert_close(rot(0.1, 0.2, 0.3), rot_z(0.1) @ rot_y(0.2) @ rot_z(0.3))
    assert rot(*ANGLES).dtype == torch.float64
    assert rot(ANGLES, ANGLES, ANGLES).shape == (3, 3, 3)


def test_angles_of_points():
    points = torch.randn(5, 3, dtype=torch.float64)
    alpha, beta = x_to_alpha_beta(points)
    z = rot(alpha, beta, torch.zeros(5, dtype=torch.float64))[..., 2]
    torch.testing.assert_close(z, points / points.norm(dim=-1, keepdim=True))


@pytest.mark.parametrize("degree", range(4))
def test_representations_turn_harmonics(degree):
    """Points (x, y, z) of the graph are (z, x, y) in the axes of rot."""
    points, columns = torch.randn(5, 3, dtype=torch.float64), slice(degree**2, (degree + 1) ** 2)
    points = points / points.norm(dim=-1, keepdim=True)
    turned = (points[:, [2, 0, 1]] @ rot(*ANGLES).T)[:, [1, 2, 0]]
    D = irr_repr(degree, *ANGLES, dtype=torch.float64)
    expected = spherical_harmonics(degree, turned)[:, columns]
    torch.testing.assert_close(spherical_harmonics(degree, points)[:, columns] @ D.T, expected)
    assert irr_repr(degree, *ANGLES).dtype == torch.float32


def test_what_is_not_here_says_what_is():
    with pytest.raises(ImportError, match=r"no 'kron'.*equivariant_attention\.so3 has"):
        from equivariant_attention.from_se3cnn.SO3 import kron  # noqa: F401
    assert not hasattr(SO3, "__wrapped__")
