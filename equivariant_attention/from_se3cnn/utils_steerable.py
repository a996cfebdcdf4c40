"""Spherical coordinates, harmonics and couplings as the published code names them, with this library's signs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..checks import check_trailing, check_whole_number
from ..so3 import coupling, spherical_harmonics
from .missing import told_of_missing


def get_spherical_from_cartesian_torch(cartesian: Tensor, divide_radius_by: float = 1.0) -> Tensor:
    """Radius, longitude alpha (from z towards x) and angle beta from y of points ``[..., 3]``, in ``[..., 3]``."""
    check_trailing(cartesian, (3,), "cartesian")
    x, y, z = cartesian.unbind(-1)
    radius = cartesian.square().sum(-1).sqrt() / divide_radius_by
    return torch.stack([radius, torch.atan2(x, z), torch.atan2(torch.hypot(z, x), y)], dim=-1)


def get_spherical_from_cartesian(cartesian: np.ndarray, divide_radius_by: float = 1.0) -> np.ndarray:
    """:func:`get_spherical_from_cartesian_torch` of an array."""
    points = torch.from_numpy(np.asarray(cartesian, dtype=np.float64))
    return get_spherical_from_cartesian_torch(points, divide_radius_by).numpy()


def precompute_sh(r_ij: Tensor, max_J: int) -> dict[int, Tensor]:
    """Harmonics of degrees J up to ``max_J``, ``{J: [..., 2J+1]}``, :math:`(-1)^J` times this library's, as published.

    Args:
        r_ij: radius, alpha and beta, ``[..., 3]``, from :func:`get_spherical_from_cartesian_torch`.
        max_J: at least 0.
    """
    check_trailing(r_ij, (3,), "r_ij")
    _, alpha, beta = r_ij.unbind(-1)
    direction = torch.stack([beta.sin() * alpha.sin(), beta.cos(), beta.sin() * alpha.cos()], dim=-1)
    values = spherical_harmonics(max_J, direction)
    return {J: (-1) ** J * values[..., J**2 : (J + 1) ** 2] for J in range(max_J + 1)}


def _basis_transformation_Q_J(J: int, order_in: int, order_out: int, version: int = 3) -> Tensor:
    """The coupling Q_J, ``[(2 order_out + 1)(2 order_in + 1), 2J+1]``, that makes this library's basis of those."""
    check_whole_number(version, 0, "version")
    return ((-1) ** J * coupling(order_out, order_in, J)).flatten(0, 1).to(torch.get_default_dtype())


__getattr__ = told_of_missing(
    "from_se3cnn.utils_steerable",
    "get_spherical_from_cartesian, get_spherical_from_cartesian_torch, precompute_sh and _basis_transformation_Q_J; "
    "equivariant_attention.basis has get_basis, equivariant_attention.so3 has spherical_harmonics and coupling",
)
