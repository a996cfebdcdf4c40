"""Iterative SE(3)-Transformers (arXiv 2102.13419): points that move a few times to a configuration of low energy."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import as_graph, edge_subgraph, with_edge_fields
from equivariant_attention.modules import GGate, GNormBias, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_mean, segment_size

SEEN = Fiber(2, 2)  # of what blocks of SE3TransformerRelaxation see, see `surroundings`
LONGEST_STEP = 0.5  # of theirs; the points of a graph are about as far apart


def pair_potential(r: Tensor, parameter: Tensor) -> Tensor:
    """Double well :math:`V = u^4 - u^2 + u / 10 + 0.321919`, :math:`u = r - a - 1`, whose minimum is 0.

    Args:
        r: distances, any shape.
        parameter: a, the same shape.
    """
    u = r - parameter - 1
    square = u.square()
    # Not u**4, which rounds equal numbers differently: both directions of an edge are to have the same.
    return square.square() - square + u / 10 + 0.321919


def potential_slope(r: Tensor, parameter: Tensor) -> Tensor:
    """Derivative of :func:`pair_potential`, :math:`V' = 4 u^3 - 2 u + 1 / 10`, :math:`u = r - a - 1`.

    Args:
        r: distances, any shape.
        parameter: a, the same shape.
    """
    u = r - parameter - 1
    return 4 * u**3 - 2 * u + 0.1


def well(r: Tensor, parameter: Tensor) -> Tensor:
    r"""What there is to know of a pair's potential at distance r: a, V, V' / 4 and V'' / 12, side by side.

    All but a are :func:`bounded`: they grow like r^4, and would hide what pairs near their minimum have to say.

    Args:
        r: distances, ``[edges, 1, 1]``.
        parameter: a, the same shape.

    Returns:
        ``[edges, 4, 1]``.
    """
    curvature = 12 * (r - parameter - 1) ** 2 - 2
    unbounded = (pair_potential(r, parameter), potential_slope(r, parameter) / 4, curvature / 12)
    return torch.cat([parameter, *map(bounded, unbounded)], dim=1)


def bounded(vectors: Tensor, limit: float = 1) -> Tensor:
    r"""Vectors :math:`v / \sqrt{1 + |v|^2 / c^2}`, as they are where they are short, and never longer than c.

    Args:
        vectors: v, ``[..., n]``.
        limit: c.
    """
    return vectors / (1 + (vectors / limit).square().sum(-1, keepdim=True)).sqrt()


def surroundings(graph: Any, w: Tensor, steps: Sequence[Tensor]) -> Features:
    r"""What each point knows of where it is: a one and the mean potential of its edges; the mean force on it,

    .. math:: F_i = -\tfrac{1}{n_i} \sum_j V'(r_{ij}) (x_i - x_j) / r_{ij},

    :func:`bounded`, with nothing from points in the same place; and the last step.

    Args:
        graph: of the points.
        w: of its edges, by :func:`well`.
        steps: of the points, ``[points, 1, 3]`` each.

    Returns:
        of fiber ``SEEN``.
    """
    r, (_, dst) = graph.edata["r"], graph.edges()
    dst, size = dst.long(), segment_size(dst.long(), graph.num_nodes())
    slope = potential_slope(r, graph.edata["potential_parameters"])
    force = bounded(segment_mean(-slope * graph.edata["d"] / torch.where(r > 0, r, 1), dst, size))
    scalars = torch.cat([graph.ndata["ones"], segment_mean(w[:, 1:2], dst, size)], dim=1)
    return {"0": scalars, "1": torch.cat([force, steps[-1] if steps else torch.zeros_like(force)], dim=1)}


class Iterative(nn.Module):
    """Blocks of layers; after each, the points move and the graph is refreshed. Subclasses tell what a block does."""

    blocks: nn.ModuleList

    def forward(self, G: Any, plan: Plan | None = None) -> tuple[Any, list[Tensor]]:
        """Move the points.

        Args:
            G: graph with ``ndata['x']`` ``[points, 1, 3]``, ``ndata['ones']`` ``[points, 1, 1]``, ``edata['d']``
                ``[edges, 1, 3]``, ``edata['w']`` and ``edata['potential_parameters']`` ``[edges, 1, 1]``.
            plan: of ``G`` if it is at hand; it holds as the points move, unless two of them are in one place. None
                makes it in every block.

        Returns:
            ``G`` itself, with ``ndata['x']``, ``edata['d']``, ``edata['r']`` and ``edata['w']`` after the last step and
            ``ndata['update_norm_I']`` ``[points, 1, 1]``, how far each point went in step I; and the steps, a list of
            ``[points, 1, 3]``.
        """
        graph = as_graph(G)
        features: Features | None = None
        steps: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            features, step = self.run_block(block, features, graph, steps, plan)
            steps.append(step)
            move(graph, step)
            graph.ndata[f"update_norm_{i}"] = step.norm(dim=-1, keepdim=True)
        return G, steps

    def run_block(
        self, block: Any, features: Features | None, graph: Any, steps: list[Tensor], plan: Plan | None
    ) -> tuple[Features, Tensor]:
        """The features after a block, and the step that it takes.

        Args:
            block: one of ``self.blocks``.
            features: after the block before; None before the first.
            graph: of the points where they are now.
            steps: that were taken before.
            plan: of the graph, or None.
        """
        raise NotImplementedError


class SE3TransformerIterative(Iterative):
    """Blocks of SE(3)-Transformer layers; after each, the points move and the graph is refreshed.

    Args:
        num_layers: number of attention layers per block.
        num_degrees: degrees 0 to ``num_degrees - 1``.
        num_channels: channels per degree.
        div: what the channels are divided by for keys and values.
        n_heads: number of attention heads.
        num_iter: number of blocks; they share no weights.
        si_m: self-interaction of the middle layers, '1x1' or 'att'.
        si_e: self-interaction of the last layer, '1x1' or 'att'.
        x_ij: what becomes of relative positions: None, 'cat' or 'add' (see :class:`GConvSE3Partial`).
        compute_gradients: let gradients flow through the spherical harmonics of every step.
        k_neighbors: if given, each node attends to this many incoming edges of largest potential, where it has more.
    """

    def __init__(
        self,
        num_layers: int,
        num_degrees: int = 4,
        num_channels: int = 4,
        div: float = 4,
        n_heads: int = 1,
        num_iter: int = 3,
        si_m: str = "1x1",
        si_e: str = "att",
        x_ij: str | None = "add",
        compute_gradients: bool = True,
        k_neighbors: int | None = None,
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        self.compute_gradients, self.k_neighbors = compute_gradients, k_neighbors
        middle = {"edge_dim": 1, "div": div, "n_heads": n_heads, "selfint": si_m, "x_ij": x_ij}
        last = {"edge_dim": 1, "div": 1, "n_heads": 1, "selfint": si_e, "x_ij": x_ij}
        fiber, fiber_mid, fiber_out = Fiber(1, 1), Fiber(num_degrees, num_channels), Fiber(structure=[(1, 1)])
        self.blocks = nn.ModuleList()
        for i in range(num_iter):
            block = nn.ModuleList()
            for _ in range(num_layers):
                block.extend([GSE3Res(fiber, fiber_mid, **middle), GNormBias(fiber_mid)])
                fiber = fiber_mid
            if i == num_iter - 1:
                block.append(GSE3Res(fiber, fiber_out, **last))
            self.blocks.append(block)

    def run_block(
        self, block: Any, features: Features | None, graph: Any, steps: list[Tensor], plan: Plan | None
    ) -> tuple[Features, Tensor]:
        """See :meth:`Iterative.run_block`; the step is the first vector of each node."""
        if self.k_neighbors is not None:
            graph = strongest_neighbors(graph, self.k_neighbors)
            plan = plan and Plan.unpaired(graph)
        basis, r = get_basis_and_r(graph, self.num_degrees - 1, compute_gradients=self.compute_gradients, plan=plan)
        features = features or {"0": graph.ndata["ones"]}
        for layer in block:
            features = layer(features, G=graph, r=r, basis=basis)
        return features, features["1"][:, :1]


class SE3TransformerRelaxation(Iterative):
    r"""Gated blocks that see what gradient descent sees, and take bounded steps.

    Layers see of an edge what :func:`well` says. A block begins with the features after the one before and what
    :func:`surroundings` says, and ends with a layer to one vector. The step is a tenth of it, :func:`bounded` by 1/2:
    an untrained model, whose vectors are several times as long as the points are apart, leaves them about where they
    are.

    Args:
        num_layers: number of attention layers per block, before the one to a vector.
        num_degrees: degrees 0 to ``num_degrees - 1``, at least 2.
        num_channels: channels per degree.
        div: what the channels are divided by for keys and values.
        n_heads: number of attention heads.
        num_iter: number of blocks; they share no weights.
        x_ij: what becomes of relative positions: None, 'cat' or 'add' (see :class:`GConvSE3Partial`).
        compute_gradients: let gradients flow through the spherical harmonics of every step.
    """

    def __init__(
        self,
        num_layers: int,
        num_degrees: int = 2,
        num_channels: int = 16,
        div: float = 2,
        n_heads: int = 4,
        num_iter: int = 10,
        x_ij: str | None = "add",
        compute_gradients: bool = True,
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees, self.compute_gradients = num_degrees, compute_gradients
        self.middle = Fiber(num_degrees, num_channels)
        self.blocks = nn.ModuleList()
        for i in range(num_iter):
            fiber = Fiber.combine(SEEN, self.middle) if i else SEEN
            block = nn.ModuleList()
            for _ in range(num_layers):
                block.append(GSE3Res(fiber, self.middle, edge_dim=4, div=div, n_heads=n_heads, x_ij=x_ij))
                block.append(GGate(self.middle))
                fiber = self.middle
            block.append(GSE3Res(fiber, Fiber(structure=[(1, 1)]), edge_dim=4, div=1, n_heads=1, x_ij=x_ij))
            self.blocks.append(block)

    def run_block(
        self, block: Any, features: Features | None, graph: Any, steps: list[Tensor], plan: Plan | None
    ) -> tuple[Features, Tensor]:
        """See :meth:`Iterative.run_block`."""
        w = well(graph.edata["r"], graph.edata["potential_parameters"])
        seen = surroundings(graph, w, steps)
        features = seen if features is None else Fiber.combine_fibers(seen, SEEN, features, self.middle)
        graph = with_edge_fields(graph, {"d": graph.edata["d"], "w": w})
        basis, r = get_basis_and_r(graph, self.num_degrees - 1, compute_gradients=self.compute_gradients, plan=plan)
        *layers, to_vector = block
        for layer in layers:
            features = layer(features, G=graph, r=r, basis=basis)
        return features, bounded(to_vector(features, G=graph, r=r, basis=basis)["1"] / 10, LONGEST_STEP)


def move(graph: Any, step: Tensor) -> None:
    """Move the points by ``step`` ``[points, 1, 3]`` and refresh ``x``, ``d``, ``r`` and ``w`` on the graph."""
    src, dst = graph.edges()
    graph.ndata["x"] = graph.ndata["x"] + step
    graph.edata["d"] = graph.ndata["x"][dst] - graph.ndata["x"][src]
    graph.edata["r"] = graph.edata["d"].square().sum(-1, keepdim=True).sqrt()
    graph.edata["w"] = pair_potential(graph.edata["r"], graph.edata["potential_parameters"])


def strongest_neighbors(graph: Any, k: int) -> Any:
    """The graph with, per node, its ``k`` incoming edges of largest ``edata['w']`` (all, where it has fewer).

    Every node must have as many incoming edges as the others: how many edges are left is known without a look at them.
    """
    _, dst = graph.edges()
    incoming = graph.num_edges() // graph.num_nodes()
    equal = (segment_size(dst.long(), graph.num_nodes()) == incoming).all()
    torch._assert_async(equal, "graph must have as many incoming edges at every node as at the others")
    edges = dst.argsort(stable=True).view(-1, incoming)
    by_potential = graph.edata["w"].detach().flatten()[edges].sort(dim=1, descending=True, stable=True).indices
    return edge_subgraph(graph, edges.gather(1, by_potential[:, :k]).flatten().sort().values)
