"""The published models for n-body systems: how far each particle moves, and how its velocity changes."""

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.basis import BasisAndR
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import GConvSE3, GNormBias, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan

EDGE_DIM = 1  # the interaction strength of the two particles
FIBER_OUT = Fiber(structure=[(2, 1)])  # displacement and change of velocity


class SE3Transformer(nn.Module):
    """SE(3)-Transformer: attention layers with norm biases, and an attention layer to two vectors.

    Args:
        num_layers: number of attention layers before the last.
        num_channels: channels per degree.
        num_degrees: degrees 0 to ``num_degrees - 1`` in the middle.
        div: what the channels are divided by for keys and values.
        n_heads: number of attention heads; at most 2 in the last layer.
        si_m: self-interaction of the middle layers, '1x1' or 'att'.
        si_e: self-interaction of the last layer, '1x1' or 'att'.
        x_ij: what becomes of relative positions: None, 'cat' or 'add' (see :class:`GConvSE3Partial`).
    """

    def __init__(
        self,
        num_layers: int,
        num_channels: int,
        num_degrees: int = 4,
        div: float = 4,
        n_heads: int = 1,
        si_m: str = "1x1",
        si_e: str = "att",
        x_ij: str | None = "add",
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        fiber, fiber_mid = Fiber(structure=[(1, 1)]), Fiber(num_degrees, num_channels)
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers.append(
                GSE3Res(fiber, fiber_mid, edge_dim=EDGE_DIM, div=div, n_heads=n_heads, selfint=si_m, x_ij=x_ij)
            )
            layers.append(GNormBias(fiber_mid))
            fiber = fiber_mid
        layers.append(
            GSE3Res(fiber, FIBER_OUT, edge_dim=EDGE_DIM, div=1, n_heads=min(n_heads, 2), selfint=si_e, x_ij=x_ij)
        )
        self.Gblock = nn.ModuleList(layers)

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """Displacement and change of velocity, ``[particles, 2, 3]``.

        Args:
            G: graph with ``ndata['v']`` ``[particles, 1, 3]``, ``edata['d']`` and ``edata['w']`` ``[edges, 1]``.
            basis_and_r: of ``G`` if they are at hand (see :func:`get_basis_and_r`); None to compute them.
            plan: of ``G`` if it is at hand, to compute them by; None to make it.
        """
        G = as_graph(G)
        basis, r = basis_and_r or get_basis_and_r(G, self.num_degrees - 1, plan=plan)
        h = {"1": G.ndata["v"]}
        for layer in self.Gblock:
            h = layer(h, G=G, r=r, basis=basis)
        return h["1"]


class TFN(nn.Module):
    """Tensor field network: convolutions with norm biases, and a convolution to two vectors.

    Args:
        num_layers: number of convolutions, the last included.
        num_channels: channels per degree.
        num_degrees: degrees 0 to ``num_degrees - 1`` in the middle.
    """

    def __init__(self, num_layers: int, num_channels: int, num_degrees: int = 4, **kwargs) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        fiber, fiber_mid = Fiber(2, 1), Fiber(num_degrees, num_channels)
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(GConvSE3(fiber, fiber_mid, self_interaction=True, edge_dim=EDGE_DIM, flavor="TFN"))
            layers.append(GNormBias(fiber_mid))
            fiber = fiber_mid
        layers.append(GConvSE3(fiber, FIBER_OUT, self_interaction=True, edge_dim=EDGE_DIM, flavor="TFN"))
        self.Gblock = nn.ModuleList(layers)
        self.register_load_state_dict_pre_hook(_drop_repeated_parameters)

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """Displacement and change of velocity, ``[particles, 2, 3]``.

        Args:
            G: graph with ``ndata['c']`` ``[particles, 1, 1]``, ``ndata['v']`` ``[particles, 1, 3]``, ``edata['d']`` and
                ``edata['w']`` ``[edges, 1]``.
            basis_and_r, plan: as of :class:`SE3Transformer`.
        """
        G = as_graph(G)
        basis, r = basis_and_r or get_basis_and_r(G, max(self.num_degrees - 1, 1), plan=plan)
        h = {"0": G.ndata["c"], "1": G.ndata["v"]}
        for layer in self.Gblock:
            h = layer(h, G=G, r=r, basis=basis)
        return h["1"]


def _drop_repeated_parameters(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
    """Published TFN checkpoints hold every parameter of ``Gblock`` a second time under ``enc``."""
    for name in [n for n in state_dict if n.startswith(f"{prefix}enc.")]:
        twin = state_dict.get(f"{prefix}Gblock.{name[len(prefix) + 4 :]}")
        if twin is not None and torch.equal(twin, state_dict[name]):
            del state_dict[name]
