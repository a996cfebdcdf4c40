"""Particles that move in small steps, by accelerations that convolutions have learnt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import Graph, GraphLike, as_graph, graph_of_node, with_edge_fields
from equivariant_attention.modules import GConvSE3, GGate, get_basis_and_r
from equivariant_attention.segments import segment_mean

FIBER_IN = Fiber(structure=[(3, 0), (2, 1)])  # of _on_nodes
FIBER_OUT = Fiber(structure=[(1, 1)])  # the acceleration
EDGE_DIM = 5  # of _on_edges, where the relative velocity is a vector besides
FIBER_EDGE = Fiber(structure=[(1, 1)])
SOFTENING = 0.1  # of the distances that are divided by
TINY = 1e-12  # in roots, whose slope at 0 is infinite


class SE3Integrator(nn.Module):
    r"""Leapfrog integration of learnt accelerations, by the same layers in every step.

    .. math:: x \leftarrow x + \tfrac{h}{2} v, \qquad v \leftarrow v + h \, a_\theta(x, v), \qquad
              x \leftarrow x + \tfrac{h}{2} v

    The accelerations are means of messages (equation (8) of arXiv 2006.10503) on the graph as it then is. They are
    learnt from where the particles end alone, and so make good for what happens within a step.

    Args:
        num_layers: number of convolutions, with gates between them; 1 for a law of pairs.
        num_channels: channels per degree between them.
        num_degrees: degrees 0 to ``num_degrees - 1`` between them.
        num_steps: steps to the horizon.

    Attributes:
        horizon: the time that is predicted ahead, one number, 1 unless set; h is a ``num_steps``-th of it.
    """

    horizon: Tensor

    def __init__(self, num_layers: int, num_channels: int, num_degrees: int = 2, num_steps: int = 16) -> None:
        super().__init__()
        self.num_steps, self.max_degree = num_steps, max(num_degrees - 1, 1)
        self.layers, fiber = nn.ModuleList(), FIBER_IN
        options: dict[str, Any] = {"self_interaction": True, "edge_dim": EDGE_DIM, "f_edge": FIBER_EDGE}
        for _ in range(num_layers - 1):
            fiber_mid = Fiber(num_degrees, num_channels)
            self.layers.extend([GConvSE3(fiber, fiber_mid, **options), GGate(fiber_mid)])
            fiber = fiber_mid
        self.layers.append(GConvSE3(fiber, FIBER_OUT, **options))
        self.register_buffer("horizon", torch.ones(()))

    def forward(self, G: Any) -> Tensor:
        """Displacement and change of velocity, ``[particles, 2, 3]``.

        Args:
            G: graph with positions ``ndata['x']`` and velocities ``ndata['v']``, ``[particles, 1, 3]``, and strengths
                of the interactions ``edata['w']`` ``[edges, 1]``.
        """
        G = as_graph(G)
        start, h = torch.cat([G.ndata["x"], G.ndata["v"]], dim=1), self.horizon / self.num_steps
        x, v = start.unbind(1)
        for _ in range(self.num_steps):
            x = x + h / 2 * v
            v = v + h * self.acceleration(G, x, v)
            x = x + h / 2 * v
        return torch.stack([x, v], dim=1) - start

    def acceleration(self, G: Any, x: Tensor, v: Tensor) -> Tensor:
        """Of every particle, ``[particles, 3]``.

        Args:
            G: whose edges and strengths count.
            x, v: positions and velocities, ``[particles, 3]``.
        """
        graph = _on_edges(G, x, v)
        basis, r = get_basis_and_r(graph, self.max_degree, compute_gradients=True)
        features = _on_nodes(G, x, v)
        for layer in self.layers:
            features = layer(features, G=graph, r=r, basis=basis)
        return features["1"].squeeze(1)


def _on_nodes(G: GraphLike, x: Tensor, v: Tensor) -> Features:
    """The scalars 1, |v| and |x - mean|, the vectors v and x - mean."""
    owner = graph_of_node(G)
    centred = x - segment_mean(x, owner, G.batch_num_nodes())[owner]
    scalars = torch.stack([torch.ones_like(x[:, 0]), _length(v), _length(centred)], dim=1)
    return {"0": scalars.unsqueeze(-1), "1": torch.stack([v, centred], dim=1)}


def _on_edges(G: GraphLike, x: Tensor, v: Tensor) -> Graph:
    """The graph as it now is: strengths times 1, 1/r, 1/r^2; relative speed and its radial part; relative velocity."""
    src, dst = G.edges()
    d, relative, strength = x[dst] - x[src], v[dst] - v[src], G.edata["w"]
    inverse = (d.square().sum(-1, keepdim=True) + SOFTENING**2).rsqrt()
    radial = (relative * d).sum(-1, keepdim=True) * inverse
    w = [strength, strength * inverse, strength * inverse**2, _length(relative).unsqueeze(-1), radial]
    return with_edge_fields(G, {"d": d, "w": torch.cat(w, dim=1), "f1": relative.unsqueeze(1)})


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + TINY).sqrt()
