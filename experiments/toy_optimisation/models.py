"""The iterative SE(3)-Transformer (arXiv 2102.13419): points that move a few times to a configuration of low energy."""

from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import as_graph, edge_subgraph, with_edge_fields
from equivariant_attention.modules import GNormBias, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_size

EDGE_DIMS = {"potential": 1, "well": 4}  # of what the layers see of an edge, see `well`


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

    All but a are bounded by :math:`x / \sqrt{1 + x^2}`: they grow like r^4, and would hide what pairs near their
    minimum have to say.

    Args:
        r: distances, ``[edges, 1, 1]``.
        parameter: a, the same shape.

    Returns:
        ``[edges, 4, 1]``.
    """
    curvature = 12 * (r - parameter - 1) ** 2 - 2
    unbounded = (pair_potential(r, parameter), potential_slope(r, parameter) / 4, curvature / 12)
    return torch.cat([parameter, *(x / (1 + x.square()).sqrt() for x in unbounded)], dim=1)


class SE3TransformerIterative(nn.Module):
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
        edge_features: what the layers see of an edge beside its length: 'potential', V, as published; or 'well', all of
            :func:`well`.
        step_scale: what each step is multiplied by; 1 as published. With random weights the steps are several times as
            long as the points are apart, and the more blocks there are, the further they throw them.
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
        edge_features: str = "potential",
        step_scale: float = 1.0,
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees, self.edge_features, self.step_scale = num_degrees, edge_features, step_scale
        self.compute_gradients, self.k_neighbors = compute_gradients, k_neighbors
        edge_dim = EDGE_DIMS[edge_features]
        middle = {"edge_dim": edge_dim, "div": div, "n_heads": n_heads, "selfint": si_m, "x_ij": x_ij}
        last = {"edge_dim": edge_dim, "div": 1, "n_heads": 1, "selfint": si_e, "x_ij": x_ij}
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
        features: Features = {"0": graph.ndata["ones"]}
        steps = []
        for i, block in enumerate(self.blocks):
            features = self._run(block, features, graph, plan)
            step = self.step_scale * features["1"][:, :1]
            steps.append(step)
            move(graph, step)
            graph.ndata[f"update_norm_{i}"] = step.norm(dim=-1, keepdim=True)
        return G, steps

    def _run(self, block: nn.ModuleList, features: Features, graph: Any, plan: Plan | None) -> Features:
        if self.k_neighbors is not None:
            graph = strongest_neighbors(graph, self.k_neighbors)
            plan = plan and Plan.unpaired(graph)
        if self.edge_features == "well":
            w = well(graph.edata["r"], graph.edata["potential_parameters"])
            graph = with_edge_fields(graph, {"d": graph.edata["d"], "w": w})
        basis, r = get_basis_and_r(graph, self.num_degrees - 1, compute_gradients=self.compute_gradients, plan=plan)
        for layer in block:
            features = layer(features, G=graph, r=r, basis=basis)
        return features


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
