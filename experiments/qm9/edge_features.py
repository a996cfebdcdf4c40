"""What radial networks see of an edge besides its length."""

from __future__ import annotations

import torch
from torch import Tensor

from experiments.qm9.molecules import BONDS
from experiments.qm9.targets import ELEMENTS

CENTRES, WIDTH = torch.linspace(0.9, 2.0, 12, dtype=torch.float64), 0.1  # Å, of the Gaussians: lengths of bonds
PAIRS = len(ELEMENTS) * (len(ELEMENTS) + 1) // 2


class EdgeFeatures:
    """Features of edges, the same both ways.

    Args:
        beyond_bonds: there are edges between atoms without a bond, for which there is a type, too.
        extended: which two elements it joins, and Gaussians of the length, not the type of the bond alone.

    Attributes:
        number: of features.
    """

    def __init__(self, beyond_bonds: bool, extended: bool) -> None:
        self._types = torch.eye(len(BONDS) + 1, dtype=torch.float64)[:, : len(BONDS) + beyond_bonds]
        self._extended = extended
        self.number = self._types.shape[1] + extended * (PAIRS + len(CENTRES))
        rank = torch.zeros(max(ELEMENTS) + 1, dtype=torch.int64)
        rank[[*ELEMENTS]] = torch.arange(len(ELEMENTS))
        low, high = torch.minimum(rank[:, None], rank), torch.maximum(rank[:, None], rank)
        self._pair = high * (high + 1) // 2 + low  # of atomic numbers

    def __call__(self, bond_type: Tensor, src: Tensor, dst: Tensor, d: Tensor) -> Tensor:
        """The features, float64 ``[edges, number]``.

        Args:
            bond_type: index into :data:`BONDS`, the next one where there is no bond, ``[edges]``.
            src, dst: atomic numbers of both ends, ``[edges]``.
            d: from one to the other, Å, ``[edges, 3]``.
        """
        types = self._types[bond_type.long()]
        if not self._extended:
            return types
        pairs = torch.nn.functional.one_hot(self._pair[src.long(), dst.long()], PAIRS)
        gaussians = torch.exp(-((d.norm(dim=1, keepdim=True) - CENTRES) ** 2) / (2 * WIDTH**2))
        return torch.cat([types, pairs.to(types), gaussians], dim=1)
