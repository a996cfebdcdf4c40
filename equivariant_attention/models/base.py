"""What the ready-made models have in common: checked arguments, the way through the layers, pooling."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..basis import BasisAndR, get_basis_and_r
from ..checks import check_features, check_whole_number
from ..fibers import Features, FiberLike, as_fiber, by_degree
from ..graphs import GraphLike, as_graph, graph_of_node
from ..models.radial_basis import RadialBasis
from ..models.saving import Saveable
from ..modules import GMaxPooling, GSE3Res
from ..plain_modules import check_hooks, check_never_called
from ..segments import segment_mean, segment_sum

POOLING = (None, "avg", "mean", "sum", "max")


class NodeModel(Saveable):
    """Layers from features on the nodes to features on the nodes, or on the graphs. A subclass fills in the layers.

    Args:
        fiber_in, fiber_hidden, fiber_out: fibers of the input, between the layers and of the output.
        edge_dim: number of scalar features per edge.
        fiber_edge: of features of the edges of any degree; None for none.
        pooling: 'avg' or 'mean', 'sum', 'max', or None.
        return_type: the degree that is returned by itself; None, all.

    Attributes:
        layers: the layers, in their order.
        max_degree: largest degree of any feature, for :func:`get_basis_and_r`.
        radial: what the layers get of distances as edge features, or None; a subclass may set it.

    Raises:
        TypeError, ValueError: an argument has another value.
    """

    def __init__(
        self,
        fiber_in: FiberLike,
        fiber_hidden: FiberLike,
        fiber_out: FiberLike,
        edge_dim: int,
        fiber_edge: FiberLike | None,
        pooling: str | None,
        return_type: int | None,
    ) -> None:
        super().__init__()
        check_whole_number(edge_dim, 0, "edge_dim")
        self.fiber_in = as_fiber(fiber_in, "fiber_in")
        self.fiber_hidden = as_fiber(fiber_hidden, "fiber_hidden")
        self.fiber_out = as_fiber(fiber_out, "fiber_out")
        self.fiber_edge = None if fiber_edge is None else as_fiber(fiber_edge, "fiber_edge")
        self.edge_dim, self.pooling, self.return_type = edge_dim, pooling, return_type
        if min(self.fiber_hidden.multiplicities) < 2:
            # GNormSE3 begins with a LayerNorm over the channels: of one channel it makes 0, whatever its norm.
            raise ValueError(f"fiber_hidden must have at least 2 channels of every degree, got {self.fiber_hidden}")
        self._check_returned()
        fibers = [self.fiber_in, self.fiber_hidden, self.fiber_out, *([self.fiber_edge] if self.fiber_edge else [])]
        self.max_degree = max(fiber.max_degree for fiber in fibers)
        self.layers = nn.ModuleList()
        self.radial: RadialBasis | None = None

    def _check_returned(self) -> None:
        degrees = self.fiber_out.degrees
        if self.return_type is not None:
            check_whole_number(self.return_type, 0, "return_type")
            if self.return_type not in degrees:
                raise ValueError(f"return_type must be a degree of fiber_out {degrees}, got {self.return_type}")
            degrees = (self.return_type,)
        if self.pooling not in POOLING:
            raise ValueError(f"pooling must be one of {POOLING}, got {self.pooling!r}")
        if self.pooling == "max" and degrees != (0,):
            raise ValueError(f"pooling='max' is for degree 0 alone, the others have no maximum; got degrees {degrees}")

    def forward(
        self,
        G: Any,
        features: Features,
        basis_and_r: BasisAndR | None = None,
        *,
        edge_features: Features | None = None,
    ) -> Features | Tensor:
        """Features of the nodes, or of the graphs where there is pooling.

        Args:
            G: a (batched) DGLGraph, :class:`~equivariant_attention.graphs.Graph` or PyTorch Geometric ``Data`` with
                ``edata['d']``, ``edata['w']`` if ``edge_dim`` is not 0, and ``edata['envelope']``, ``[edges, 1]``, if
                edges end smoothly.
            features: of fiber ``fiber_in``, ``{degree: [nodes, channels, 2 degree + 1]}``, the degree a string or int.
            basis_and_r: of ``G`` if they are at hand, from :func:`~equivariant_attention.basis.get_basis_and_r` up to
                ``max_degree`` or from a :class:`~equivariant_attention.precompute.BasisCache`; None to compute
                them, with derivatives with respect to ``edata['d']``.
            edge_features: of fiber ``fiber_edge``, ``{degree: [edges, channels, 2 degree + 1]}``; where None, those of
                each degree are ``edata['f0']``, ``edata['f1']``, ...

        Returns:
            ``{degree: [nodes or graphs, channels, 2 degree + 1]}`` of fiber ``fiber_out``; or, with ``return_type``,
            the tensor of that degree.

        Raises:
            KeyError: the graph has no ``edata['d']``.
            TypeError, ValueError: features, edge features, distances or basis are not those of the model and the graph.
        """
        return self._evaluate(G, features, basis_and_r, edge_features)

    def _evaluate(
        self,
        G: Any,
        features: Features,
        basis_and_r: BasisAndR | None,
        edge_features: Features | None,
        attention: list[Tensor] | None = None,
    ) -> Features | Tensor:
        """What :meth:`forward` returns; the weights of every attention layer are appended to ``attention``."""
        check_never_called(self.layers, "layers")
        if self.return_type is None:
            check_hooks(self)
        G = as_graph(G)
        features = by_degree(features)
        check_features(features, self.fiber_in, G.num_nodes(), layer=self)
        if basis_and_r is not None and (not isinstance(basis_and_r, tuple) or len(basis_and_r) != 2):
            raise TypeError(f"basis_and_r must be what get_basis_and_r returns, got a {type(basis_and_r).__name__}")
        if self.radial is not None:
            self._check_edges(G)
            G = self.radial.on_edges(G, None if basis_and_r is None else basis_and_r[1])
        basis, r = basis_and_r or get_basis_and_r(G, self.max_degree, compute_gradients=True)
        given = {"G": G, "r": r, "basis": basis, "edge_features": edge_features}
        for layer in self.layers:
            if attention is not None and isinstance(layer, GSE3Res):
                features, weights = layer(features, **given, return_attention=True)
                attention.append(weights)
            else:
                features = layer(features, **given)
        if self.return_type is not None:
            features = {str(self.return_type): features[str(self.return_type)]}
        if self.pooling is not None:
            features = self._pool(features, G)
        return features if self.return_type is None else features[str(self.return_type)]

    def _check_edges(self, G: GraphLike) -> None:
        """Refuse features of edges that are not those of the model, which the layers see with others beside them."""
        shape = [*G.edata["w"].shape] if "w" in G.edata else [G.num_edges(), 0]
        if shape != [G.num_edges(), self.edge_dim]:
            expected, got = [G.num_edges(), self.edge_dim], shape if "w" in G.edata else "none"
            raise ValueError(f"edata['w'] must have shape {expected}, as edge_dim says, got {got}")

    def _pool(self, features: Features, G: GraphLike) -> Features:
        if self.pooling == "max":
            return {"0": GMaxPooling()(features, G=G).unsqueeze(-1)}
        owner, sizes = graph_of_node(G), G.batch_num_nodes()
        if self.pooling == "sum":
            return {degree: segment_sum(value, owner, len(sizes)) for degree, value in features.items()}
        return {degree: segment_mean(value, owner, sizes) for degree, value in features.items()}
