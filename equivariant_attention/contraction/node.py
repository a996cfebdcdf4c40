r"""Backend 'node': sums over channels in are done once per source node, for all of its outgoing edges.

Radial weights are :math:`R = A g`, with the hidden values g of the pair's radial network (and a 1, for the bias) and
its last layer A, which does not depend on the edge. So

.. math:: m_{ij}^l = \sum_k \sum_{J,q} W_{Jq}(x_{ij}) \sum_h g_h(x_{ij}) \; P_{jhJq}, \qquad
          P_{jhJq} = \sum_c A_{hJc} \, f_{jcq}^k

where q is an order of degree k, h a hidden value and c a channel in. P costs as much per node as the radial weights of
2k+1 edges, but then no edge needs radial weights.

Source nodes are taken in blocks, ``[rows, slots]``. A row is a node with some of its outgoing edges, and a slot is one
of these edges. Where a row has fewer edges than slots, the last edge is repeated, and the surplus messages are dropped.
Blocks are checkpointed: the backward pass computes them again.

Throughout, the values of a pair of degrees are in the order (q, J, channel out).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction.convolution import Convolution, Ends, Pair
from ..contraction.derivatives import Part, evaluated, flat, gradient_of, like
from ..contraction.inputs import Inputs
from ..contraction.memory import memory_for
from ..contraction.radial import HIDDEN, PARAMETERS, checked_parameters, hidden, stacked

VALUES = HIDDEN + 1  # hidden values of a radial network, and a one that multiplies the biases


def messages(convolution: Convolution, networks: Sequence[Any], inputs: Inputs) -> list[Tensor]:
    """All messages along every edge."""
    layout = layout_of(convolution)
    own = checked_parameters(convolution, networks, inputs.scalars)
    by_network = [own[i : i + PARAMETERS] for i in range(0, len(own), PARAMETERS)]
    t = Tensors(
        features=[inputs.on_nodes(k, c).mT.contiguous() for k, c in convolution.features],
        on_edges=[inputs.on_edges.get(str(k)) for k, _ in convolution.features],
        scalars=inputs.scalars,
        basis=[inputs.basis[f"{k},{l}"][:, 0, :, 0].flatten(2) for k, l in layout.pairs],
        hidden_layers=stacked(by_network),
        weights=[
            node_weights(pair, ends, *by_network[pair.network][-2:])
            for pair, ends in zip(convolution.pairs, convolution.ends, strict=True)
        ],
    )
    return list(evaluated(Problem(layout, inputs), t))


def node_weights(pair: Pair, ends: Ends, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A: weight and bias of the last layer of a radial network, ``[33, channels in, F x channels out]``."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    both = pair.part(torch.cat([weight, bias[:, None]], dim=1).T, ends)  # [33, channels out, channels in, F]
    if pair.scales:
        both = both * both.new_tensor(pair.scales)
    return both.permute(0, 2, 3, 1).flatten(2).contiguous()


class Term(NamedTuple):
    """The contribution of one feature to a message.

    Attributes:
        k: degree of the feature.
        feature, network, pair, basis: indices of the feature, the radial network, the pair and the pair of degrees.
    """

    k: int
    feature: int
    network: int
    pair: int
    basis: int


class Sizes(NamedTuple):
    """How many elements a block has.

    Attributes:
        every_p: of P per row, of all pairs together.
        every_t: of T per slot, likewise.
        slot: of everything else per slot.
    """

    every_p: int
    every_t: int
    slot: int


class Layout:
    """The terms that evaluate a convolution.

    Args:
        convolution: the convolution.

    Attributes:
        features, messages: degree and channels of each.
        pairs: the different pairs of degrees (k, l).
        terms: the terms of each message.
        sizes: the sizes of a block.
    """

    def __init__(self, convolution: Convolution) -> None:
        self.features, self.messages, ends = convolution.features, convolution.messages, convolution.ends
        self.pairs = sorted({(e.degree_in, e.degree_out) for e in ends}, key=lambda pair: pair[::-1])
        self.terms: list[list[Term]] = [[] for _ in self.messages]
        for i, (pair, e) in enumerate(zip(convolution.pairs, ends, strict=True)):
            place = self.pairs.index((e.degree_in, e.degree_out))
            self.terms[pair.message].append(Term(e.degree_in, pair.feature, pair.network, i, place))
        widths = [(2 * e.degree_in + 1) * e.num_freq * e.channels_out for e in ends]
        basis = sum((2 * l + 1) * (2 * k + 1) * (2 * min(k, l) + 1) for k, l in self.pairs)
        values = sum((2 * l + 1) * c for l, c in self.messages)
        slot = 6 * VALUES * len(convolution.rows) + 2 * basis + values
        self.sizes = Sizes(VALUES * sum(widths), sum(widths), slot)


layout_of = lru_cache(maxsize=1024)(Layout)


class Tensors(NamedTuple):
    """The tensors that messages are a function of, for the whole graph or for a block of it."""

    features: Sequence[Any]  # [nodes or rows, 2k+1, channels in]
    on_edges: Sequence[Any]  # for each, channels of the edges themselves, [edges or slots, channels, 2k+1], or None
    scalars: Any  # what the radial networks see, [edges or slots, edge_dim + 1]
    basis: Sequence[Any]  # [edges or slots, 2l+1, (2k+1) x F]
    hidden_layers: Sequence[Any]  # from radial.stacked
    weights: Sequence[Any]  # for each pair, [33, channels in, F x channels out]


class Block(NamedTuple):
    """Rows that are evaluated together.

    Attributes:
        nodes: the node of each row.
        slots: the edge in each slot.
        edges: the edges of all rows, each once.
        places: the slot of each of ``edges``; None if no edge is repeated.
    """

    nodes: Tensor
    slots: Tensor
    edges: Tensor
    places: Tensor | None

    def by_edge(self, values: Tensor) -> Tensor:
        """From values in the slots to values of ``edges``."""
        return values if self.places is None else values[self.places]

    def by_slot(self, values: Tensor) -> Tensor:
        """From values of all edges of the graph to values in the slots; zero where an edge is repeated."""
        values = values[self.edges]
        if self.places is None:
            return values
        return values.new_zeros(len(self.slots), *values.shape[1:]).index_copy(0, self.places, values)

    def rows(self, d: Tensors) -> Tensors:
        """For each tensor of the block, which rows of the graph's it has; None for tensors that all blocks share."""
        return like(d, [None] * len(flat(d)))._replace(
            features=[self.nodes] * len(d.features),
            on_edges=[self.slots] * len(d.on_edges),
            scalars=self.slots,
            basis=[self.slots] * len(d.basis),
        )


class Problem:
    """What messages depend on apart from tensors with derivatives, and how they are evaluated."""

    def __init__(self, layout: Layout, inputs: Inputs) -> None:
        self.layout, self.first = layout, [inputs.first.get(str(k), 0) for k, _ in layout.features]
        self.plan = inputs.basis.plan
        self.memory = memory_for("graph", inputs.src.device)

    def forward(self, t: Tensors) -> list[Tensor]:
        """The messages along all edges."""
        output = [t.scalars.new_empty(self.plan.num_edges, c, 2 * l + 1) for l, c in self.layout.messages]
        for block in self.blocks(t):
            for whole, part in zip(output, self.messages(self.on_block(t, block)), strict=True):
                whole.index_copy_(0, block.edges, block.by_edge(part.mT))
        return output

    def gradient(self, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
        """First derivatives, which autograd can differentiate again."""
        parts = (
            Part(self.messages, self.on_block(t, block), block.rows(t), [block.by_slot(v).mT for v in gradients])
            for block in self.blocks(t)
        )
        return gradient_of(parts, t, needed)

    def blocks(self, t: Tensors) -> Iterator[Block]:
        """Blocks so small that every P, every T and all else that autograd keeps of one takes as much as it may."""
        sizes = self.layout.sizes
        numbers = self.memory // (2 * t.scalars.element_size())
        ranges = self.plan.out_edges.ranges(numbers // sizes.every_p, numbers // (sizes.slot + sizes.every_t))
        return (Block(*self.plan.out_edges.block(*rows)) for rows in ranges)

    def on_block(self, t: Tensors, block: Block) -> Tensors:
        """The part of all tensors that a block needs."""
        return t._replace(
            features=[f[block.nodes] for f in t.features],
            on_edges=[None if v is None else v[block.slots] for v in t.on_edges],
            scalars=t.scalars[block.slots],
            basis=[W[block.slots] for W in t.basis],
        )

    def messages(self, b: Tensors) -> list[Tensor]:
        """The messages of a block, ``[slots, 2l+1, channels]``."""
        g, output = hidden(b.scalars, *b.hidden_layers), []
        for terms in self.layout.terms:
            T = [self.on_edges(b, term, g[term.network], self.on_nodes(b, term)) for term in terms]
            # The bases of all terms, side by side, [slots, 2l+1, (k, q, J)].
            W = torch.cat([b.basis[term.basis] for term in terms], dim=2)
            output.append(W @ torch.cat(T, dim=2).view(*W.mT.shape[:2], -1))
        return output

    def on_nodes(self, b: Tensors, term: Term) -> Tensor:
        """P, ``[rows, 33, (q, J, channel out)]``."""
        f, A = b.features[term.feature], b.weights[term.pair]
        return (f.flatten(0, 1) @ A).view(len(A), len(f), -1).transpose(0, 1)

    def on_edges(self, b: Tensors, term: Term, g: Tensor, P: Tensor) -> Tensor:
        """T = sum_h g_h P_h, which the basis is multiplied by, ``[rows, slots in a row, (q, J, channel out)]``."""
        g = g.view(len(P), -1, VALUES)
        T = g @ P
        own = b.on_edges[term.feature]
        if own is not None:
            # Features of the edge itself are no part of P, which belongs to the node: they need radial weights.
            R = (g.flatten(0, 1) @ self.of_edges(b, term)).unflatten(1, (own.shape[1], -1))
            T = T + (own.mT @ R).view_as(T)
        return T

    def of_edges(self, b: Tensors, term: Term) -> Tensor:
        """The part of A for the channels that edges add to, ``[33, channels x F x c_out]``."""
        first, channels = self.first[term.feature], b.on_edges[term.feature].shape[1]
        return b.weights[term.pair][:, first : first + channels].flatten(1)
