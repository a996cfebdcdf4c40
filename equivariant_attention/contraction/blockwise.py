"""Messages block by block of edges: what a block needs beside input and output is made again in the backward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction import frame
from ..contraction.derivatives import Part, Passes, differentiable_gradient, evaluated, zeros
from ..contraction.inputs import Inputs
from ..contraction.kernels import Hidden, KernelSet, hidden, stacked
from ..contraction.memory import room_for
from ..contraction.parameters import PARAMETERS, Ends, check_parameters, parameters
from ..fibers import Features, Fiber
from ..native.calls import is_transformed
from ..so3.couplings import published_sign


def messages(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs, fused: bool = False) -> list[Features]:
    """Messages along every edge, for each of the sets of kernels; ``fused``, with products in Triton.

    In code that PyTorch compiles, traces or transforms all edges are one block, whose memory grows with edges times
    channels squared: it can then look into it, and differentiate it itself.
    """
    layout = frame.layout_of(sets, fiber_in, fused)
    own = [p for kernel in layout.kernels(sets) for p in parameters(kernel)]
    check_parameters(layout.ends, own, inputs.scalars)
    t = tensors(
        layout,
        features=[inputs.features[str(k)] for k in fiber_in.degrees],
        vector=inputs.vector,
        scalars=inputs.scalars,
        frames=[inputs.basis.frames[l] for l in layout.degrees],
        parameters=own,
    )
    problem = Problem(layout, inputs)
    output = _in_one_block(problem, t) if is_transformed() else evaluated(problem.passes, t)
    return by_set(sets, inputs, layout, own, output)


def tensors(
    layout: frame.Layout,
    features: Sequence[Tensor],
    vector: Tensor | None,
    scalars: Tensor,
    frames: Sequence[Tensor],
    parameters: Sequence[Tensor],
) -> Tensors:
    """What the messages of a layout are a function of, made from features and parameters as the model has them."""
    networks = [parameters[i : i + PARAMETERS] for i in range(0, len(parameters), PARAMETERS)]
    return Tensors(
        sent=torch.cat([feature.mT.flatten(1) for feature in features], dim=1),
        vector=vector,
        scalars=scalars,
        frames=list(frames),
        trunk=stacked(networks),
        weights=frame.aligned_weights(layout, [network[-2:] for network in networks]),
    )


def by_set(
    sets: Sequence[KernelSet],
    inputs: Inputs,
    layout: frame.Layout,
    parameters: Sequence[Tensor],
    messages: Sequence[Tensor],
) -> list[Features]:
    """The messages of a layout for each of the sets of kernels, with those of edges without direction."""
    found: list[Features] = [{} for _ in sets]
    for (l, s), value in zip(layout.messages, messages, strict=True):
        found[s][str(l)] = value
    if len(inputs.basis.without_direction):
        _add_zero_length(inputs, layout, parameters, found)
    return found


def _in_one_block(problem: Problem, t: Tensors) -> list[Tensor]:
    order = problem.plan.order
    found = problem.messages(problem.on_block(t, Block(order, slice(None), 1), 1), 1, None)
    return [torch.empty_like(part).index_copy(0, order, part) for part in found]


def _add_zero_length(
    inputs: Inputs, layout: frame.Layout, parameters: Sequence[Tensor], messages: list[Features]
) -> None:
    """Add what edges of length zero carry: J = 0, which takes each degree to itself, whatever the direction."""
    edges = inputs.basis.without_direction
    some = inputs.of(edges)
    for i, ((k, _), (l, s)) in enumerate(product(layout.features, layout.messages)):
        if k == l > 0:
            R = _isotropic_weights(layout.ends[i], parameters[PARAMETERS * i : PARAMETERS * (i + 1)], some.scalars)
            scale = published_sign(l, l, 0) / math.sqrt(4 * math.pi * (2 * l + 1))
            messages[s][str(l)] = messages[s][str(l)].index_add(0, edges, scale * (R @ some.sent(l)))


def _isotropic_weights(kernel: Ends, network: Sequence[Tensor], scalars: Tensor) -> Tensor:
    """The radial weights of J = 0, ``[edges, channels out, channels in]``."""
    (g,), (weight, bias) = hidden(scalars, *stacked([network])), network[-2:]
    last = torch.cat([weight, bias[:, None]], dim=1).unflatten(0, (-1, kernel.num_freq))[:, 0]
    return (g @ last.T).unflatten(1, (kernel.channels_out, kernel.channels_in))


class Tensors(NamedTuple):
    """All that messages are a function of, on all edges or on a block of them."""

    sent: Any  # features, all degrees side by side: of the nodes, or of the source nodes of a block
    vector: Any
    scalars: Any
    frames: Sequence[Any]
    trunk: Sequence[Any]
    weights: Sequence[Any]

    def flat(self) -> tuple[Any, ...]:
        return (*self[:3], *self.frames, *self.trunk, *self.weights)

    def like(self, values: Sequence[Any]) -> Tensors:
        """Other values in the places of these."""
        f, t = 3 + len(self.frames), 3 + len(self.frames) + len(self.trunk)
        return Tensors(*values[:3], values[3:f], values[f:t], values[t:])


class Block(NamedTuple):
    """Edges that are evaluated together: which, where in the order of the plan, and how many share radial weights."""

    edges: Tensor
    planned: slice
    D: int


class Problem:
    """What messages depend on apart from tensors that have derivatives."""

    def __init__(self, layout: frame.Layout, inputs: Inputs) -> None:
        self.layout, self.src, self.channel = layout, inputs.src, inputs.channel
        self.plan, self.pairs_share = inputs.basis.plan, inputs.pairs_share
        self.room = {purpose: room_for(purpose, self.src.device) for purpose in ("cache", "block", "graph")}

    @property
    def passes(self) -> Passes:
        return Passes(self.plan, *(partial(f, self) for f in (_forward, _gradient, differentiable_gradient_of)))

    def blocks(self) -> Iterator[Block]:
        """Blocks of edges that share radial weights where they can."""
        shared = 2 * len(self.plan.pairs) if self.pairs_share else 0
        sizes = self.layout.row_sizes
        for D, start, end in ((2, 0, shared), (1, shared, self.plan.num_edges)):
            yield from self._blocks(D, start, end, self.room["block"] // (4 * (D * sizes.values + 6 * sizes.hidden)))

    def blocks_with_graph(self) -> Iterator[Block]:
        """Blocks whose radial weights are held, with what derivatives need."""
        sizes = self.layout.row_sizes
        size = 4 * (sizes.values + 6 * sizes.hidden + 4 * sizes.radial_weights)
        return self._blocks(1, 0, self.plan.num_edges, self.room["graph"] // size)

    def _blocks(self, D: int, start: int, end: int, rows_at_once: int) -> Iterator[Block]:
        rows = (end - start) // D
        count = -(-rows // max(1, rows_at_once))
        for i in range(count):
            planned = slice(start + D * (i * rows // count), start + D * ((i + 1) * rows // count))
            yield Block(self.plan.order[planned], planned, D)

    def on_block(self, t: Tensors, block: Block, every: int) -> Tensors:
        """The part of all tensors that a block needs, with the scalars of every so many edges."""
        return t._replace(
            sent=t.sent[self.src[block.edges]],
            vector=None if t.vector is None else t.vector[block.edges],
            scalars=t.scalars[block.edges[::every]],
            frames=[frame[block.planned] for frame in t.frames],
        )

    def rows(self, t: Tensors, block: Block) -> Tensors:
        """Where in the tensors of the whole graph those of the block belong; None for those that are not cut up."""
        planned = torch.arange(block.planned.start, block.planned.stop, device=block.edges.device)
        return t.like([None] * len(t.flat()))._replace(
            sent=self.src[block.edges], vector=block.edges, scalars=block.edges, frames=[planned] * len(t.frames)
        )

    def sent(self, t: Tensors) -> frame.Values:
        return frame.sent_values(self.layout, t.sent, t.vector, self.channel)

    def turned(self, t: Tensors, values: frame.Values) -> frame.Values:
        """Values in the frames of the edges."""
        frames = dict(zip(self.layout.degrees, t.frames, strict=True))
        return {key: frames[key[0]] @ v if key[0] else v for key, v in values.items()}

    def turned_back(self, t: Tensors, values: frame.Values) -> frame.Values:
        frames = dict(zip(self.layout.degrees, t.frames, strict=True))
        return {key: frames[key[0]].mT @ v if key[0] else v for key, v in values.items()}

    def mixed(self, t: Tensors, parts: frame.Parts, g: Tensor, room: Tensor | None) -> frame.Values:
        return frame.by_degree(self.layout.outputs, frame.mix(self.layout, parts, g, t.weights, room))

    def messages(self, t: Tensors, D: int, room: Tensor | None) -> list[Tensor]:
        """The messages of a block, ``[edges, channels, 2l+1]``."""
        parts = frame.by_order(self.layout.inputs, self.turned(t, self.sent(t)), D)
        g = hidden(t.scalars, *t.trunk) if room is None else Hidden(t.scalars, t.trunk, keep=False).output
        values = self.turned_back(t, self.mixed(t, parts, g, room))
        return [values[key].mT for key in self.layout.messages]


def _forward(problem: Problem, t: Tensors) -> list[Tensor]:
    edges, room = problem.plan.num_edges, _buffer(problem, t.weights)
    output = [t.sent.new_empty(edges, c, 2 * l + 1) for (l, _), c in problem.layout.messages.items()]
    for block in problem.blocks():
        found = problem.messages(problem.on_block(t, block, block.D), block.D, room)
        for whole, part in zip(output, found, strict=True):
            whole.index_copy_(0, block.edges, part)
    return output


def _buffer(problem: Problem, weights: Sequence[Tensor]) -> Tensor:
    """For radial weights: as many as the cache holds, or those of one row."""
    room = problem.room["cache"] // weights[0].element_size()
    return weights[0].new_empty(max(room, *(A.shape[0] * A.shape[2] for A in weights)))


def _gradient(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """First derivatives."""
    layout, room = problem.layout, _buffer(problem, t.weights)
    total, transposed = zeros(t, needed), [A[:, :-1].mT.contiguous() for A in t.weights]
    for block in problem.blocks():
        # Edges that share radial weights have derivatives of their own by the scalars these are made from.
        separate = block.D if needed.scalars else 1
        b = problem.on_block(t, block, block.D // separate)
        sent, radial = problem.sent(b), Hidden(b.scalars, b.trunk, keep=True)
        parts, g = frame.by_order(layout.inputs, problem.turned(b, sent), block.D), radial.output[:, ::separate]
        arriving = {key: d[block.edges].mT for key, d in zip(layout.messages, gradients, strict=True)}
        dmixed = frame.by_order(layout.outputs, problem.turned(b, arriving), block.D)
        dparts, dg = frame.mix_gradient(layout, parts, g, t.weights, transposed, dmixed, total.weights, separate, room)
        dturned = frame.by_degree(layout.inputs, dparts)
        dsent = problem.turned_back(b, dturned)
        if needed.sent:
            flat = torch.cat([dsent[key].flatten(1) for key in layout.features], dim=1)
            total.sent.index_add_(0, problem.src[block.edges], flat)
        if needed.vector:
            total.vector.index_copy_(0, block.edges, dsent[1, 0][:, :, problem.channel])
        dscalars = radial.gradient(dg, total.trunk, needed.scalars)
        if needed.scalars:
            total.scalars.index_copy_(0, block.edges, dscalars)
        if any(needed.frames):
            mixed = problem.mixed(b, parts, g, room)
            frames = dict(zip(layout.degrees, total.frames, strict=True))
            for before, after in ((sent, dturned), (arriving, mixed)):
                for key, value in before.items():
                    if frames[key[0]] is not None:
                        frames[key[0]][block.planned] += after[key] @ value.mT
    return total


def differentiable_gradient_of(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """First derivatives, that can be differentiated again."""
    parts = (
        Part(problem.on_block(t, block, 1), problem.rows(t, block), [d[block.edges] for d in gradients])
        for block in problem.blocks_with_graph()
    )
    return differentiable_gradient(lambda b: problem.messages(b, 1, None), parts, t, needed)
