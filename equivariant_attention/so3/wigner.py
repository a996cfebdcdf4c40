"""Rotations and how features of each degree turn under them."""

import torch
from torch import Tensor

from ..checks import check_trailing, check_whole_number
from ..precision import full_precision
from ..so3.constants import constant
from ..so3.couplings import real_clebsch_gordan


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
        with full_precision(rotation.device):
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


def aligning_matrices(max_degree: int, direction: Tensor) -> list[Tensor]:
    r"""Wigner-D matrices of :func:`aligning_rotation`, several times faster than :func:`wigner_matrices`.

    The shortest arc from u to y is half a turn about ``h = (u + y) / |u + y|`` and then half a turn S about y. (On the
    other side it is one about ``(u - y) / |u - y|``; half a turn about y and one about x make one about z.) A half
    turn is even in its axis and quadratic in it, so that of degree l is the product of a constant matrix and the
    harmonics of h of even degrees J up to 2l,

    .. math:: D^l = S^l \sum_J c_J^l \, C_J^l \cdot Y_J(h), \qquad
              c_J^l = (2J+1) \sum_m (-1)^m \, C_{J; m m 0}^l, \qquad Y_J(y) = (0, ..., 0, 1, 0, ..., 0)

    with :math:`C_J^l` the unit-norm coupling of degrees l and l to J. :math:`Y_J` is made of :math:`Y_{J-2}` and
    :math:`Y_2` by another.

    Args:
        max_degree: largest degree, at least 0.
        direction: unit vectors ``[..., 3]``, float32 or float64; gradients flow through.

    Returns:
        ``max_degree + 1`` tensors ``[..., 2l+1, 2l+1]``; where the direction is zero, 0 for l > 0.

    Raises:
        TypeError, ValueError: an argument has another type or shape. Lengths are not looked at.
    """
    check_whole_number(max_degree, 0, "max_degree")
    check_trailing(direction, (3,), "direction")
    kind = direction.dtype, direction.device
    rows = direction.reshape(-1, 3)
    x, y, z = rows.unbind(-1)  # many vectors in the last dimension make long loops
    above, below = ((y >= 0) & (rows != 0).any(-1)).to(direction.dtype), (y < 0).to(direction.dtype)
    side = above - below
    axis = torch.stack([side * x, side * y + 1, side * z])
    with full_precision(direction.device):
        harmonics = [torch.ones_like(axis[:1])]
        if max_degree:
            harmonics.append(_even_step(1, 1, *kind) @ _outer(axis / axis.square().sum(0), axis))
        for J in range(4, 2 * max_degree + 1, 2):
            harmonics.append(_even_step(J - 2, 2, *kind) @ _outer(harmonics[-1], harmonics[1]))
        on_each_side = _outer(torch.cat(harmonics), torch.stack([above, below]))
        matrices = [torch.ones_like(direction[..., :1, None])]
        for l in range(1, max_degree + 1):
            from_harmonics = _half_turns(l, *kind)
            matrix = on_each_side[: len(from_harmonics)].T @ from_harmonics
            matrices.append(matrix.view(*direction.shape[:-1], 2 * l + 1, 2 * l + 1))
    return matrices


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """All products of entries of two columns ``[m, rows]`` and ``[n, rows]``, ``[m n, rows]``."""
    return (a.unsqueeze(1) * b).flatten(0, 1)


@constant
def _even_step(l1: int, l2: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What makes the harmonics of degree l1 + l2 of the products of two others, ``[2 (l1 + l2) + 1, products]``."""
    C = torch.from_numpy(real_clebsch_gordan(l1, l2, l1 + l2))
    return (C / C[l1, l2, l1 + l2]).flatten(0, 1).T.contiguous().to(device, dtype)


@constant
def _half_turns(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What makes the matrix of a degree of even harmonics on either side, ``[2 x harmonics, (2l+1)^2]``."""
    about_y, about_z = (
        wigner_d(degree, torch.diag(torch.tensor(signs, dtype=torch.float64))).round()
        for signs in ([-1, 1, -1], [-1, -1, 1])
    )
    blocks = []
    for J in range(0, 2 * degree + 1, 2):
        C = torch.from_numpy(real_clebsch_gordan(degree, degree, J))
        half_turn = (2 * J + 1) * (about_y * C[:, :, J]).sum() * C
        both = [torch.einsum("ab,bcM->Mac", S, half_turn).flatten(1) for S in (about_y, about_z)]
        blocks.append(torch.stack(both, dim=1).flatten(0, 1))
    return torch.cat(blocks).to(device, dtype)


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
