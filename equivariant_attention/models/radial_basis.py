"""Radial bases: a distance as several smooth numbers, which radial networks see beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..checks import check_positive, check_whole_number
from ..graphs import Graph, GraphLike, with_edge_fields
from ..plan import relative_positions
from ..so3.vectors import length_and_direction

RADIAL_BASES = (None, "bessel", "gaussian")


@dataclass(frozen=True)
class RadialBasis:
    r"""Functions of the distance r, for edges that reach as far as the cutoff c.

    .. math:: \text{bessel:} \quad \sqrt{2} \, \frac{\sin(n \pi r / c)}{r / c}, \quad n = 1 \ldots N \qquad
              \text{gaussian:} \quad \exp \Big( -\frac{(r - \mu_n)^2}{2 \sigma^2} \Big), \quad \mu_n = n \sigma,
              \; n = 0 \ldots N - 1, \; \sigma = \frac{c}{N - 1}

    (Bessel functions as in equation (7) of arXiv 2003.03123.) They are smooth; at r = 0 their derivatives are defined
    as 0.

    Args:
        name: 'bessel' or 'gaussian'.
        num_radial: N, at least 2.
        cutoff: c, finite and larger than 0.

    Raises:
        ValueError: an argument is not as above.
    """

    name: str
    num_radial: int
    cutoff: float

    def __post_init__(self) -> None:
        if self.name not in RADIAL_BASES[1:]:
            raise ValueError(f"radial_basis must be one of {RADIAL_BASES}, got {self.name!r}")
        check_whole_number(self.num_radial, 2, "num_radial")
        check_positive(self.cutoff, "cutoff")
        if self.cutoff == math.inf:
            raise ValueError(f"cutoff must be finite, got {self.cutoff}")

    def __call__(self, r: Tensor) -> Tensor:
        """Their values, ``[edges, N]``, at distances ``[edges, 1]``."""
        n = torch.arange(self.num_radial, dtype=r.dtype, device=r.device)
        if self.name == "bessel":
            n, x = n + 1, r * (math.pi / self.cutoff)
            is_zero = x == 0
            # Masked before the quotient, whose derivatives would be NaN.
            values = (n * x).sin() / x.masked_fill(is_zero, 1)
            return 2**0.5 * math.pi * torch.where(is_zero, n, values)
        scaled = r * ((self.num_radial - 1) / self.cutoff)
        return (-0.5 * (scaled - n).square()).exp()

    def on_edges(self, G: GraphLike, r: Tensor | None = None) -> Graph:
        """The graph with the values as further edge features, after those that it has in ``edata['w']``.

        Args:
            G: with ``edata['d']``; not touched.
            r: distances ``[edges, 1]``; None, the lengths of ``edata['d']``.

        Returns:
            a graph of the same fields otherwise.
        """
        if r is None:
            r, _ = length_and_direction(relative_positions(G))
        values = self(r)
        if "w" in G.edata:
            values = torch.cat([G.edata["w"].flatten(1).to(values.dtype), values], dim=1)
        new = with_edge_fields(G, {**G.edata, "w": values})
        new.ndata.update(G.ndata)
        return new
