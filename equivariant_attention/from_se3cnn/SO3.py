"""Rotations by Euler angles, in axes of their own: features (x, y, z) of degree 1 are (y, z, x) there."""  # noqa: N999

from __future__ import annotations

import torch
from torch import Tensor

from ..so3 import wigner_d
from ..so3.vectors import length_and_direction
from .missing import told_of_missing

Angle = float | Tensor


def rot_z(angle: Angle) -> Tensor:
    """The rotation by an angle about z, ``[..., 3, 3]``."""
    c, s, zero, one = _entries(angle)
    return _matrix([c, -s, zero], [s, c, zero], [zero, zero, one])


def rot_y(angle: Angle) -> Tensor:
    """The rotation by an angle about y, ``[..., 3, 3]``."""
    c, s, zero, one = _entries(angle)
    return _matrix([c, zero, s], [zero, one, zero], [-s, zero, c])


def rot(alpha: Angle, beta: Angle, gamma: Angle) -> Tensor:
    """The rotation by gamma about z, then by beta about y, then by alpha about z, ``[..., 3, 3]``."""
    return rot_z(alpha) @ rot_y(beta) @ rot_z(gamma)


def x_to_alpha_beta(x: Tensor) -> tuple[Tensor, Tensor]:
    """Angles of a point ``[..., 3]``: ``rot(alpha, beta, 0)`` takes z to its direction."""
    _, direction = length_and_direction(torch.as_tensor(x))
    return torch.atan2(direction[..., 1], direction[..., 0]), torch.acos(direction[..., 2].clamp(-1, 1))


def irr_repr(order: int, alpha: Angle, beta: Angle, gamma: Angle, dtype: torch.dtype | None = None) -> Tensor:
    """How features of a degree turn under ``rot(alpha, beta, gamma)``, ``[..., 2 order + 1, 2 order + 1]``."""
    to_features = [1, 2, 0]
    matrix = wigner_d(order, rot(alpha, beta, gamma)[..., to_features, :][..., to_features])
    return matrix.to(dtype or torch.get_default_dtype())


def _entries(angle: Angle) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    angle = torch.as_tensor(angle, dtype=None if isinstance(angle, Tensor) else torch.get_default_dtype())
    return angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)


def _matrix(*rows: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


__getattr__ = told_of_missing(
    "from_se3cnn.SO3",
    "rot, rot_z, rot_y, x_to_alpha_beta and irr_repr; equivariant_attention.so3 has spherical_harmonics, wigner_d and "
    "random_rotation",
)
