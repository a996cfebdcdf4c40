"""Rotations and how features of each degree turn under them."""

import torch
from torch import Tensor

from equivariant_attention.so3.couplings import real_clebsch_gordan


def wigner_d(degree: int, rotation: Tensor) -> Tensor:
    r"""Wigner-D matrix of a rotation in the real basis, from that of degree l - 1 coupled with degree 1.

    .. math:: D^l = (2l+1) \, C^T (D^{l-1} \otimes R) \, C, \qquad D^0 = 1, \; D^1 = R

    with C the unit-norm coupling of degrees l - 1 and 1 to l. A reflection is allowed: degree l then takes the factor
    :math:`(-1)^l`.

    Args:
        degree: l, at least 0.
        rotation: orthogonal matrices ``[..., 3, 3]``, float32 or float64; gradients flow through.

    Returns:
        ``[..., 2l+1, 2l+1]`` with :math:`Y_l(R x) = D^l(R) Y_l(x)`.
    """
    if degree == 0:
        return torch.ones_like(rotation[..., :1, :1])
    matrix = rotation
    for l in range(2, degree + 1):
        C = torch.from_numpy(real_clebsch_gordan(l - 1, 1, l)).to(rotation)
        half = torch.einsum("...ab,bjk->...ajk", matrix, C)
        matrix = (2 * l + 1) * torch.einsum("...ajk,...ij,ail->...lk", half, rotation, C)
    return matrix


def random_rotation(
    *shape: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Rotation matrices ``[*shape, 3, 3]`` drawn uniformly from SO(3), as unit quaternions from a 4D Gaussian."""
    quaternion = torch.randn(*shape, 4, generator=generator, dtype=dtype, device=device)
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))
