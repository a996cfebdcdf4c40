"""NVIDIA's convolution, in every layout of its radial networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...basis import Basis, BasisAndR
from ...checks import check_features, check_floating_point, check_whole_number, of_fiber
from ...contraction import Inputs, contract
from ...contraction.radial import HIDDEN
from ...fibers import Features, by_degree
from ...graphs import GraphLike, as_graph, edges_on
from ...modules.linear import mixed_by_degree
from ...nvidia.basis import GivenBasis, as_here, frames_of, scalars_of
from ...nvidia.fiber import Fiber, edge_fiber, plain_fiber
from ...nvidia.layers.radial import RadialProfile, VersatileConvSE3
from ...nvidia.layout import (
    ConvSE3FuseLevel,
    Layout,
    convolution_of,
    layout_named,
    layout_of,
    layouts,
    networks_of,
)
from ...plain_modules import check_hooks, check_never_called
from ...segments import segment_mean, segment_size, segment_sum

BasisLike = Mapping[str, Tensor] | BasisAndR | None
Y_0 = 0.28209479177387814  # the harmonic of degree 0, 1 / sqrt(4 pi)


class ConvSE3(nn.Module):
    r"""NVIDIA's convolution: the sum of the messages into each node, with an optional self-interaction.

    .. math:: f_i^l \leftarrow \sum_{j \in N_i} \Big( \sum_k W^{lk}(x_{ij}) \, (f_j^k \Vert e_{ij}^k) + S^l f_i^l \Big)

    Features e of the edges of degrees above 0 are appended to what is sent; those of degree 0 go into the radial
    networks. The networks are kept in one of four layouts, see :class:`ConvSE3FuseLevel`; they differ in speed by the
    hidden layers alone, of which there are fewer the more is shared. A state dict of another layout than the layer was
    made with, which these fibers can have, is loaded into that layout: the parameters are new ones then, so an
    optimizer is to be made after loading.

    Args:
        fiber_in: fiber of the node features.
        fiber_out: fiber of the output.
        fiber_edge: fiber of the edge features, the distance not counted.
        pool: whether messages are gathered on the nodes; else they are returned.
        use_layer_norm: whether the radial networks have LayerNorms.
        self_interaction: whether there is an S, for the degrees in both fibers.
        max_degree: largest degree of the model.
        fuse_level: how far radial networks are shared.
        allow_fused_output, low_memory: without effect.
        sum_over_edge: whether messages are summed; else it is their mean.
        mid_dim, nonlinearity: of the radial networks, as in :class:`RadialProfile`.

    Attributes:
        to_kernel_self: S of each degree, ``[m_out, m_in]``.
        sent, made: degrees and channels of what is sent along an edge, and of the messages.
        layout: of the networks, which are in ``conv``, ``conv_out`` or ``conv_in``.

    Raises:
        TypeError, ValueError: a fiber has no channels, or a degree above ``max_degree``, or is no Fiber.
    """

    def __init__(
        self,
        fiber_in: Fiber,
        fiber_out: Fiber,
        fiber_edge: Fiber | None = None,
        pool: bool = True,
        use_layer_norm: bool = False,
        self_interaction: bool = False,
        max_degree: int = 4,
        fuse_level: ConvSE3FuseLevel = ConvSE3FuseLevel.FULL,
        allow_fused_output: bool = False,
        low_memory: bool = False,
        *,
        sum_over_edge: bool = True,
        mid_dim: int = HIDDEN,
        nonlinearity: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self._plain_in, _ = plain_fiber(fiber_in, "fiber_in"), plain_fiber(fiber_out, "fiber_out")
        fiber_edge = edge_fiber(fiber_edge)
        check_whole_number(max_degree, 0, "max_degree")
        if (largest := max(*fiber_in.degrees, *fiber_out.degrees)) > max_degree:
            raise ValueError(f"max_degree must be at least {largest}, a degree of the fibers, got {max_degree}")
        self.fiber_in, self.fiber_out, self.fiber_edge = fiber_in, fiber_out, fiber_edge
        self.pool, self.self_interaction, self.sum_over_edge = pool, self_interaction, sum_over_edge
        self.use_layer_norm, self.mid_dim, self.nonlinearity = use_layer_norm, mid_dim, nonlinearity
        self.max_degree, self.fuse_level, self.allow_fused_output = max_degree, fuse_level, allow_fused_output
        self._on_edges = {k: m for k, m in fiber_edge.items() if k and m and k in fiber_in}
        self.sent = tuple((k, m + self._on_edges.get(k, 0)) for k, m in fiber_in)
        self.made = tuple(fiber_out.structure)
        self._parts: tuple[Fiber, ...] = (fiber_out,)
        self._make_networks(layout_of(fuse_level, layouts(Fiber(self.sent), fiber_out, max_degree)))
        self.to_kernel_self = nn.ParameterDict()
        if self_interaction:
            for degree, m_out in fiber_out:
                if m_in := fiber_in[degree]:
                    self.to_kernel_self[str(degree)] = nn.Parameter(torch.randn(m_out, m_in) / m_in**0.5)

    @property
    def used_fuse_level(self) -> ConvSE3FuseLevel:
        """The fuse level of the layout."""
        levels = {Layout.ALL: ConvSE3FuseLevel.FULL, Layout.PAIR: ConvSE3FuseLevel.NONE}
        return levels.get(self.layout, ConvSE3FuseLevel.PARTIAL)

    def _make_networks(self, layout: Layout) -> nn.Module:
        """New networks in a layout, and what holds them."""
        self.layout = layout
        networks = networks_of(layout, self.sent, self.made)
        made = {
            network.name.partition(".")[2]: VersatileConvSE3(
                network.freq_sum,
                network.channels_in,
                network.channels_out,
                edge_dim=self.fiber_edge[0] + 1,
                use_layer_norm=self.use_layer_norm,
                fuse_level=self.used_fuse_level,
                mid_dim=self.mid_dim,
                nonlinearity=self.nonlinearity,
            )
            for network in networks
        }
        container = made[""] if layout is Layout.ALL else nn.ModuleDict(made)
        setattr(self, layout.container, container)
        self._describe()
        return container

    def _describe(self) -> None:
        parts = tuple(tuple(part.structure) for part in self._parts)
        shape = self.layout, self.sent, self.made, parts, self.use_layer_norm
        self._convolution = convolution_of(*shape, published=True)
        self._of_given_basis = convolution_of(*shape, published=False)

    def divide(self, first: Fiber, second: Fiber) -> None:
        """Have :meth:`messages` return the channels of ``first`` and of ``second``, which follow them, by themselves.

        Raises:
            ValueError: these are not the channels of ``fiber_out``.
        """
        if dict((first + second).items()) != dict(self.fiber_out.items()):
            raise ValueError(f"first and second must add up to {self.fiber_out}, got {first} and {second}")
        self._parts = (first, second)
        self._describe()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        found = self.layout_in(state_dict, prefix)
        if found is not None and found is not self.layout:
            self._change_layout(found)
        *_, errors = rest
        errors += self._misfits(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _misfits(self, state_dict: Mapping[str, Any], prefix: str) -> Iterator[str]:
        """What names of parameters tell of arguments that this layer was not made with."""
        names = [name[len(prefix) :] for name in state_dict if name.startswith(prefix) and ".net." in name]
        where = f"{prefix.rstrip('.')}: " if prefix else ""
        allowed = layouts(Fiber(self.sent), self.fiber_out, self.max_degree)
        for layout in {layout_named(name): None for name in names}:
            if layout not in allowed:
                yield (
                    f"{where}a radial network there serves {layout.value}, which needs equal channels of all degrees "
                    f"up to max_degree={self.max_degree}; fibers here are {Fiber(self.sent)} and {self.fiber_out}"
                )
        if names and (has_norms := any(".net.6." in name for name in names)) != self.use_layer_norm:
            yield f"{where}the radial networks there need use_layer_norm={has_norms}"

    def _change_layout(self, layout: Layout) -> None:
        before, own = self._modules.pop(self.layout.container), self._modules.pop("to_kernel_self")
        assert before is not None
        like = next(before.parameters())
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are not to be seen
            made = self._make_networks(layout)
        made.to(like).requires_grad_(like.requires_grad).train(self.training)
        self._modules["to_kernel_self"] = own  # last, as in a new layer

    def layout_in(self, state_dict: Mapping[str, Any], prefix: str) -> Layout | None:
        """The layout of the layer of a ``prefix`` in a ``state_dict``; None for none that the fibers can have."""
        for layout in layouts(Fiber(self.sent), self.fiber_out, self.max_degree):
            networks = networks_of(layout, self.sent, self.made)
            if all(f"{prefix}{network.name}.radial_func.net.0.weight" in state_dict for network in networks):
                return layout
        return None

    @property
    def networks(self) -> list[RadialProfile]:
        """The radial networks.

        Raises:
            ValueError: what holds them has hooks, which would not fire.
        """
        container = getattr(self, self.layout.container)
        check_never_called(container, self.layout.container)
        if self.layout is Layout.ALL:
            return [container.radial_func]
        for name, module in container.items():
            check_never_called(module, f"{self.layout.container}.{name}")
        return [module.radial_func for module in container.values()]

    def messages(
        self, node_feats: Features, edge_feats: Features | None, graph: Any, basis: BasisLike
    ) -> list[Features]:
        """The messages on the edges, without self-interaction.

        Args:
            node_feats, edge_feats, graph, basis: as of :meth:`forward`.

        Returns:
            ``{degree: [edges, channels, 2 degree + 1]}`` of ``fiber_out``, or of the two that it was divided into.
        """
        G, edge_feats = as_graph(graph), by_degree(edge_feats, "edge_feats")
        node_feats = of_fiber(by_degree(node_feats, "node_feats"), self._plain_in)
        check_features(node_feats, self._plain_in, G.num_nodes(), "node_feats", self)
        inputs = self._inputs(G, node_feats, edge_feats, basis)
        convolution = self._convolution if isinstance(inputs.basis, Basis) else self._of_given_basis
        found = iter(contract(convolution, self.networks, inputs))
        return [{str(degree): next(found) for degree in part.degrees} for part in self._parts]

    def _inputs(self, G: GraphLike, node_feats: Features, edge_feats: Features | None, basis: BasisLike) -> Inputs:
        scalars = self._checked_scalars(edge_feats, G.num_edges())
        assert edge_feats is not None  # or it was refused
        on_edges = {str(k): edge_feats[str(k)] for k in self._on_edges}
        first = {str(k): self.fiber_in[k] for k in self._on_edges}
        src, _ = edges_on(G, scalars.device)
        if basis is None:
            G = as_here(G, scalars)
            basis = frames_of(G, self.max_degree, compute_gradients=False)
        if isinstance(basis, Mapping):
            given = GivenBasis(basis, 1.0 if self.layout is Layout.PAIR else Y_0, scalars)
            given.check((k, l) for k, _ in self.sent for l, _ in self.made)
            return Inputs(node_feats, src, scalars, given, False, on_edges, first)
        frames, r = _basis_and_r(basis)
        frames.check(G)
        # The plan's own copy: the graph's edges may be written to before the backward pass reads them.
        return Inputs(node_feats, frames.plan.src, scalars, frames, frames.is_of(scalars, r), on_edges, first)

    def _checked_scalars(self, edge_feats: Features | None, edges: int) -> Tensor:
        scalars, channels = scalars_of(edge_feats, edges), self.fiber_edge[0] + 1
        check_floating_point(scalars, "edge_feats['0']", self)
        if scalars.shape[1] != channels:
            raise ValueError(
                f"edge_feats['0'] must have {channels} channels, those of fiber_edge and the distance, "
                f"got {scalars.shape[1]}"
            )
        if self._on_edges:
            fiber = plain_fiber(Fiber(self._on_edges), "fiber_edge")
            check_features(of_fiber(edge_feats, fiber), fiber, edges, "edge_feats", self)
        return scalars

    def forward(
        self, node_feats: Features, edge_feats: Features | None = None, graph: Any = None, basis: BasisLike = None
    ) -> Features:
        """New node features, or messages.

        Args:
            node_feats: ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber_in``; other degrees are ignored.
            edge_feats: ``{degree: [edges, channels, 2 degree + 1]}`` of fiber ``fiber_edge``, with the distance as one
                more channel of degree 0, the last (see :func:`get_populated_edge_features`); degrees that
                ``fiber_edge`` or ``fiber_in`` lacks are ignored.
            graph: DGLGraph, Graph or PyTorch Geometric ``Data``; with ``edata['rel_pos']``, ``[edges, 3]``, where no
                basis is given.
            basis: the package's, from :func:`~equivariant_attention.nvidia.get_basis`; or this library's, a pair from
                :func:`~equivariant_attention.basis.get_basis_and_r`; None for frames of the edges.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber_out``, 0 at nodes without incoming edges;
            on the edges without ``pool``.

        Raises:
            KeyError: the graph has no ``edata['rel_pos']``.
            TypeError, ValueError: features, edge features or basis are not those of the layer and the graph.
        """
        check_hooks(self, "to_kernel_self")
        parts = self.messages(node_feats, edge_feats, graph, basis)
        output = parts[0] if len(parts) == 1 else joined(*parts)
        G = as_graph(graph)
        own = mixed_by_degree(self.to_kernel_self, by_degree(node_feats)) if self.to_kernel_self else {}
        _, dst = edges_on(G, next(iter(output.values())).device)
        if not self.pool:
            return {d: m + own[d].index_select(0, dst) if d in own else m for d, m in output.items()}
        incoming = segment_size(dst, G.num_nodes())
        if self.sum_over_edge:
            output, share = {d: segment_sum(m, dst, G.num_nodes()) for d, m in output.items()}, incoming
        else:
            output, share = {d: segment_mean(m, dst, incoming) for d, m in output.items()}, incoming.clamp_max(1)
        return {d: m + share[:, None, None] * own[d] if d in own else m for d, m in output.items()}

    def extra_repr(self) -> str:
        return (
            f"fiber_in={self.fiber_in}, fiber_out={self.fiber_out}, fiber_edge={self.fiber_edge}, pool={self.pool}, "
            f"self_interaction={self.self_interaction}, layout={self.layout.name}"
        )


def _basis_and_r(basis: Any) -> BasisAndR:
    if not (isinstance(basis, tuple) and len(basis) == 2 and isinstance(basis[0], Basis)):
        expected = "a dict from get_basis, or basis and r from get_basis_and_r, or None"
        raise TypeError(f"basis must be {expected}, got {type(basis).__name__}")
    return basis


def joined(first: Features, second: Features) -> Features:
    """Features of the degrees of the first, the channels of the second appended to them."""
    return {d: torch.cat([m, second[d]], dim=1) if d in second else m for d, m in first.items()}
