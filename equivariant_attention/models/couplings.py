"""Products of features of all degrees, channel by channel, and maps that mix what they give: body order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from ..printing import OneLine
from ..so3.constants import constant
from ..so3.couplings import real_clebsch_gordan

Path = tuple[int, int, int]


@cache
def paths(first: int, second: int, out: int, symmetric: bool = False) -> tuple[Path, ...]:
    r"""Which degrees (l, k) are coupled to which degree j, by j.

    Those of even :math:`l + k + j` alone: with harmonics of the edges, of which degree l changes by :math:`(-1)^l` in a
    mirror, all that is made so does as well, and energies are those of the mirror image.

    Args:
        first, second, out: largest degrees l, k and j.
        symmetric: whether both factors are the same; then each (l, k) is there once.
    """
    return tuple(
        (l, k, j)
        for j in range(out + 1)
        for l in range(first + 1)
        for k in range(second + 1)
        if abs(l - k) <= j <= l + k and (l + k + j) % 2 == 0 and not (symmetric and l > k)
    )


def coupled(a: Tensor, b: Tensor, ways: Sequence[Path]) -> Tensor:
    r"""Clebsch-Gordan products of features, channel by channel.

    .. math:: p^{(lk)j}_{m} = \sqrt{2j+1} \sum_{m_1 m_2} C^{lkj}_{m_1 m_2 m} \, a^l_{m_1} b^k_{m_2}

    Args:
        a, b: all degrees one after the other, ``[(L + 1)^2, rows, channels]``; channels may be 1 in one of them.
        ways: of :func:`paths`, up to the degrees of both.

    Returns:
        ``[components, rows, channels]``, path after path, 2 j + 1 components each.
    """
    Q = _matrix(tuple(ways), a.shape[0], b.shape[0], a.dtype, a.device)
    both = (a[:, None] * b[None]).flatten(0, 1)
    # One product of matrices: few of the couplings are zero enough to be left out.
    return (Q @ both.flatten(1)).unflatten(1, both.shape[1:])


@constant
def _matrix(ways: tuple[Path, ...], first: int, second: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The couplings side by side, ``[components, first * second]``."""
    rows = []
    for l, k, j in ways:
        Q = torch.zeros(2 * j + 1, first, second, dtype=torch.float64)
        coupling = math.sqrt(2 * j + 1) * torch.from_numpy(real_clebsch_gordan(l, k, j))
        Q[:, l**2 : (l + 1) ** 2, k**2 : (k + 1) ** 2] = coupling.permute(2, 0, 1)
        rows.append(Q.flatten(1))
    return torch.cat(rows).to(device, dtype)


class Mixed(OneLine):
    r"""Channels of all paths of a degree mixed: :math:`f^j \leftarrow \sum_{(lk)} W^{(lk)j} p^{(lk)j}`.

    Args:
        ways: of :func:`paths`; or a degree, for features of it and all below, each once.
        channels: of each path.
        channels_out: of each degree.
    """

    def __init__(self, ways: Sequence[Path] | int, channels: int, channels_out: int) -> None:
        super().__init__()
        degrees = range(ways + 1) if isinstance(ways, int) else [j for *_, j in ways]
        self.counts = [sum(j == degree for j in degrees) for degree in range(max(degrees) + 1)]
        self.weights = nn.ParameterList(
            torch.randn(count * channels, channels_out) / (count * channels) ** 0.5 for count in self.counts
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[components, rows, channels]``, as :func:`coupled` returns it, to ``[(J + 1)^2, rows, channels_out]``."""
        sizes = [count * (2 * j + 1) for j, count in enumerate(self.counts)]
        mixed = []
        for count, W, of_degree in zip(self.counts, self.weights, x.split(sizes), strict=True):
            side_by_side = of_degree.unflatten(0, (count, -1)).permute(1, 2, 0, 3).flatten(2)
            mixed.append(side_by_side @ W)
        return torch.cat(mixed)
