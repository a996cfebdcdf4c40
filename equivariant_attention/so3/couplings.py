"""Clebsch-Gordan coefficients of the real basis, exact to the last bit of float64, once per process."""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..checks import check_whole_number
from ..so3.constants import constant

# The published basis agrees with e3nn's Wigner 3j symbols up to one sign per (degree_in, degree_out, J). Published
# weights were trained with these signs, so they are part of the interface. J runs from |k - l| to k + l.
_PUBLISHED_SIGNS = {
    (0, 0): "+", (0, 1): "+", (0, 2): "-", (0, 3): "-", (0, 4): "-",
    (1, 0): "+", (1, 1): "+-+", (1, 2): "+-+", (1, 3): "++-", (1, 4): "-+-",
    (2, 0): "-", (2, 1): "--+", (2, 2): "+----", (2, 3): "+-+--", (2, 4): "-+---",
    (3, 0): "-", (3, 1): "++-", (3, 2): "----+", (3, 3): "-++-+--", (3, 4): "----+-+",
    (4, 0): "-", (4, 1): "+--", (4, 2): "---++", (4, 3): "++-+---", (4, 4): "--+---+-+",
}  # fmt: skip


@constant
def coupling(
    degree_out: int,
    degree_in: int,
    J: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""The coupling :math:`Q_J^{lk}` of equation (8) of arXiv 2006.10503 with the published sign.

    Args:
        degree_out: l, at least 0.
        degree_in: k, at least 0.
        J: degree of the spherical harmonic, from ``|l - k|`` to ``l + k``.
        dtype, device: of the result; it is computed in float64.

    Returns:
        ``[2l+1, 2k+1, 2J+1]`` of unit Frobenius norm, such that ``sum_m Y_Jm(x) Q[:, :, m]`` maps degree k to
        degree l equivariantly. Cached: do not write to it.

    Raises:
        ValueError: a degree is not a whole number of at least 0, or J is not between ``|l - k|`` and ``l + k``.
    """
    check_whole_number(degree_out, 0, "degree_out")
    check_whole_number(degree_in, 0, "degree_in")
    if not isinstance(J, int) or not abs(degree_out - degree_in) <= J <= degree_out + degree_in:
        raise ValueError(f"J must lie between |l - k| and l + k for (l, k) = ({degree_out}, {degree_in}), got {J}")
    signed = published_sign(degree_in, degree_out, J) * real_clebsch_gordan(degree_out, degree_in, J)
    return torch.from_numpy(signed).to(device, dtype)


@constant
def aligned_coupling(
    degree_out: int,
    degree_in: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""What the basis of a pair of degrees is on an edge along the polar axis: it couples orders +m and -m alone.

    There :math:`W^{lk} = \sum_J R_J W_J^{lk}(y)` acts as :math:`w_0` on order 0, and on +m and -m as

    .. math:: \begin{pmatrix} a_m & b_m \\ -b_m & a_m \end{pmatrix}

    These ``F = 2 min(l, k) + 1`` numbers are linear in the F numbers :math:`R_J`: one basis of the SO(2)-equivariant
    maps for another. Convolutions that use it are the SO(2) convolutions of eSCN (arXiv 2302.03655).

    Args:
        degree_out, degree_in: l and k, at least 0.
        dtype, device: of the result; it is computed in float64.

    Returns:
        ``[F, F]``: rows ``w_0, a_1, b_1, a_2, b_2, ...``, columns J ascending. Cached: do not write to it.

    Raises:
        ValueError: a degree is not a whole number of at least 0.
    """
    check_whole_number(degree_out, 0, "degree_out")
    check_whole_number(degree_in, 0, "degree_in")
    l, k = degree_out, degree_in
    columns = []
    for J in range(abs(l - k), l + k + 1):
        W = math.sqrt((2 * J + 1) / (4 * math.pi)) * coupling(l, k, J)[:, :, J]
        column = [W[l, k]]
        for m in range(1, min(l, k) + 1):
            column += [W[l + m, k + m], W[l + m, k - m]]
        columns.append(torch.stack(column))
    return torch.stack(columns, dim=1).to(device, dtype)


def published_sign(degree_in: int, degree_out: int, J: int) -> int:
    """Sign of the published basis relative to the real Wigner 3j symbol: +1 or -1, and +1 beyond degree 4."""
    signs = _PUBLISHED_SIGNS.get((degree_in, degree_out))
    return -1 if signs and signs[J - abs(degree_in - degree_out)] == "-" else 1


@cache
def real_clebsch_gordan(l1: int, l2: int, l3: int) -> np.ndarray:
    """Coupling of degrees l1, l2 to l3, float64 ``[2 l1 + 1, 2 l2 + 1, 2 l3 + 1]`` of unit Frobenius norm."""
    complex_coupling = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            complex_coupling[l1 + m1, l2 + m2, l3 + m1 + m2] = _clebsch_gordan(l1, m1, l2, m2, l3)
    real = np.einsum(
        "abc,ai,bj,ck->ijk",
        complex_coupling,
        _real_to_complex(l1),
        _real_to_complex(l2),
        _real_to_complex(l3).conj(),
        optimize=True,
    ).real
    return np.ascontiguousarray(real)


def _clebsch_gordan(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Racah's formula for ``<l1 m1 l2 m2 | l3 m1+m2> / sqrt(2 l3 + 1)``, in integers up to the last two steps."""
    f = math.factorial
    m3 = m1 + m2
    a, b, c = l1 + l2 - l3, l3 + l1 - l2, l3 + l2 - l1
    total = 0
    for k in range(max(0, l1 - m1 - b, l2 + m2 - c), min(a, l1 - m1, l2 + m2) + 1):
        total += (-1) ** k * math.comb(a, k) * math.comb(b, l1 - m1 - k) * math.comb(c, l2 + m2 - k)
    numerator = f(l1 + m1) * f(l1 - m1) * f(l2 + m2) * f(l2 - m2) * f(l3 + m3) * f(l3 - m3)
    denominator = f(l1 + l2 + l3 + 1) * f(a) * f(b) * f(c)
    return math.copysign(math.sqrt(total**2 * numerator / denominator), total)


@cache
def _real_to_complex(degree: int) -> np.ndarray:
    """Unitary change of basis ``[2l+1 complex orders, 2l+1 real orders]``, with the phase that makes couplings real."""
    matrix = np.zeros((2 * degree + 1, 2 * degree + 1), dtype=np.complex128)
    matrix[degree, degree] = 1
    for m in range(1, degree + 1):
        matrix[degree - m, degree + m] = 1 / math.sqrt(2)
        matrix[degree - m, degree - m] = -1j / math.sqrt(2)
        matrix[degree + m, degree + m] = (-1) ** m / math.sqrt(2)
        matrix[degree + m, degree - m] = 1j * (-1) ** m / math.sqrt(2)
    return (-1j) ** degree * matrix
