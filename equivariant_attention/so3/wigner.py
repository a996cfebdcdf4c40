"""Rotations and how features of each degree turn under them."""

import torch
from torch import Tensor

from equivariant_attention.checks import check_trailing, check_whole_number
from equivariant_attention.so3.constants import constant
from equivariant_attention.so3.couplings import real_clebsch_gordan


def wigner_d(degree: int, rotation: Tensor) -> Tensor:
    """Wigner-D matrix of one degree: the last of :func:`wigner_matrices`.

    Args:
        degree: l, at least 0.
        rotation: orthogonal matrices ``[..., 3, 3]``, float32 or float64; gradients flow through.

    Returns:
        ``[..., 2l+1, 2l+1]`` with ``Y_l(R x) = D^l(R) Y_l(x)``.

    Raises:
        TypeError, ValueError: as :func:`wigner_matrices`.
    """
    check_whole_number(degree, 0, "degree")
    return wigner_matrices(degree, rotation)[-1]


def wigner_matrices(max_degree: int, rotation: Tensor) -> list[Tensor]:
    r"""Wigner-D matrices of degrees 0 to ``max_degree`` in the real basis, each from the one before.

    .. math:: D^l = (2l+1) \, C^T (D^{l-1} \otimes R) \, C, \qquad D^0 = 1, \; D^1 = R

    with C the unit-norm coupling of degrees l - 1 and 1 to l. A reflection is allowed: degree l then takes the factor
    :math:`(-1)^l`.

    Args:
        max_degree: largest degree, at least 0.
        rotation: orthogonal matrices ``[..., 3, 3]``, float32 or float64; gradients flow through.

    Returns:
        ``max_degree + 1`` tensors ``[..., 2l+1, 2l+1]``.

    Raises:
        TypeError, ValueError: an argument has another type or shape. That matrices are orthogonal is not looked at.
    """
    check_whole_number(max_degree, 0, "max_degree")
    check_trailing(rotation, (3, 3), "rotation")
    matrices = [torch.ones_like(rotation[..., :1, :1]), rotation]
    for l in range(2, max_degree + 1):
        C = _step(l, rotation.dtype, rotation.device)
        half = torch.einsum("...ab,bjk->...ajk", matrices[-1], C)
        half = torch.einsum("...ij,...ajk->...aik", rotation, half)
        matrices.append((2 * l + 1) * torch.einsum("ail,...aik->...lk", C, half))
    return matrices[: max_degree + 1]


@constant
def _step(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.from_numpy(real_clebsch_gordan(degree - 1, 1, degree)).to(device, dtype)


def aligning_rotation(direction: Tensor) -> Tensor:
    """Rotations that take each direction to the polar axis y.

    No such choice is continuous on the whole sphere. Where y >= 0 it is the shortest arc to +y, elsewhere the shortest
    arc to -y and then half a turn about x; no denominator is ever below one.

    Args:
        direction: unit vectors ``[..., 3]``; zero gives the identity.

    Returns:
        ``[..., 3, 3]``.

    Raises:
        TypeError, ValueError: ``direction`` has another type or shape.
    """
    check_trailing(direction, (3,), "direction")
    side = torch.where(direction[..., 1:2] < 0, -1, 1).to(direction.dtype)
    x, y, z = (side * direction).unbind(-1)
    shrink = 1 / (1 + y)
    arc = torch.stack(
        [
            1 - x * x * shrink, -x, -x * z * shrink,
            x, 1 - (x * x + z * z) * shrink, z,
            -x * z * shrink, -z, 1 - z * z * shrink,
        ],
        dim=-1,
    ).unflatten(-1, (3, 3))  # fmt: skip
    half_turn = torch.cat([torch.ones_like(side), side, side], dim=-1)
    return half_turn.unsqueeze(-1) * arc


def random_rotation(
    *shape: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Rotation matrices drawn uniformly from SO(3), as unit quaternions from a 4D Gaussian.

    Args:
        shape: how many, in any number of dimensions; none for a single matrix.
        generator, dtype, device: as of :func:`torch.randn`.

    Returns:
        ``[*shape, 3, 3]``.
    """
    quaternion = torch.randn(*shape, 4, generator=generator, dtype=dtype, device=device)
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))
