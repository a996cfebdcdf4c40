"""Ready-made models called with tensors: of edges, as in PyTorch Geometric; of its ``Data``; or padded, with a mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_positive, check_trailing, check_whole_number
from ..fibers import Features, by_degree
from ..graphs import Graph, graph_sizes
from ..models.base import NodeModel
from ..models.se3_transformer import SE3Transformer
from ..models.tfn import TFN
from ..neighbors import fully_connected_graph, knn_graph, radius_graph

Values = Tensor | Mapping[int | str, Tensor]


class OnEdges(nn.Module):
    """A model as a function of features, positions and edges, in the order of PyTorch Geometric's layers.

    >>> layer = OnEdges(SE3Transformer({0: 8, 1: 1}, {0: 16, 1: 16}, {0: 1}, edge_dim=3))
    >>> output = layer({0: x, 1: velocity}, pos, edge_index, edge_attr)

    Args:
        model: an :class:`SE3Transformer` or a :class:`TFN`, kept as ``model``.

    Raises:
        TypeError: it is neither.
    """

    def __init__(self, model: SE3Transformer | TFN) -> None:
        super().__init__()
        self.model = _checked_model(model)

    def forward(
        self,
        x: Values,
        pos: Tensor,
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        edge_features: Values | None = None,
        num_graphs: int | None = None,
    ) -> Features | Tensor:
        """What the model gives for these nodes and edges; derivatives flow to all that are tensors of numbers.

        Args:
            x: features of the nodes by degree, an int or a string: ``[nodes, channels, 2 degree + 1]``, without the
                last dimension for degree 0, or, for a single channel, without the second for others. A tensor is
                degree 0.
            pos: positions ``[nodes, 3]``.
            edge_index: int ``[2, edges]``; an edge leads from the node in row 0 to that in row 1, which looks at it.
            edge_attr: features of the edges ``[edges, edge_dim]``, if the model has any.
            batch: graph number of each node, sorted, int ``[nodes]``; None for one graph.
            edge_features: those of ``fiber_edge`` by degree, as ``x``, with a row for each edge, if the model has any.
            num_graphs: of ``batch``, whose last ones may have no nodes; None for as many as have one.

        Returns:
            as of the model.

        Raises:
            TypeError, ValueError: an argument is not as above, or not of the model.
        """
        check_trailing(pos, (3,), "pos")
        if not isinstance(edge_index, Tensor) or edge_index.dim() != 2 or len(edge_index) != 2:
            got = list(edge_index.shape) if isinstance(edge_index, Tensor) else type(edge_index).__name__
            raise ValueError(f"edge_index must be an int tensor [2, edges], got {got}")
        src, dst = edge_index.unbind()
        G = Graph(src, dst, num_nodes=pos.shape[0])
        if batch is not None:
            G.set_batch_num_nodes(graph_sizes(batch, pos.shape[0], num_graphs))
        G.ndata["x"], G.edata["d"] = pos, pos[dst.long()] - pos[src.long()]
        if edge_attr is not None:
            G.edata["w"] = edge_attr
        on_edges = _with_dimensions(edge_features, "edge_features")
        return self.model(G, _with_dimensions(x, "x"), edge_features=on_edges)


class OnData(nn.Module):
    """A model as a function of PyTorch Geometric's ``Data`` or ``Batch``, for its loaders and pipelines.

    >>> for data in DataLoader(dataset, batch_size=32):
    ...     loss = (OnData(model)(data) - data.y).square().mean()

    Args:
        model: as of :class:`OnEdges`.
        attributes: the attribute of ``data`` that has the features of each degree, ``{degree: name}``; by default
            ``x`` is degree 0.
        edge_attributes: the same of the model's ``fiber_edge``; None, if it has none.

    Raises:
        TypeError: ``model`` is no such model.
    """

    def __init__(
        self,
        model: SE3Transformer | TFN,
        attributes: Mapping[int, str] | None = None,
        edge_attributes: Mapping[int, str] | None = None,
    ) -> None:
        super().__init__()
        self.on_edges = OnEdges(model)
        self.attributes = {0: "x"} if attributes is None else dict(attributes)
        self.edge_attributes = dict(edge_attributes or {})

    def forward(self, data: Any) -> Features | Tensor:
        """What the model gives for ``data``.

        Args:
            data: has ``pos``, ``edge_index``, the features, ``edge_attr``, if the model has ``edge_dim``, and
                ``batch``, if there are several graphs.

        Returns:
            as of the model.

        Raises:
            ValueError: one of them is missing.
            TypeError, ValueError: as of :class:`OnEdges`.
        """
        needed = ["pos", "edge_index", *self.attributes.values(), *self.edge_attributes.values()]
        needed += ["edge_attr"] * bool(self.on_edges.model.edge_dim)
        if missing := [name for name in needed if getattr(data, name, None) is None]:
            raise ValueError(f"data must have {missing[0]!r}, got {data}")
        features, edge_features = (
            {degree: getattr(data, name) for degree, name in names.items()}
            for names in (self.attributes, self.edge_attributes)
        )
        edge_attr = data.edge_attr if self.on_edges.model.edge_dim else None
        batch = getattr(data, "batch", None)
        ptr = getattr(data, "ptr", None)
        num_graphs = None if ptr is None else len(ptr) - 1
        return self.on_edges(features, data.pos, data.edge_index, edge_attr, batch, edge_features or None, num_graphs)


class OnPadded(nn.Module):
    """A model as a function of padded batches ``[batch, nodes, ...]`` with a mask, as transformers have them.

    Nodes look at all others of their sample; or at the ``k`` nearest; or at those within the ``radius``.

    >>> model = SE3Transformer({0: 8}, {0: 16, 1: 16}, {1: 1}, return_type=1)
    >>> layer = OnPadded(model, k=16)
    >>> moves = layer(x, pos, mask)  # [batch, nodes, 1, 3]

    Args:
        model: as of :class:`OnEdges`.
        k: see :func:`~equivariant_attention.neighbors.knn_graph`.
        radius: see :func:`~equivariant_attention.neighbors.radius_graph`.

    Raises:
        TypeError: ``model`` is no such model.
        ValueError: both ``k`` and ``radius`` are given, or one that is none.
    """

    def __init__(self, model: SE3Transformer | TFN, k: int | None = None, radius: float | None = None) -> None:
        super().__init__()
        if k is not None and radius is not None:
            raise ValueError(f"k and radius must not be given together, got {k} and {radius}")
        if k is not None:
            check_whole_number(k, 1, "k")
        if radius is not None:
            check_positive(radius, "radius")
        self.model, self.k, self.radius = _checked_model(model), k, radius

    def forward(
        self,
        x: Values,
        pos: Tensor,
        mask: Tensor | None = None,
        edge_attr: Tensor | None = None,
        edge_features: Values | None = None,
    ) -> Features | Tensor:
        """What the model gives for the nodes that there are; 0 for the others.

        Args:
            x: features by degree as of :class:`OnEdges`, ``[batch, nodes, channels, 2 degree + 1]``.
            pos: positions ``[batch, nodes, 3]``.
            mask: which nodes there are, bool ``[batch, nodes]``, at least one in each sample; None, all.
            edge_attr: features of pairs ``[batch, nodes, nodes, edge_dim]``, of the edge to node i from node j in
                ``[:, i, j]``, if the model has any.
            edge_features: those of ``fiber_edge`` by degree, ``[batch, nodes, nodes, channels, 2 degree + 1]``, in the
                same order, if the model has any.

        Returns:
            as of the model, ``[batch, nodes, channels, 2 degree + 1]``; where it pools, without ``nodes``.

        Raises:
            TypeError, ValueError: an argument is not as above, or not of the model.
        """
        check_trailing(pos, (3,), "pos")
        if pos.dim() != 3:
            raise ValueError(f"pos must have shape [batch, nodes, 3], got {list(pos.shape)}")
        mask = pos.new_ones(pos.shape[:2], dtype=torch.bool) if mask is None else mask
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a bool tensor, got {type(mask).__name__}")
        if mask.dtype != torch.bool or mask.shape != pos.shape[:2]:
            raise ValueError(f"mask must be bool {list(pos.shape[:2])}, got {mask.dtype} {list(mask.shape)}")
        if not mask.any(dim=1).all():
            raise ValueError("mask must have a node in every sample, got one without")
        sample, place = mask.nonzero(as_tuple=True)
        G = self._graph(pos[mask], sample)
        src, dst = G.edges()
        pairs, square = (sample[dst], place[dst], place[src]), (*mask.shape, mask.shape[1])
        if edge_attr is not None:
            G.edata["w"] = _chosen(edge_attr, pairs, square, "edge_attr")[0]
        on_nodes = _with_dimensions(_chosen(x, (sample, place), mask.shape, "x"), "x")
        on_edges = _with_dimensions(_chosen(edge_features, pairs, square, "edge_features"), "edge_features")
        output = self.model(G, on_nodes, edge_features=on_edges)
        if self.model.pooling is not None:
            return output
        return _padded(output, mask) if isinstance(output, Tensor) else {d: _padded(v, mask) for d, v in output.items()}

    def _graph(self, pos: Tensor, batch: Tensor) -> Graph:
        if self.k is not None:
            return knn_graph(pos, self.k, batch)
        return fully_connected_graph(pos, batch) if self.radius is None else radius_graph(pos, self.radius, batch)


def _checked_model(model: SE3Transformer | TFN) -> SE3Transformer | TFN:
    if not isinstance(model, NodeModel):
        raise TypeError(f"model must be an SE3Transformer or a TFN of this library, got {type(model).__name__}")
    return model


def _chosen(x: Values | None, rows: tuple[Tensor, ...], shape: tuple[int, ...], name: str) -> Any:
    """The rows of padded features that there are, by degree; each must begin with dimensions of this shape."""
    if x is None:
        return None
    found = {}
    for degree, value in (x if isinstance(x, Mapping) else {0: x}).items():
        if not isinstance(value, Tensor) or value.shape[: len(shape)] != shape:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be tensors [{', '.join(map(str, shape))}, ...], got {got}")
        found[degree] = value[rows]
    return found


def _with_dimensions(x: Values | None, name: str) -> Any:
    """Features in ``[rows, channels, 2 degree + 1]`` where a dimension of size one was left out."""
    if x is None:
        return None
    values = by_degree(x if isinstance(x, Mapping) else {0: x}, name)
    short = {degree for degree, value in values.items() if isinstance(value, Tensor) and value.dim() == 2}
    return {d: v.unsqueeze(-1 if d == "0" else 1) if d in short else v for d, v in values.items()}


def _padded(values: Tensor, mask: Tensor) -> Tensor:
    return values.new_zeros(*mask.shape, *values.shape[1:]).index_put(mask.nonzero(as_tuple=True), values)
