"""Convolutions of tensor field networks: :class:`GConvSE3` on nodes, :class:`GConvSE3Partial` its messages on edges."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..basis import Basis
from ..checks import as_floating_point, check_features, check_floating_point, of_fiber, with_three_dimensions
from ..contraction import Inputs, attend, contract, may_attend
from ..contraction.convolution import Convolution, by_set, pairwise
from ..contraction.radial import HIDDEN
from ..envelope import edge_envelope
from ..fibers import Features, Fiber, by_degree, check_fiber
from ..graphs import GraphLike, as_graph, edges_on
from ..modules.attention import GMABSE3
from ..modules.linear import mixed
from ..modules.pairwise import PairwiseConv
from ..plain_modules import check_hooks, check_never_called, has_hooks_of_all, is_plain
from ..plan import relative_positions
from ..printing import OneLine
from ..segments import segment_mean, segment_size, segment_softmax, segment_sum

X_IJ = (None, "cat", "add")
REDUCE = ("mean", "sum")


class GConvSE3Partial(OneLine):
    r"""Messages of a tensor field network along the edges, not summed at the nodes (arXiv 1802.08219).

    .. math:: m_{ij}^l = \sum_k W^{lk}(x_i - x_j) \, f_j^k

    (equation (8) of arXiv 2006.10503), for an edge from node j to node i. An envelope on the edges is not applied here,
    but by the layer that sums the messages.

    Args:
        f_in: fiber of the node features.
        f_out: fiber of the messages.
        edge_dim: number of scalar features ``edata['w']`` per edge.
        x_ij: how the relative position ``edata['d']`` is used as a feature: None, not at all; 'cat', it is appended to
            the input as the last channel of degree 1 (which ``f_in`` need not have); 'add', it is added to the first
            channel of degree 1 if ``f_in`` has at least two such channels, and otherwise not used (as published).
            If the graph has ``ndata['x']``, gradients of this term flow to it rather than to ``edata['d']``, also as
            published; without it they flow to ``edata['d']``.
        mid_dim, act_fn: as in :class:`RadialFunc`.
        f_edge: fiber of features of the edges themselves, of any degrees. Their channels are appended to those of the
            source node. (Scalar features that the radial networks are to see are ``edata['w']`` instead.)

    Raises:
        ValueError: ``x_ij`` is none of these.
    """

    def __init__(
        self,
        f_in: Fiber,
        f_out: Fiber,
        edge_dim: int = 0,
        x_ij: str | None = None,
        mid_dim: int = HIDDEN,
        act_fn: nn.Module | Callable[[], nn.Module] = nn.ReLU,
        f_edge: Fiber | None = None,
    ) -> None:
        super().__init__()
        if x_ij not in X_IJ:
            raise ValueError(f"x_ij must be one of {X_IJ}, got {x_ij!r}")
        self.f_in, self.f_out, self.edge_dim, self.x_ij, self.f_edge = f_in, f_out, edge_dim, x_ij, f_edge
        check_fiber(f_in, "f_in")
        self.f_sent = _with_edges(f_in, f_edge)
        if x_ij == "cat":
            self.f_sent = Fiber.combine(self.f_sent, Fiber(structure=[(1, 1)]))
        self.kernel_unary = pairwise_kernels(self.f_sent, f_out, edge_dim, mid_dim, act_fn)
        self.convolution = pairwise(self.f_sent, (f_out,))

    @property
    def takes(self) -> tuple[Fiber, int, str | None, Fiber | None]:
        """The options that :meth:`inputs` depends on: layers that agree in them can share their inputs."""
        return self.f_in, self.edge_dim, self.x_ij, self.f_edge

    def inputs(
        self,
        h: Features,
        G: Any,
        r: Tensor | None,
        basis: Mapping[str, Tensor] | None,
        edge_features: Features | None = None,
    ) -> Inputs:
        """The checked tensors that messages are made from; equal for layers of equal ``takes``.

        Args:
            h, G, r, basis, edge_features: as of :meth:`forward`.

        Returns:
            the inputs of :func:`~equivariant_attention.contraction.contract`.
        """
        G, h = as_graph(G), with_three_dimensions(by_degree(h, "h"))
        inputs, channels = checked_inputs(self, h, G, r, basis, edge_features), self.f_in.dict.get(1, 0)
        own = inputs.on_edges.get("1")
        if self.x_ij == "cat":
            vector = _x_ij(G)[:, None]
            both = vector if own is None else torch.cat([own, vector.to(own.dtype)], dim=1)
            inputs = _with_own(inputs, both, channels)
        elif self.x_ij == "add" and channels > 1:
            vector = _x_ij(G)[:, None]
            both = (
                vector if own is None else torch.cat([pad(vector, (0, 0, 0, channels - 1)).to(own.dtype), own], dim=1)
            )
            inputs = _with_own(inputs, both, 0)
        return inputs

    def forward(
        self,
        h: Features,
        G: Any = None,
        r: Tensor | None = None,
        basis: Mapping[str, Tensor] | None = None,
        edge_features: Features | None = None,
        **kwargs,
    ) -> Features:
        """Messages along the edges of ``G``.

        Args:
            h: node features of fiber ``f_in``, ``{degree: [nodes, channels, 2 degree + 1]}``; degree 0 may be
                ``[nodes, channels]``.
            G: graph with ``edata['d']``, and ``edata['w']``, floating-point or integer, if ``edge_dim`` is not 0.
            r, basis: from :func:`~equivariant_attention.basis.get_basis_and_r`.
            edge_features: features of fiber ``f_edge``, ``{degree: [edges, channels, 2 degree + 1]}``. If None, they
                are read from the graph, degree by degree: ``edata['f0']``, ``edata['f1']``, ...

        Returns:
            ``{degree: [edges, channels, 2 degree + 1]}`` of fiber ``f_out``.

        Raises:
            TypeError, ValueError: features, edge features, distances or basis are not those of the layer and the graph.
        """
        check_hooks(self)
        return messages(self.convolution, [self], self.inputs(h, G, r, basis, edge_features))[0]

    def extra_repr(self) -> str:
        edges = f", f_edge={self.f_edge}" if self.f_edge else ""
        return f"f_in={self.f_in}, f_out={self.f_out}, edge_dim={self.edge_dim}, x_ij={self.x_ij!r}{edges}"


class GConvSE3(OneLine):
    r"""Tensor field network layer: the mean of the messages into each node, with an optional self-interaction.

    .. math:: f_i^l \leftarrow \frac{1}{|N_i|} \sum_{j \in N_i} \Big( \sum_k W^{lk}(x_i - x_j) f_j^k + S^l f_i^l \Big)

    (arXiv 1802.08219; equation (8) of arXiv 2006.10503). With flavor 'TFN' the message is multiplied by :math:`S^l`
    instead. A node without incoming edges gets 0, as published. With an envelope u on the edges (see
    :func:`~equivariant_attention.envelope.polynomial_envelope`), the mean is

    .. math:: \sum_{j \in N_i} u_{ij} \frac{u_{ij}}{\sum_{j'} u_{ij'}} ( \cdot )

    Args:
        f_in: fiber of the input.
        f_out: fiber of the output.
        self_interaction: whether there is a self-interaction, S above.
        edge_dim: number of scalar features ``edata['w']`` per edge.
        flavor: 'skip', S f_i is added for the degrees in both fibers; 'TFN', the message is multiplied by S.
        mid_dim, act_fn: as in :class:`RadialFunc`.
        f_edge: as in :class:`GConvSE3Partial`.
        reduce: 'mean', as above and as published; 'sum', without the division by :math:`|N_i|`, or with an envelope
            :math:`\sum_j u_{ij} ( \cdot )`. A sum grows with the number of neighbours, a mean does not.

    Raises:
        ValueError: ``flavor`` or ``reduce`` has another value.
    """

    def __init__(
        self,
        f_in: Fiber,
        f_out: Fiber,
        self_interaction: bool = False,
        edge_dim: int = 0,
        flavor: str = "skip",
        mid_dim: int = HIDDEN,
        act_fn: nn.Module | Callable[[], nn.Module] = nn.ReLU,
        f_edge: Fiber | None = None,
        reduce: str = "mean",
    ) -> None:
        super().__init__()
        if flavor not in ("skip", "TFN"):
            raise ValueError(f"flavor must be 'skip' or 'TFN', got {flavor!r}")
        if reduce not in REDUCE:
            raise ValueError(f"reduce must be one of {REDUCE}, got {reduce!r}")
        self.f_in, self.f_out, self.edge_dim, self.f_edge = f_in, f_out, edge_dim, f_edge
        self.self_interaction, self.flavor, self.reduce = self_interaction, flavor, reduce
        check_fiber(f_in, "f_in")
        f_sent = _with_edges(f_in, f_edge)
        self.kernel_unary = pairwise_kernels(f_sent, f_out, edge_dim, mid_dim, act_fn)
        self.convolution = pairwise(f_sent, (f_out,))
        self.kernel_self = nn.ParameterDict()
        if self_interaction:
            columns = f_in.dict if flavor == "skip" else f_out.dict
            for m_out, degree in f_out.structure:
                if degree in columns:
                    m_in = columns[degree]
                    self.kernel_self[str(degree)] = nn.Parameter(torch.randn(1, m_out, m_in) / m_in**0.5)

    def forward(
        self,
        h: Features,
        G: Any = None,
        r: Tensor | None = None,
        basis: Mapping[str, Tensor] | None = None,
        edge_features: Features | None = None,
        **kwargs,
    ) -> Features:
        """New node features.

        Args:
            h: node features of fiber ``f_in``, ``{degree: [nodes, channels, 2 degree + 1]}``; degree 0 may be
                ``[nodes, channels]``, and other degrees are ignored.
            G: graph with ``edata['d']``; with ``edata['w']``, floating-point or integer, if ``edge_dim`` is not 0; and
                with ``edata['envelope']``, ``[edges, 1]``, if there is an envelope.
            r, basis: from :func:`~equivariant_attention.basis.get_basis_and_r`.
            edge_features: as of :class:`GConvSE3Partial`.

        Returns:
            ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``f_out``.

        Raises:
            TypeError, ValueError: features, edge features, distances or basis are not those of the layer and the graph.
        """
        check_hooks(self, "kernel_self")
        G, h = as_graph(G), with_three_dimensions(of_fiber(by_degree(h, "h"), self.f_in))
        inputs = checked_inputs(self, h, G, r, basis, edge_features)
        _, dst = edges_on(G, inputs.src.device)
        (found,) = messages(self.convolution, [self], inputs)
        gathered = _mean if self.reduce == "mean" else _sum
        output, presence = gathered(found, dst, G.num_nodes(), edge_envelope(G))
        return self._interact_with_self(output, h, presence)

    def _interact_with_self(self, output: Features, h: Features, presence: Tensor) -> Features:
        for degree, S in self.kernel_self.items():
            if self.flavor == "TFN":
                output[degree] = mixed(S, output[degree])
            else:
                output[degree] = output[degree] + presence[:, None, None] * mixed(S, h[degree])
        return output

    def extra_repr(self) -> str:
        return (
            f"f_in={self.f_in}, f_out={self.f_out}, self_interaction={self.self_interaction}, "
            f"edge_dim={self.edge_dim}, flavor={self.flavor!r}, reduce={self.reduce!r}"
        )


def messages(convolution: Convolution, layers: Sequence[GConvSE3 | GConvSE3Partial], inputs: Inputs) -> list[Features]:
    """The messages of several layers with the same inputs, such as values and keys, in one pass over the edges.

    Args:
        convolution: the :func:`~equivariant_attention.contraction.convolution.pairwise` convolution of all of them.
        layers: layers with equal :attr:`GConvSE3Partial.takes`.
        inputs: the inputs of any of them.
    """
    networks = _networks(convolution, layers)
    return by_set([layer.f_out for layer in layers], contract(convolution, networks, inputs))


def _networks(convolution: Convolution, layers: Sequence[GConvSE3 | GConvSE3Partial]) -> list[nn.Module]:
    """The radial networks of the layers, in the order of the convolution."""
    sent = [degree for degree, _ in convolution.features]
    for layer in layers:
        check_never_called(layer.kernel_unary, "kernel_unary")
    return [layer.kernel_unary[f"({k},{l})"] for layer in layers for l in layer.f_out.degrees for k in sent]


def called_together(
    convolution: Convolution,
    layers: Sequence[nn.Module],
    h: Features,
    G: Any,
    r: Tensor | None,
    basis: Mapping[str, Tensor] | None,
    edge_features: Features | None = None,
) -> list[Features]:
    """The messages of each layer, in one pass over the edges if possible; otherwise the layers are called in turn.

    One pass is possible if all are unchanged :class:`GConvSE3Partial` (no hooks, no subclass), and their messages are
    those of ``convolution``.
    """
    plain = _as_one(convolution, layers)
    if plain:
        return messages(convolution, plain, plain[0].inputs(h, G, r, basis, edge_features))
    given = {} if edge_features is None else {"edge_features": edge_features}
    return [layer(h, G=G, r=r, basis=basis, **given) for layer in layers]


def attended_together(
    attention: nn.Module,
    q: Features,
    convolution: Convolution,
    layers: Sequence[nn.Module],
    h: Features,
    G: Any,
    r: Tensor | None,
    basis: Mapping[str, Tensor] | None,
    edge_features: Features | None = None,
) -> Features | None:
    """Attention on queries and on values and keys of two layers, fused on a GPU; None where that cannot run."""
    G = as_graph(G)
    if not may_attend(G.device) or not is_plain(attention, GMABSE3) or not (plain := _as_one(convolution, layers)):
        return None
    attention = cast(GMABSE3, attention)
    check_features(q, attention.f_key, G.num_nodes(), "q")
    inputs, queries = plain[0].inputs(h, G, r, basis, edge_features), [q[str(l)] for l in attention.f_key.degrees]
    found = attend(
        convolution, _networks(convolution, plain), inputs, attention.n_heads, attention.scale, queries,
        edge_envelope(G), partial(attention.on_tensors, G.num_nodes()),
    )  # fmt: skip
    return None if found is None else dict(zip(map(str, attention.f_value.degrees), found, strict=True))


def _as_one(convolution: Convolution, layers: Sequence[nn.Module]) -> list[GConvSE3Partial]:
    """The layers, if all are unchanged and together have the messages of the convolution; otherwise an empty list."""
    plain = [cast(GConvSE3Partial, layer) for layer in layers if is_plain(layer, GConvSE3Partial)]
    if len(plain) < len(layers) or has_hooks_of_all() or any(layer.takes != plain[0].takes for layer in plain):
        return []
    own = [layer.convolution for layer in plain]
    made = tuple(message for one in own for message in one.messages)
    return plain if convolution.messages == made and convolution.features == own[0].features else []


def _mean(messages: Features, dst: Tensor, num_nodes: int, envelope: Tensor | None) -> tuple[Features, Tensor]:
    """The mean of the messages into each node; and the same mean of ones, ``[nodes]``: 1, or 0 without neighbours."""
    if envelope is None:
        incoming = segment_size(dst, num_nodes)
        return {degree: segment_mean(m, dst, incoming) for degree, m in messages.items()}, incoming > 0
    return _sum(messages, dst, num_nodes, segment_softmax(torch.zeros_like(envelope), dst, num_nodes, envelope))


def _sum(messages: Features, dst: Tensor, num_nodes: int, weights: Tensor | None) -> tuple[Features, Tensor]:
    """The sum of the messages into each node, with weights ``[edges, 1]``; and the same sum of ones, ``[nodes]``."""
    if weights is None:
        return {d: segment_sum(m, dst, num_nodes) for d, m in messages.items()}, segment_size(dst, num_nodes)
    total = {d: segment_sum(weights[:, :, None].to(m.dtype) * m, dst, num_nodes) for d, m in messages.items()}
    return total, segment_sum(weights, dst, num_nodes).squeeze(-1)


def pairwise_kernels(
    f_in: Fiber, f_out: Fiber, edge_dim: int, mid_dim: int, act_fn: nn.Module | Callable[[], nn.Module]
) -> nn.ModuleDict:
    """A :class:`PairwiseConv` for every pair of degrees, keyed ``'(k,l)'``."""
    check_fiber(f_in, "f_in")
    check_fiber(f_out, "f_out")
    return nn.ModuleDict(
        {
            f"({k},{l})": PairwiseConv(k, m_in, l, m_out, edge_dim, mid_dim, act_fn)
            for m_in, k in f_in.structure
            for m_out, l in f_out.structure
        }
    )


def checked_inputs(
    layer: GConvSE3 | GConvSE3Partial,
    h: Features,
    G: GraphLike,
    r: Tensor | None,
    basis: Mapping[str, Tensor] | None,
    edge_features: Features | None = None,
) -> Inputs:
    """The inputs of a layer's messages, after checks whose errors name what does not fit.

    Raises:
        TypeError: ``r`` or ``basis`` is missing, or something has another dtype than the layer.
        ValueError: features, ``r`` or ``edata['w']`` have another shape or device than the graph and the layer ask for;
            or ``basis`` is of another graph.
        RuntimeError: ``basis`` is of another graph.
    """
    check_features(h, layer.f_in, G.num_nodes(), "h", layer)
    if r is None or not isinstance(basis, Mapping):
        raise TypeError(f"r and basis must come from get_basis_and_r, got {type(r).__name__}, {type(basis).__name__}")
    src, _ = edges_on(G, h[str(layer.f_in.min_degree)].device)
    scalars, own = _edge_scalars(G, r, layer), _edge_features(G, layer, edge_features)
    first = {degree: layer.f_in.dict.get(int(degree), 0) for degree in own}
    if not isinstance(basis, Basis):
        return Inputs(h, src, scalars, basis, False, own, first)
    basis.check(G)
    # src is the plan's own copy, as the graph's may be written to before the backward pass reads it.
    return Inputs(h, basis.plan.src, scalars, basis, basis.is_of(G.edata.get("w"), r), own, first)


def _edge_features(G: GraphLike, layer: GConvSE3 | GConvSE3Partial, given: Features | None) -> Features:
    """The features of the edges themselves, of the layer's ``f_edge``: those given, or those of the graph."""
    if layer.f_edge is None:
        if given is not None:
            raise ValueError(f"edge_features must be None for a layer without f_edge, got degrees {list(given)}")
        return {}
    if given is None:
        fields = {str(degree): f"f{degree}" for degree in layer.f_edge.degrees}
        if missing := [field for field in fields.values() if field not in G.edata]:
            raise KeyError(f"the graph must have edata[{missing[0]!r}], or edge_features be given, for {layer.f_edge}")
        given = {degree: G.edata[field] for degree, field in fields.items()}
    given = by_degree(given, "edge_features")
    check_features(given, layer.f_edge, G.num_edges(), "edge_features", layer)
    return {degree: given[degree] for degree in map(str, layer.f_edge.degrees)}


def _with_edges(f_in: Fiber, f_edge: Fiber | None) -> Fiber:
    """The fiber of what is sent along an edge: channels of the source node, then those of the edge."""
    if f_edge is None:
        return f_in
    check_fiber(f_edge, "f_edge")
    return Fiber.combine(f_in, f_edge)


def _with_own(inputs: Inputs, vectors: Tensor, first: int) -> Inputs:
    """Inputs with other edge features of degree 1, which begin at channel ``first``."""
    return replace(inputs, on_edges={**inputs.on_edges, "1": vectors}, first={**inputs.first, "1": first})


def _edge_scalars(G: GraphLike, r: Tensor, layer: GConvSE3 | GConvSE3Partial) -> Tensor:
    """What the radial networks see, ``[edges, edge_dim + 1]``: ``edata['w']`` where there is one, then the distance."""
    edges, edge_dim = G.num_edges(), layer.edge_dim
    check_floating_point(r, "r", layer)
    if tuple(r.shape) != (edges, 1):
        raise ValueError(f"r must have shape [{edges}, 1], got {list(r.shape)}")
    w = as_floating_point(G.edata["w"], r.dtype) if "w" in G.edata else r.new_zeros(edges, 0)
    check_floating_point(w, "edata['w']", layer)
    if tuple(w.shape) not in ((edges, edge_dim), (edges, edge_dim, 1)):
        raise ValueError(
            f"edata['w'] must have shape [{edges}, {edge_dim}] for a layer with edge_dim={edge_dim}, "
            + (f"got {list(w.shape)}" if "w" in G.edata else "but the graph has no edata['w']")
        )
    return torch.cat([w.reshape(edges, edge_dim), r], dim=-1)


def _x_ij(G: GraphLike) -> Tensor:
    """``edata['d']``, ``[edges, 3]``; if the graph has ``ndata['x']``, its derivatives are those of ``x_dst - x_src``.

    They are those of ``x_dst - x_src - offset`` if it also has ``edata['offset']``.
    """
    d = relative_positions(G)
    if "x" not in G.ndata:
        return d
    x, nodes = G.ndata["x"], G.num_nodes()
    if tuple(x.shape) not in ((nodes, 3), (nodes, 1, 3)):
        raise ValueError(f"ndata['x'] must be positions [{nodes}, 1, 3] or [{nodes}, 3], got {list(x.shape)}")
    if d.requires_grad and not x.requires_grad:
        warnings.warn(
            "x_ij sends its gradient to ndata['x'], which requires none, and not to edata['d'], which does: "
            "take ndata['x'] off the graph if that is not meant",
            stacklevel=2,
        )
    offset = G.edata.get("offset")  # across a periodic boundary, which depends on the cell
    if not (x.requires_grad or (offset is not None and offset.requires_grad)):
        return d.detach()
    src, dst = G.edges()
    difference = (x[dst] - x[src]).reshape(-1, 3)
    if offset is not None:
        difference = difference - offset
    return d.detach() + (difference - difference.detach())
