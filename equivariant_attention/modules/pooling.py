"""Pooling over the nodes of each graph: :class:`GAvgPooling` and :class:`GMaxPooling`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..checks import check_floating_point
from ..fibers import Features, by_degree
from ..graphs import GraphLike, as_graph, check_device, graph_of_node
from ..segments import segment_max, segment_mean


class GAvgPooling(nn.Module):
    r"""Mean of the features of one degree over the nodes of each graph, :math:`\frac{1}{N} \sum_i f_i^l`.

    Args:
        type: the degree, as a string.

    Raises:
        ValueError: ``type`` is not the string of a whole number of at least 0.
    """

    type: str  # type: ignore[assignment]  # the published name hides a method of nn.Module

    def __init__(self, type: str = "0") -> None:
        super().__init__()
        if not (isinstance(type, str) and type.isascii() and type.isdecimal() and str(int(type)) == type):
            raise ValueError(f"type must be a degree as a string, such as '0', got {type!r}")
        self.type = type

    def forward(self, features: Features, G: Any = None, **kwargs) -> Tensor | Features:
        """The mean over the nodes of each graph.

        Args:
            features: ``{degree: [nodes, m, 2 degree + 1]}``; degrees other than ``type`` are ignored.
            G: the graph.

        Returns:
            ``[graphs, m]`` for degree 0, ``{degree: [graphs, m, 2 degree + 1]}`` otherwise; 0 for a graph without
            nodes.

        Raises:
            TypeError, ValueError: the features lack the degree, or are not on the nodes of ``G``.
        """
        G = as_graph(G)
        pooled = segment_mean(_on_nodes(features, self.type, G), graph_of_node(G), G.batch_num_nodes())
        return pooled.squeeze(-1) if self.type == "0" else {self.type: pooled}

    def extra_repr(self) -> str:
        return f"type={self.type!r}"


class GMaxPooling(nn.Module):
    r"""Maximum of the features of degree 0 over the nodes of each graph, :math:`\max_i f_i^0`."""

    def forward(self, features: Features, G: Any = None, **kwargs) -> Tensor:
        """The maximum over the nodes of each graph.

        Args:
            features: ``{'0': [nodes, m, 1]}``; other degrees are ignored.
            G: the graph.

        Returns:
            ``[graphs, m]``; 0 for a graph without nodes.

        Raises:
            TypeError, ValueError: the features lack degree 0, or are not on the nodes of ``G``.
        """
        G = as_graph(G)
        return segment_max(_on_nodes(features, "0", G).squeeze(-1), graph_of_node(G), G.batch_size)


def _on_nodes(features: Features, degree: str, G: GraphLike) -> Tensor:
    features = by_degree(features)
    if not isinstance(features, Mapping):
        got = type(features).__name__
        raise TypeError(f"features must be a dict of tensors keyed by the degree as a string, got {got}")
    if degree not in features:
        raise ValueError(f"features must have degree '{degree}' to be pooled, got {sorted(map(repr, features))}")
    value, last = features[degree], 2 * int(degree) + 1
    check_floating_point(value, f"features['{degree}']")
    check_device(G, value.device)
    if value.dim() != 3 or value.shape[0] != G.num_nodes() or value.shape[2] != last:
        raise ValueError(f"features['{degree}'] must have shape [{G.num_nodes()}, m, {last}], got {list(value.shape)}")
    return value
