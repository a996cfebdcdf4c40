"""A potential energy made of SE(3)-Transformer layers, and its forces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Fiber
from equivariant_attention.forces import energy_forces_stress
from equivariant_attention.graphs import as_graph, graph_of_node
from equivariant_attention.models.elements import LARGEST_ATOMIC_NUMBER
from equivariant_attention.modules import GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_sum

ENVELOPE = 6  # p of the smooth cutoff


class SE3Transformer(nn.Module):
    r"""Energy as a sum over edges, of what attention layers have learnt about the atoms.

    .. math:: E = \sum_{ij} u_{ij} \, \epsilon(m_{ij}), \qquad m_{ij} = \sum_k W^{0k}(x_i - x_j) \, f_j^k

    with the envelope u, a small network :math:`\epsilon` and the features f of the last attention layer. A sum, since
    energies grow with the number of neighbours, which means and attention do not show.

    Nothing in it jumps as atoms move: between the layers there is attention over channels (``selfint='att'``), and not
    GNormSE3 or GNormBias, whose outputs can jump where a scalar changes its sign.

    Args:
        num_layers: number of attention layers.
        num_channels: channels per degree.
        num_degrees: degrees 0 to ``num_degrees - 1``.
        div: what the channels are divided by for keys and values.
        n_heads: number of attention heads.
        x_ij: what becomes of relative positions: None, 'cat' or 'add' (see :class:`GConvSE3Partial`).
        cutoff: how far the edges of its graphs reach.
    """

    def __init__(
        self,
        num_layers: int = 2,
        num_channels: int = 8,
        num_degrees: int = 3,
        div: float = 2,
        n_heads: int = 2,
        x_ij: str | None = None,
        cutoff: float = 2.5,
    ) -> None:
        super().__init__()
        self.num_degrees, self.cutoff = num_degrees, cutoff
        fiber, fiber_mid = Fiber(1, num_channels), Fiber(num_degrees, num_channels)
        self.embedding = nn.Embedding(LARGEST_ATOMIC_NUMBER + 1, num_channels)
        self.layers = nn.ModuleList()
        for _ in range(num_layers):
            self.layers.append(GSE3Res(fiber, fiber_mid, div=div, n_heads=n_heads, selfint="att", x_ij=x_ij))
            fiber = fiber_mid
        width = 4 * num_channels
        self.messages = GConvSE3Partial(fiber, Fiber(1, width), x_ij=x_ij)
        self.head = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, G: Any, plan: Plan | None = None) -> Tensor:
        """Energies, ``[graphs]``.

        Args:
            G: graph with ``ndata['z']``, atomic numbers ``[atoms]``, ``edata['d']`` and, for a smooth cutoff,
                ``edata['envelope']`` ``[edges, 1]``.
            plan: of ``G`` if it is at hand; None to make it.
        """
        G = as_graph(G)
        basis, r = get_basis_and_r(G, self.num_degrees - 1, compute_gradients=True, plan=plan)
        h = {"0": self.embedding(G.ndata["z"]).unsqueeze(-1)}
        for layer in self.layers:
            h = layer(h, G=G, r=r, basis=basis)
        messages = self.messages(h, G=G, r=r, basis=basis)["0"].squeeze(-1)
        energies = G.edata.get("envelope", torch.ones_like(r)) * self.head(messages)
        _, dst = G.edges()
        return segment_sum(energies.squeeze(-1), graph_of_node(G)[dst.long()], G.batch_size)


def energy_and_forces(
    model: SE3Transformer, x: Tensor, z: Tensor, batch: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Energy and its negative gradient, which can be differentiated again unless gradients are switched off.

    Args:
        model: gives the energies of a graph.
        x: positions ``[atoms, 3]``.
        z: atomic numbers ``[atoms]``.
        batch: graph number of each atom, sorted; None for one graph.

    Returns:
        energies ``[graphs]`` and forces ``[atoms, 3]``.
    """
    found = energy_forces_stress(model, z, x, model.cutoff, batch, envelope=ENVELOPE)
    return found.energy, found.forces
