"""Which hand: a number for every atom, of an SE(3)-Transformer or of a network that knows distances alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.basis import BasisAndR
from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import G1x1SE3, GGate, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from experiments.chirality.data import ELEMENTS


class SE3Transformer(nn.Module):
    r"""Attention layers with gates, and a small network on scalars and triple products of vectors of each atom.

    .. math:: \mathrm{MLP}\big(f^0, \; (A f^1 \times B f^1) \cdot C f^1\big)

    Triple products do not turn with a molecule, but change their sign in a mirror. (So do some of the scalars: the
    messages from degree 1 to degree 1 that are of order J = 1 are cross products.)

    Args:
        num_layers: number of attention layers.
        num_channels: channels per degree.
        num_degrees: degrees 0 to ``num_degrees - 1``; with 1, all that the network knows of space are distances, and a
            molecule and its mirror image are the same to it.
        div: what the channels are divided by for keys and values.
        n_heads: number of attention heads.
    """

    def __init__(
        self, num_layers: int = 4, num_channels: int = 16, num_degrees: int = 2, div: float = 2, n_heads: int = 4
    ) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        fiber, fiber_mid = Fiber(1, len(ELEMENTS) + 1), Fiber(num_degrees, num_channels)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.extend([GSE3Res(fiber, fiber_mid, div=div, n_heads=n_heads), GGate(fiber_mid)])
            fiber = fiber_mid
        self.factors = G1x1SE3(fiber, Fiber(structure=[(3 * num_channels, 1)])) if num_degrees > 1 else None
        invariants = num_channels * (1 if self.factors is None else 2)
        self.head = nn.Sequential(nn.Linear(invariants, num_channels), nn.SiLU(), nn.Linear(num_channels, 1))

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """The log-odds of R against S, were the atom a stereocentre, ``[nodes]``.

        Args:
            G: graph with ``ndata['f']`` ``[nodes, 5, 1]`` and ``edata['d']`` ``[edges, 3]``.
            basis_and_r: of ``G`` if they are at hand; None to compute them.
            plan: of ``G`` if it is at hand, to compute them by; None to make it.
        """
        G = as_graph(G)
        basis, r = basis_and_r or get_basis_and_r(G, self.num_degrees - 1, plan=plan)
        h: Features = {"0": G.ndata["f"]}
        for layer in self.layers:
            h = layer(h, G=G, r=r, basis=basis)
        invariants = h["0"].squeeze(-1)
        if self.factors is not None:
            a, b, c = self.factors(h)["1"].chunk(3, dim=1)
            invariants = torch.cat([invariants, (torch.linalg.cross(a, b) * c).sum(-1)], dim=1)
        return self.head(invariants).squeeze(-1)
