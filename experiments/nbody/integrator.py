"""Particles that move in a few steps, by accelerations that convolutions have learnt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import Graph, GraphLike, as_graph, graph_of_node, with_edge_fields
from equivariant_attention.modules import G1x1SE3, GConvSE3, GGate, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_mean

FIBER_IN = Fiber(structure=[(3, 0), (2, 1)])  # of _on_nodes
FIBER_OUT = Fiber(structure=[(2, 1)])  # the acceleration, and what the displacement lacks
EDGE_DIM = 9  # of _on_edges, where the relative velocity is a vector besides
FIBER_EDGE = Fiber(structure=[(1, 1)])
SMALL = 0.1  # of forces before the training, which so begins near motion along straight lines
TINY = 1e-6  # in roots, whose slope at 0 is infinite


class SE3Integrator(nn.Module):
    r"""Leapfrog integration of learnt accelerations.

    .. math:: x \leftarrow x + \tfrac{h}{2} v, \qquad v \leftarrow v + h \, a(x, v), \qquad
              x \leftarrow x + \tfrac{h}{2} v + h^2 \, b(x, v)

    Accelerations a and corrections b, since much happens within a step, come from convolutions with gates on the graph
    as it then is. Steps share no weights, and learn from where the particles end alone.

    Args:
        num_layers: number of convolutions in a step.
        num_channels: channels of each degree above 0 between them, and half of those of degree 0.
        num_degrees: degrees 0 to ``num_degrees - 1`` between them, at least 2.
        num_steps: steps to the horizon.

    Attributes:
        horizon: the time that is predicted ahead, one number, 1 unless set; h is a ``num_steps``-th of it.

    Raises:
        ValueError: ``num_degrees`` is 1.
    """

    horizon: Tensor

    def __init__(self, num_layers: int, num_channels: int, num_degrees: int = 2, num_steps: int = 4) -> None:
        super().__init__()
        if num_degrees < 2:
            raise ValueError(f"num_degrees: expected at least 2, as accelerations are vectors, got {num_degrees}")
        self.max_degree = num_degrees - 1
        fiber = Fiber({0: 2 * num_channels, **dict.fromkeys(range(1, num_degrees), num_channels)})
        self.steps = nn.ModuleList([_layers(num_layers, fiber) for _ in range(num_steps)])
        self.register_buffer("horizon", torch.ones(()))

    def forward(self, G: Any, plan: Plan | None = None) -> Tensor:
        """Displacement and change of velocity, ``[particles, 2, 3]``.

        Args:
            G: graph with positions ``ndata['x']`` and velocities ``ndata['v']``, ``[particles, 1, 3]``, and strengths
                of the interactions ``edata['w']`` ``[edges, 1]``.
            plan: of ``G`` if it is at hand; it holds as the particles move, unless two of them are in one place. None
                makes it in every step.
        """
        G = as_graph(G)
        start, h = torch.cat([G.ndata["x"], G.ndata["v"]], dim=1), self.horizon / len(self.steps)
        x, v = start.unbind(1)
        for layers in self.steps:
            x = x + h / 2 * v
            acceleration, correction = self._forces(layers, G, x, v, plan)
            v = v + h * acceleration
            x = x + h / 2 * v + h**2 * correction
        return torch.stack([x, v], dim=1) - start

    def _forces(
        self, layers: nn.ModuleList, G: GraphLike, x: Tensor, v: Tensor, plan: Plan | None
    ) -> tuple[Tensor, ...]:
        """Accelerations and corrections of all particles, ``[particles, 3]`` each."""
        graph, features = _on_edges(G, x, v), _on_nodes(G, x, v)
        basis, r = get_basis_and_r(graph, self.max_degree, compute_gradients=True, plan=plan)
        for layer in layers:
            features = layer(features, G=graph, r=r, basis=basis)
        return features["1"].unbind(1)


def _layers(num_layers: int, fiber: Fiber) -> nn.ModuleList:
    """Of one step, from ``FIBER_IN`` to ``FIBER_OUT``."""
    layers, fiber_in = nn.ModuleList(), FIBER_IN
    for _ in range(num_layers):
        layers.append(GConvSE3(fiber_in, fiber, self_interaction=True, edge_dim=EDGE_DIM, f_edge=FIBER_EDGE))
        layers.append(GGate(fiber))
        fiber_in = fiber
    last = G1x1SE3(fiber, FIBER_OUT)
    with torch.no_grad():
        last.transform["1"].mul_(SMALL)
    return layers.append(last)


def _on_nodes(G: GraphLike, x: Tensor, v: Tensor) -> Features:
    """The scalars 1, |v| and |x - mean|, the vectors v and x - mean."""
    owner = graph_of_node(G)
    centred = x - segment_mean(x, owner, G.batch_num_nodes())[owner]
    scalars = torch.stack([torch.ones_like(x[:, 0]), _length(v), _length(centred)], dim=1)
    return {"0": scalars.unsqueeze(-1), "1": torch.stack([v, centred], dim=1)}


def _on_edges(G: GraphLike, x: Tensor, v: Tensor) -> Graph:
    """The graph as it now is.

    Scalars are the strength, its products with 1/r, 1/r^2 and another that stays small; the logarithm of r; relative
    speed, its radial part, and the energy and angular momentum that make up the orbit of a pair by itself. Where they
    would grow without bound at r = 0, they are bent.
    """
    src, dst = G.edges()
    d, relative, strength = x[dst] - x[src], v[dst] - v[src], G.edata["w"]
    square, speed_squared = d.square().sum(-1, keepdim=True), relative.square().sum(-1, keepdim=True)
    product = (d * relative).sum(-1, keepdim=True)
    inverse = (square + 0.01).rsqrt()
    w = [
        strength, strength * inverse, strength * inverse**2, strength / (square + 0.25), (square + 0.0025).log() / 2,
        (speed_squared + TINY).sqrt(), product * inverse, torch.tanh((speed_squared / 4 + strength * inverse) / 3),
        ((square * speed_squared - product**2).clamp_min(0) + TINY).sqrt(),
    ]  # fmt: skip
    return with_edge_fields(G, {"d": d, "w": torch.cat(w, dim=1), "f1": relative.unsqueeze(1)})


def _length(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1) + TINY).sqrt()
