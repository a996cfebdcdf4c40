"""Real spherical harmonics as polynomials of the unit vector, differentiable everywhere."""

import math

import torch
from torch import Tensor

from ..checks import check_trailing, check_whole_number


def spherical_harmonics(max_degree: int, direction: Tensor) -> Tensor:
    r"""Real spherical harmonics of degrees 0 to ``max_degree``, integrating to one over the sphere.

    .. math:: Y_{l,\pm m}(x, y, z) = N_{lm} \, P_l^{(m)}(y) \, \{\mathrm{Re}, \mathrm{Im}\} (z + i x)^m, \qquad
              \int_{S^2} Y_{lm} Y_{l'm'} = \delta_{ll'} \delta_{mm'}

    with :math:`P_l^{(m)}` the m-th derivative of the Legendre polynomial. Being polynomials, they have no pole:
    derivatives of any order are exact on the axes too.

    Args:
        max_degree: largest degree L, at least 0.
        direction: unit vectors ``[..., 3]``, float32 or float64. The vector 0 stands for "no direction": there
            :math:`Y_0 = 1/\sqrt{4\pi}` and all other degrees are 0, with derivatives 0.

    Returns:
        ``[..., (L + 1)^2]``; degree l takes the columns ``l^2`` to ``(l + 1)^2``, order m at ``l^2 + l + m``.

    Raises:
        TypeError, ValueError: an argument has another type or shape. Lengths are not looked at.
    """
    check_whole_number(max_degree, 0, "max_degree")
    check_trailing(direction, (3,), "direction")
    x, y, z = direction.unbind(-1)
    no_direction = (direction == 0).all(-1)
    # The recursions start from 1 where there is a direction and from 0 where there is none.
    start = torch.where(no_direction, torch.zeros_like(y), torch.ones_like(y))
    columns: list[Tensor] = [start] * (max_degree + 1) ** 2
    cosine, sine = start, torch.zeros_like(x)
    for m in range(max_degree + 1):
        if m:
            cosine, sine = z * cosine - x * sine, z * sine + x * cosine
        for degree, legendre in _legendre_derivatives(m, max_degree, y):
            scale = _normalisation(degree, m)
            columns[degree**2 + degree + m] = scale * legendre * cosine
            if m:
                columns[degree**2 + degree - m] = scale * legendre * sine
    columns[0] = torch.full_like(y, _normalisation(0, 0))
    return torch.stack(columns, dim=-1)


def _legendre_derivatives(m: int, max_degree: int, y: Tensor) -> list[tuple[int, Tensor]]:
    """``(l, P_l^(m)(y))`` for l = m .. max_degree, by the three-term recursion in l."""
    previous, current = torch.zeros_like(y), torch.full_like(y, float(math.prod(range(1, 2 * m, 2))))
    values = [(m, current)]
    for degree in range(m + 1, max_degree + 1):
        previous, current = (
            current,
            ((2 * degree - 1) * y * current - (degree + m - 1) * previous) / (degree - m),
        )
        values.append((degree, current))
    return values


def _normalisation(degree: int, m: int) -> float:
    ratio = math.factorial(degree - m) / math.factorial(degree + m)
    return math.sqrt((2 * degree + 1) / (4 * math.pi) * ratio * (2 if m else 1))
