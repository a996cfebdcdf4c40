"""Backend 'frame': runs the SO(2) convolutions of ``frame.py`` block by block of edges, checkpointed.

Only the inputs are saved for the backward pass, which computes each block again. So memory does not grow with edges
times channels squared, as radial weights of all edges would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction import frame
from ..contraction.convolution import Convolution, Ends, Pair
from ..contraction.derivatives import Part, evaluated, flat, gradient_of, like
from ..contraction.inputs import Inputs
from ..contraction.memory import memory_for
from ..contraction.radial import PARAMETERS, checked_parameters, hidden, stacked
from ..native.private import is_looked_into
from ..so3.couplings import published_sign


def messages(convolution: Convolution, networks: Sequence[Any], inputs: Inputs) -> list[Tensor]:
    """All messages along every edge.

    Where PyTorch compiles, traces or transforms this code, it must see the operations, to differentiate them itself.
    All edges are then one block, whose memory grows with edges times channels squared.
    """
    layout = frame.layout_of(convolution)
    own = checked_parameters(convolution, networks, inputs.scalars)
    t = tensors(
        layout,
        features=[inputs.on_nodes(k, c) for k, c in convolution.features],
        on_edges=[inputs.on_edges.get(str(k)) for k, _ in convolution.features],
        scalars=inputs.scalars,
        frames=[inputs.basis.frames[l] for l in convolution.degrees],
        parameters=own,
    )
    problem = Problem(layout, inputs)
    output = _in_one_block(problem, t) if is_looked_into() else evaluated(problem, t)
    return _with_zero_length(convolution, inputs, own, output)


def tensors(
    layout: frame.Layout,
    features: Sequence[Tensor],
    on_edges: Sequence[Tensor | None],
    scalars: Tensor,
    frames: Sequence[Tensor],
    parameters: Sequence[Any],
) -> Tensors:
    """The tensors that :class:`Problem` works on, from features and parameters in the layouts of the model."""
    networks = [parameters[i : i + PARAMETERS] for i in range(0, len(parameters), PARAMETERS)]
    return Tensors(
        sent=torch.cat([feature.mT.flatten(1) for feature in features], dim=1),
        scalars=scalars,
        on_edges=list(on_edges),
        frames=list(frames),
        hidden_layers=stacked(networks),
        weights=frame.aligned_weights(layout, [network[-2:] for network in networks]),
    )


def _in_one_block(problem: Problem, t: Tensors) -> list[Tensor]:
    order = problem.plan.order
    block = Block(order, slice(None), 1)
    found = problem.messages(problem.on_block(t, block), block.D)
    return [torch.empty_like(part).index_copy(0, order, part) for part in found]


def _with_zero_length(
    convolution: Convolution, inputs: Inputs, parameters: Sequence[Any], messages: Sequence[Tensor]
) -> list[Tensor]:
    edges = inputs.basis.without_direction
    parts = isotropic(convolution, inputs, parameters, edges)
    return [m if part is None else m.index_add(0, edges, part) for m, part in zip(messages, parts, strict=True)]


def isotropic(
    convolution: Convolution, inputs: Inputs, parameters: Sequence[Any], edges: Tensor
) -> list[Tensor | None]:
    """The messages along edges of length zero, which have no direction; None where they are zero.

    Of the kernel only J = 0 remains, which does not depend on the direction: it maps each degree to itself. From degree
    0 to degree 0 nothing is missing, as no frame is needed there.
    """
    found: list[Tensor | None] = [None] * len(convolution.messages)
    if not is_looked_into() and not len(edges):
        return found
    some = inputs.of(edges)
    for pair, ends in zip(convolution.pairs, convolution.ends, strict=True):
        l, o = ends.degree_in, pair.message
        if l == ends.degree_out > 0:
            network = parameters[PARAMETERS * pair.network : PARAMETERS * (pair.network + 1)]
            R = _isotropic_weights(pair, ends, network, some.scalars)
            scale = published_sign(l, l, 0) / math.sqrt(4 * math.pi * (2 * l + 1)) * (pair.scales or [1])[0]
            part = scale * (R @ some.sent(l, ends.channels_in))
            found[o] = part if found[o] is None else found[o] + part
    return found


def _isotropic_weights(pair: Pair, ends: Ends, network: Sequence[Any], scalars: Tensor) -> Tensor:
    """The radial weights of J = 0, ``[edges, channels out, channels in]``."""
    (g,), (weight, bias) = hidden(scalars, *stacked([network])), network[-2:]
    last = pair.part(weight.T, ends)[..., 0].flatten(1)
    R = g[:, :-1] @ last
    if bias is not None:
        R = R + pair.part(bias, ends)[..., 0].flatten()
    return R.unflatten(1, (ends.channels_out, ends.channels_in))


class Tensors(NamedTuple):
    """The tensors that messages are a function of, for all edges or for a block of them."""

    sent: Any  # features, all degrees side by side: of all nodes, or of the source nodes of a block
    scalars: Any  # what the radial networks see
    on_edges: Sequence[Any]  # for each feature, channels of the edges themselves, or None
    frames: Sequence[Any]  # for each degree, Wigner-D matrices that turn the edges to the polar axis
    hidden_layers: Sequence[Any]  # from radial.stacked
    weights: Sequence[Any]  # from frame.aligned_weights


class Block(NamedTuple):
    """Edges that are evaluated together.

    Attributes:
        edges: their indices in the graph.
        planned: their positions in the order of the plan.
        D: how many edges share radial weights: 2 or 1.
    """

    edges: Tensor
    planned: slice
    D: int


class Problem:
    """What messages depend on apart from tensors with derivatives, and how they are evaluated."""

    def __init__(self, layout: frame.Layout, inputs: Inputs) -> None:
        self.layout, self.src = layout, inputs.src
        self.first = [inputs.first.get(str(k), 0) for k, _ in layout.features]
        self.degrees = layout.convolution.degrees
        self.plan, self.pairs_share = inputs.basis.plan, inputs.pairs_share
        self.memory = memory_for("graph", self.src.device)

    def forward(self, t: Tensors) -> list[Tensor]:
        """The messages along all edges."""
        edges = self.plan.num_edges
        output = [t.sent.new_empty(edges, c, 2 * l + 1) for (l, _), c in self.layout.messages.items()]
        for block in self.blocks(share=True):
            for whole, part in zip(output, self.messages(self.on_block(t, block), block.D), strict=True):
                whole.index_copy_(0, block.edges, part)
        return output

    def gradient(self, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
        """First derivatives, which autograd can differentiate again."""
        # Edges that share radial weights still have their own derivatives with respect to their scalars.
        parts = (
            Part(
                messages=partial(self.messages, D=block.D),
                tensors=self.on_block(t, block),
                rows=self.rows(t, block),
                gradients=[d[block.edges] for d in gradients],
            )
            for block in self.blocks(share=not t.scalars.requires_grad)
        )
        return gradient_of(parts, t, needed)

    def blocks(self, share: bool) -> Iterator[Block]:
        """Blocks of edges: first the pairs of edges that share radial weights, if they are to, then all other edges.

        They are so small that radial weights and all else that autograd keeps of a block takes as much as it may.
        """
        shared, sizes = 2 * len(self.plan.pairs) if share and self.pairs_share else 0, self.layout.row_sizes
        for D, start, end in ((2, 0, shared), (1, shared, self.plan.num_edges)):
            row = 4 * (D * sizes.values + 6 * sizes.hidden + 4 * sizes.radial_weights)
            rows, rows_at_once = (end - start) // D, max(1, self.memory // row)
            count = -(-rows // rows_at_once)
            for i in range(count):
                planned = slice(start + D * (i * rows // count), start + D * ((i + 1) * rows // count))
                yield Block(self.plan.order[planned], planned, D)

    def on_block(self, t: Tensors, block: Block) -> Tensors:
        """The part of all tensors that a block needs; scalars of one edge of each row, which shares them."""
        return t._replace(
            sent=t.sent[self.src[block.edges]],
            on_edges=[None if v is None else v[block.edges] for v in t.on_edges],
            scalars=t.scalars[block.edges[:: block.D]],
            frames=[frame[block.planned] for frame in t.frames],
        )

    def rows(self, t: Tensors, block: Block) -> Tensors:
        """For each tensor of a block, which rows of the graph's it has; None for tensors that all blocks share."""
        planned = torch.arange(block.planned.start, block.planned.stop, device=block.edges.device)
        return like(t, [None] * len(flat(t)))._replace(
            sent=self.src[block.edges],
            on_edges=[block.edges] * len(t.on_edges),
            scalars=block.edges[:: block.D],
            frames=[planned] * len(t.frames),
        )

    def turned(self, t: Tensors, values: frame.Values) -> frame.Values:
        """Values turned into the frames of their edges, D^k(R) f."""
        frames = dict(zip(self.degrees, t.frames, strict=True))
        return {key: frames[key[0]] @ v if key[0] else v for key, v in values.items()}

    def messages(self, t: Tensors, D: int) -> list[Tensor]:
        """The messages of a block, ``[edges, channels, 2l+1]``."""
        layout, back = self.layout, t._replace(frames=[D_l.mT for D_l in t.frames])
        sent = frame.sent_values(layout, t.sent, t.on_edges, self.first)
        parts = frame.by_order(layout.inputs, self.turned(t, sent), D)
        mixed = frame.mix(layout, parts, hidden(t.scalars, *t.hidden_layers), t.weights)
        values = self.turned(back, frame.by_degree(layout.outputs, mixed))
        return [values[key].mT for key in layout.messages]
