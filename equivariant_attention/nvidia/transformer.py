"""NVIDIA's SE(3)-Transformer, and its model with a head on pooled features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_features, check_floating_point, check_whole_number, first_parameter
from ..contraction.radial import HIDDEN
from ..fibers import Features, by_degree
from ..graphs import GraphLike, as_graph
from ..nvidia.basis import as_here, frames_of, relative_positions, scalars_of
from ..nvidia.edge_features import check_populate, get_populated_edge_features
from ..nvidia.fiber import Fiber, edge_fiber, plain_fiber
from ..nvidia.layers import AttentionBlockSE3, ConvSE3, GPooling, LinearSE3, NormSE3
from ..nvidia.layers.convolution import BasisLike
from ..nvidia.layout import ConvSE3FuseLevel

FINAL_LAYERS = ("conv", "lin", "att")


class Sequential(nn.Sequential):
    """Layers one after the other, all called with the same further arguments."""

    def forward(self, input: Any, *args: Any, **kwargs) -> Any:
        """Call the layers.

        Args:
            input: what the first is called with; every other one is called with what the one before it returns.
            args: further arguments of all.

        Returns:
            what the last one returns.
        """
        for module in self:
            input = module(input, *args, **kwargs)
        return input


class SE3Transformer(nn.Module):
    r"""NVIDIA's SE(3)-Transformer: attention blocks with norm nonlinearities, then a convolution with self-interaction.

    .. math:: f \leftarrow \mathrm{Norm}(\mathrm{Attention}(f)) \quad \text{num\_layers times}, \qquad
              y_i = \sum_{j \in N_i} \big( W(x_{ij}) f_j + S f_i \big)

    >>> fibers = Fiber({0: 8, 1: 3}), Fiber.create(2, 32), Fiber({0: 8, 1: 2})
    >>> model = SE3Transformer(1, *fibers, 4, 4, fiber_edge=Fiber({0: 32}))
    >>> output = model(graph, {"0": scalars, "1": vectors}, {"0": edge_scalars})

    Options that the package lacks are those of its forks. Checkpoints of the package and of its forks load with
    ``strict=True``, whatever ``low_memory`` and ``tensor_cores`` were: see :class:`ConvSE3`.

    Args:
        num_layers: number of attention blocks.
        fiber_in, fiber_hidden, fiber_out: fibers of the input, between the layers and of the output.
        num_heads: number of heads.
        channels_div: what channels are divided by for keys and values.
        fiber_edge: fiber of the edge features.
        return_type: the degree whose tensor is returned by itself; None, a dict of all.
        pooling: over the nodes of each graph: 'avg', or 'max' of degree 0; it needs ``return_type``. None: none.
        norm: whether a :class:`NormSE3` follows each block.
        use_layer_norm: whether the radial networks have LayerNorms.
        tensor_cores, low_memory: how far radial networks are shared in a new model: not at all with ``low_memory``,
            else fully with ``tensor_cores``, else in part. Memory does not depend on it, and speed little.
        compute_gradients: let gradients flow from the basis to ``edata['rel_pos']``; from lengths they always do.
        final_layer: 'conv', as above; 'lin', :class:`LinearSE3`; 'att', :class:`AttentionBlockSE3` with one head.
        populate_edge: what of the length is appended to the scalars of edges, see :func:`get_populated_edge_features`;
            True is 'lin', and with False nothing is: it is in the edge features, as one more scalar, the last.
        sum_over_edge: whether the last convolution is a sum; else it is a mean.
        mid_dim: hidden values of the radial networks.
        nonlinearity: in place of ReLU in radial networks and norms, a module.

    Attributes:
        graph_modules: the layers.
        max_degree: largest degree of any node feature.

    Raises:
        TypeError, ValueError: an argument has another value, or is unknown.
    """

    def __init__(
        self,
        num_layers: int,
        fiber_in: Fiber,
        fiber_hidden: Fiber,
        fiber_out: Fiber,
        num_heads: int,
        channels_div: int,
        fiber_edge: Fiber | None = None,
        return_type: int | None = None,
        pooling: str | None = None,
        norm: bool = True,
        use_layer_norm: bool = True,
        tensor_cores: bool = False,
        low_memory: bool = False,
        *,
        compute_gradients: bool = False,
        final_layer: str = "conv",
        populate_edge: str | bool = "lin",
        sum_over_edge: bool = True,
        mid_dim: int = HIDDEN,
        nonlinearity: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_whole_number(num_layers, 0, "num_layers")
        self._plain_in, _ = plain_fiber(fiber_in, "fiber_in"), plain_fiber(fiber_hidden, "fiber_hidden")
        if final_layer not in FINAL_LAYERS:
            raise ValueError(f"final_layer must be one of {FINAL_LAYERS}, got {final_layer!r}")
        if not isinstance(populate_edge, bool):
            check_populate(populate_edge)
        _check_returned(return_type, pooling, plain_fiber(fiber_out, "fiber_out").degrees)
        self.num_layers, self.num_heads, self.channels_div = num_layers, num_heads, channels_div
        self.fiber_in, self.fiber_hidden, self.fiber_out = fiber_in, fiber_hidden, fiber_out
        self.fiber_edge = edge_fiber(fiber_edge)
        self.return_type, self.pooling = return_type, pooling
        self.tensor_cores, self.low_memory, self.compute_gradients = tensor_cores, low_memory, compute_gradients
        self.populate_edge = "lin" if populate_edge is True else populate_edge
        self.max_degree = max(*fiber_in.degrees, *fiber_hidden.degrees, *fiber_out.degrees)
        level = ConvSE3FuseLevel.FULL if tensor_cores else ConvSE3FuseLevel.PARTIAL
        options: dict[str, Any] = {
            "fiber_edge": self.fiber_edge,
            "use_layer_norm": use_layer_norm,
            "max_degree": self.max_degree,
            "fuse_level": ConvSE3FuseLevel.NONE if low_memory else level,
            "mid_dim": mid_dim,
            "nonlinearity": nonlinearity,
        }
        modules: list[nn.Module] = []
        for _ in range(num_layers):
            modules.append(
                AttentionBlockSE3(fiber_in, fiber_hidden, num_heads=num_heads, channels_div=channels_div, **options)
            )
            modules += [NormSE3(fiber_hidden, nonlinearity)] * norm
            fiber_in = fiber_hidden
        if final_layer == "conv":
            modules.append(ConvSE3(fiber_in, fiber_out, self_interaction=True, sum_over_edge=sum_over_edge, **options))
        elif final_layer == "lin":
            modules.append(LinearSE3(fiber_in, fiber_out))
        else:
            if isinstance(channels_div, Mapping):
                raise ValueError(f"channels_div must be one number with final_layer='att', got {dict(channels_div)}")
            divisors = {degree: 1 if degree else channels_div for degree in fiber_out.degrees}
            modules.append(AttentionBlockSE3(fiber_in, fiber_out, num_heads=1, channels_div=divisors, **options))
        self.graph_modules = Sequential(*modules)
        if pooling is not None:
            assert return_type is not None  # or it was refused
            self.pooling_module = GPooling(return_type, pooling)

    def forward(
        self,
        graph: Any,
        node_feats: Features,
        edge_feats: Mapping[str, Tensor] | None = None,
        basis: BasisLike = None,
    ) -> Features | Tensor:
        """Features of the nodes, or of the graphs where there is pooling. Nothing that is given is changed.

        Args:
            graph: a (batched) DGLGraph, :class:`~equivariant_attention.graphs.Graph` or PyTorch Geometric ``Data`` with
                ``edata['rel_pos']``, ``[edges, 3]``; its sign is as the model was trained with.
            node_feats: ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber_in``.
            edge_feats: ``{degree: [edges, channels, 2 degree + 1]}`` of fiber ``fiber_edge``.
            basis: the package's, from :func:`~equivariant_attention.nvidia.get_basis`; or this library's, a pair from
                :func:`~equivariant_attention.basis.get_basis_and_r`; None for frames of the edges.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber_out``; with ``return_type`` the tensor of
            that degree; and with ``pooling`` that of the graphs, ``[graphs, channels]`` for degree 0.

        Raises:
            KeyError: the graph has no ``edata['rel_pos']``.
            TypeError, ValueError: features, edge features or basis are not those of the model and the graph.
        """
        G = as_graph(graph)
        _check_precision(self)
        node_feats, edge_feats = by_degree(node_feats, "node_feats"), by_degree(edge_feats, "edge_feats")
        check_features(node_feats, self._plain_in, G.num_nodes(), "node_feats", self)
        edges = self._populated(edge_feats, G)
        own = as_here(G, scalars_of(edges, G.num_edges()))
        if not basis:
            basis = frames_of(own, self.max_degree, self.compute_gradients)
        elif isinstance(basis, Mapping):
            basis = {pair: value for pair, value in basis.items() if pair != "0,0"}
        features = self.graph_modules(node_feats, edges, graph=own, basis=basis)
        if self.pooling is not None:
            return self.pooling_module(features, graph=G)
        return features if self.return_type is None else features[str(self.return_type)]

    def _populated(self, edge_feats: Mapping[str, Tensor] | None, G: GraphLike) -> Features:
        edge_feats = edge_feats or {}
        extra = not self.populate_edge
        channels = {k: m + (extra and k == 0) for k, m in (Fiber({0: 0}) | self.fiber_edge).items()}
        expected = Fiber({k: m for k, m in channels.items() if m})
        if expected or edge_feats:
            if not expected:
                raise ValueError(f"edge_feats must be None or empty, as fiber_edge is, got {sorted(edge_feats)}")
            check_features(edge_feats, plain_fiber(expected, "fiber_edge"), G.num_edges(), "edge_feats", self)
        if extra:
            return dict(edge_feats)
        check_floating_point(relative_positions(G), "edata['rel_pos']", self)
        return get_populated_edge_features(relative_positions(G), edge_feats, str(self.populate_edge))


def _check_precision(model: nn.Module) -> None:
    parameter = first_parameter(model)
    if parameter is not None and parameter.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"the model must be of float32 or float64, got {parameter.dtype}: for less use torch.autocast, under which "
            "the parameters stay as they are"
        )


def _check_returned(return_type: int | None, pooling: str | None, degrees: tuple[int, ...]) -> None:
    if return_type is not None and (isinstance(return_type, bool) or return_type not in degrees):
        raise ValueError(f"return_type must be a degree of fiber_out {degrees} or None, got {return_type!r}")
    if pooling is not None and return_type is None:
        raise ValueError(f"return_type must be the degree that is pooled, with pooling={pooling!r}, got None")


class SE3TransformerPooled(nn.Module):
    """NVIDIA's model for QM9: the scalars of an :class:`SE3Transformer`, pooled, then Linear, ReLU, Linear.

    Args:
        fiber_in: fiber of the input.
        fiber_out: fiber of the output of the transformer, degree 0 alone.
        fiber_edge: fiber of the edge features.
        num_degrees, num_channels: the degrees between the layers, and their channels.
        output_dim: number of targets.
        kwargs: the other arguments of :class:`SE3Transformer`, such as ``num_layers``; ``pooling`` is 'max' by default.

    Attributes:
        transformer, mlp: the parts.

    Raises:
        TypeError, ValueError: an argument has another value, or is unknown.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        fiber_edge: Fiber | None,
        num_degrees: int,
        num_channels: int,
        output_dim: int,
        **kwargs,
    ) -> None:
        super().__init__()
        check_whole_number(output_dim, 1, "output_dim")
        if plain_fiber(fiber_out, "fiber_out").degrees != (0,):
            raise ValueError(f"fiber_out must have degree 0 alone, got {fiber_out}")
        kwargs["pooling"] = kwargs.get("pooling") or "max"
        hidden = Fiber.create(num_degrees, num_channels)
        self.transformer = SE3Transformer(
            fiber_in=fiber_in,
            fiber_hidden=hidden,
            fiber_out=fiber_out,
            fiber_edge=fiber_edge,
            return_type=0,
            **kwargs,
        )
        features = fiber_out.num_features
        self.mlp = nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, output_dim))

    def forward(
        self,
        graph: Any,
        node_feats: Features,
        edge_feats: Mapping[str, Tensor] | None = None,
        basis: BasisLike = None,
    ) -> Tensor:
        """The targets of the graphs.

        Args:
            graph, node_feats, edge_feats, basis: as of :meth:`SE3Transformer.forward`.

        Returns:
            ``[graphs, output_dim]``, or ``[graphs]`` for one target.

        Raises:
            KeyError, TypeError, ValueError: as there.
        """
        pooled = self.transformer(graph, node_feats, edge_feats, basis)
        return self.mlp(pooled).squeeze(-1)
