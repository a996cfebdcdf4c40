"""NVIDIA's attention: the layer, and its block of keys, values, queries and projection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...checks import check_positive, check_whole_number
from ...contraction.radial import HIDDEN
from ...fibers import Features, by_degree
from ...modules.attention import GMABSE3
from ...nvidia.fiber import Fiber, plain_fiber
from ...nvidia.layers.convolution import BasisLike, ConvSE3
from ...nvidia.layers.linear import LinearSE3
from ...nvidia.layout import ConvSE3FuseLevel
from ...nvidia.utils import aggregate_residual, unfuse_features
from ...plain_modules import check_hooks, has_hooks_of_all, is_plain


class AttentionSE3(nn.Module):
    """Multi-head attention with keys and values on the edges: :class:`~equivariant_attention.modules.GMABSE3`.

    Args:
        num_heads: number of heads.
        key_fiber: fiber of the keys and queries.
        value_fiber: fiber of the values.

    Raises:
        TypeError, ValueError: a fiber has no channels, or ``num_heads`` does not divide them.
    """

    def __init__(self, num_heads: int, key_fiber: Fiber, value_fiber: Fiber) -> None:
        super().__init__()
        check_whole_number(num_heads, 1, "num_heads")
        for name, fiber in (("value_fiber", value_fiber), ("key_fiber", key_fiber)):
            if any(channels % num_heads for channels in fiber.channels):
                raise ValueError(
                    f"num_heads must divide the channels of every degree of {name}, got {num_heads} for {fiber}"
                )
        self.num_heads, self.key_fiber, self.value_fiber = num_heads, key_fiber, value_fiber
        self.heads = GMABSE3(plain_fiber(value_fiber, "value_fiber"), plain_fiber(key_fiber, "key_fiber"), num_heads)

    def forward(self, value: Features | Tensor, key: Features | Tensor, query: Features, graph: Any) -> Features:
        """Attend.

        Args:
            value: ``{degree: [edges, channels, 2 degree + 1]}`` of fiber ``value_fiber``, or these as one tensor, their
                orders concatenated.
            key: the same of fiber ``key_fiber``.
            query: ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``key_fiber``.
            graph: the graph.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``value_fiber``, 0 at nodes without incoming edges.

        Raises:
            TypeError, ValueError: values, keys or queries are not those of the fibers and the graph.
        """
        check_hooks(self)
        v = unfuse_features(value, self.value_fiber.degrees) if isinstance(value, Tensor) else value
        k = unfuse_features(key, self.key_fiber.degrees) if isinstance(key, Tensor) else key
        return self.heads(v, k=k, q=query, G=graph)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, key_fiber={self.key_fiber}, value_fiber={self.value_fiber}"


class AttentionBlockSE3(nn.Module):
    r"""NVIDIA's SE(3)-Transformer layer.

    .. math:: f_i \leftarrow \mathrm{project} \Big( \sum_{j \in N_i} \alpha_{ij} v_{ij} \Vert f_i \Big),
              \quad \alpha_{ij} = \mathrm{softmax}_j \langle q_i, k_{ij} \rangle / \sqrt{n}

    Values have the degrees of ``fiber_out`` and ``m // channels_div`` channels; keys and queries have those of them
    that ``fiber_in`` has. One convolution makes values and keys.

    Args:
        fiber_in: fiber of the input.
        fiber_out: fiber of the output.
        fiber_edge: fiber of the edge features, the distance not counted.
        num_heads: number of heads.
        channels_div: what channels are divided by, or ``{degree: divisor}``.
        use_layer_norm, max_degree, fuse_level, mid_dim, nonlinearity: as in :class:`ConvSE3`.
        low_memory: without effect.

    Attributes:
        key_fiber, value_fiber: of keys and queries, and of values.
        divisors: ``{degree: divisor}``, of ``channels_div``.
        to_key_value, to_query, attention, project: the parts.

    Raises:
        TypeError, ValueError: a divisor leaves a degree without channels, ``num_heads`` does not divide the channels,
            or ``fiber_in`` and ``fiber_out`` share no degree.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        fiber_edge: Fiber | None = None,
        num_heads: int = 4,
        channels_div: int | Mapping[Any, int] = 2,
        use_layer_norm: bool = False,
        max_degree: int = 4,
        fuse_level: ConvSE3FuseLevel = ConvSE3FuseLevel.FULL,
        low_memory: bool = False,
        *,
        mid_dim: int = HIDDEN,
        nonlinearity: nn.Module | None = None,
    ) -> None:
        super().__init__()
        plain_fiber(fiber_in, "fiber_in"), plain_fiber(fiber_out, "fiber_out")
        self.fiber_in, self.fiber_out = fiber_in, fiber_out
        self.divisors = _divisors(fiber_out, channels_div)
        self.value_fiber = Fiber({degree: int(m // self.divisors[degree]) for degree, m in fiber_out})
        self.key_fiber = Fiber({degree: m for degree, m in self.value_fiber if degree in fiber_in})
        if not self.key_fiber:
            raise ValueError(f"fiber_in and fiber_out must share a degree for keys, got {fiber_in} and {fiber_out}")
        self.to_key_value = ConvSE3(
            fiber_in,
            self.value_fiber + self.key_fiber,
            fiber_edge,
            pool=False,
            use_layer_norm=use_layer_norm,
            max_degree=max_degree,
            fuse_level=fuse_level,
            mid_dim=mid_dim,
            nonlinearity=nonlinearity,
        )
        self.to_key_value.divide(self.value_fiber, self.key_fiber)
        self.to_query = LinearSE3(fiber_in, self.key_fiber)
        self.attention = AttentionSE3(num_heads, self.key_fiber, self.value_fiber)
        self.project = LinearSE3(self.value_fiber + fiber_in, fiber_out)

    def forward(
        self, node_features: Features, edge_features: Features | None = None, graph: Any = None, basis: BasisLike = None
    ) -> Features:
        """New node features.

        Args:
            node_features: ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber_in``; others are ignored.
            edge_features, graph, basis: as of :meth:`ConvSE3.forward`.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber_out``.

        Raises:
            KeyError, TypeError, ValueError: as there.
        """
        check_hooks(self)
        node_features = by_degree(node_features, "node_features")
        value, key = self._values_and_keys(node_features, edge_features, graph, basis)
        attended = self.attention(value, key, self.to_query(node_features), graph)
        sent = {str(d): node_features[str(d)] for d in self.fiber_in.degrees}
        return self.project(aggregate_residual(sent, attended, "cat"))

    def _values_and_keys(self, *inputs: Any) -> tuple[Features, Features]:
        if is_plain(self.to_key_value, ConvSE3) and not has_hooks_of_all():
            value, key = self.to_key_value.messages(*inputs)
            return value, key
        together = self.to_key_value(*inputs)
        value = {str(d): together[str(d)][:, :m] for d, m in self.value_fiber.items()}
        key = {str(d): together[str(d)][:, self.value_fiber[d] :] for d in self.key_fiber.degrees}
        return value, key

    def extra_repr(self) -> str:
        return f"fiber_in={self.fiber_in}, fiber_out={self.fiber_out}"


def _divisors(fiber_out: Fiber, channels_div: int | Mapping[Any, int]) -> dict[int, int]:
    """What the channels of each degree are divided by."""
    if not isinstance(channels_div, Mapping):
        channels_div = dict.fromkeys(fiber_out.degrees, channels_div)
    divisors = {int(degree): divisor for degree, divisor in channels_div.items()}
    for degree, m in fiber_out:
        if degree not in divisors:
            raise ValueError(f"channels_div must have every degree of {fiber_out}, got {dict(channels_div)}")
        check_positive(divisors[degree], "channels_div")
        if m // divisors[degree] < 1:
            left = f"{divisors[degree]} leaves none of {m} of degree {degree}"
            raise ValueError(f"channels_div must leave every degree a channel: {left}")
    return divisors
