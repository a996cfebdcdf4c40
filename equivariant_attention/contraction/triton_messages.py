r"""Backend 'triton': SO(2) convolutions in a few kernels on a GPU; radial weights never leave the chip.

It is backend 'frame' (the way of eSCN, arXiv 2302.03655), fused.

Forward: last layers in the basis of the orders, hidden values, features turned, messages of order 0, those of all other
orders, messages turned back. Each is one launch for all degrees (messages: two, where some edges share radial weights
and others do not). First derivatives make all of this again and keep nothing but the input. Sums are in a fixed order.

Rotations, mixing and sums are in float32 whatever the precision, and hidden layers are as exact. Products of hidden
values and last layers follow ``torch.get_float32_matmul_precision()``: 'highest' is three products in TF32, which is as
exact as float32 ('tf32x3'), 'high' is TF32, 'medium' bfloat16.

It has run in Triton's interpreter, and is compiled for GPUs in the tests; on one it has never run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction import cpp
from ..contraction.convolution import Convolution
from ..contraction.inputs import Inputs
from ..contraction.radial import HIDDEN, PARAMETERS, check_parameters, parameters
from ..contraction.triton_layout import Layout, Slots, couplings
from ..contraction.triton_products import ByHidden, ByWeights, Messages, Products, Rows, blocks, parts_of
from ..contraction.triton_sizes import ROWS
from ..kernels import launch
from ..kernels.launch import launch as run
from ..kernels.launch import power_of_two
from ..native.operation import empty_like, only, plain_gradient
from ..precision import full_precision

MOST_CHANNELS = 256  # of which `last_layers_gradient` holds 32 sums each: they almost fill a thread's registers
BEHIND = 3 * HIDDEN + HIDDEN * HIDDEN + 3 * HIDDEN  # as in kernels/radial.py


def missing(inputs: Inputs, convolution: Convolution, dtype: torch.dtype) -> str:
    """Why 'triton' cannot run; empty, if it can."""
    if convolution.reads_something_twice:
        return "two pairs of degrees read the same radial weights"
    return launch.missing(inputs.src.device, dtype)


def suits(convolution: Convolution, inputs: Inputs, dtype: torch.dtype) -> bool:
    """Whether 'triton' can run, and what its programs hold in registers has room there."""
    most = max(channels for _, channels in (*convolution.features, *convolution.messages))
    return most <= MOST_CHANNELS and not missing(inputs, convolution, dtype)


@dataclass(frozen=True)
class Problem(cpp.Problem):
    """The same as of the backends in C++, with kernels in the place of C++."""

    name = "messages_in_triton"
    has_second = False
    num_of_graph = 6
    by_network = staticmethod(list)  # kernels read parameters where PyTorch has them

    def forward(self, tensors: Sequence[Any], output: Sequence[Tensor]) -> None:
        """Make the messages."""
        t = self.like(tensors)
        call = Call(self, t, self.pairs_share)
        (x,) = call.turned()
        y = call.mixed(x, *call.networks())
        call.messages(y, output)
        self._add_without_direction(t, output, self.isotropic(tensors))

    def gradient(self, tensors: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]) -> list[Tensor | None]:
        """First derivatives."""
        t, n = self.like(tensors), self.like(needed)
        # Edges that share radial weights still have their own derivatives with respect to their scalars.
        call = Call(self, t, self.pairs_share and not n.scalars)
        arriving = self._all_there(t, gradients)
        (x, dy), (g, A) = call.turned(arriving), call.networks(transposed=True)
        total = self.like([None] * len(tensors))._replace(**call.derivatives(x, dy, g, A, n))
        if any(n.frames):
            dx, y = call.mixed_back(dy, g, A), call.mixed(x, g, A)
            total = total._replace(frames=call.by_frames(dx, y, arriving, self._inputs(t)))
        found = only(total.flat(), needed)
        if len(t.graph[3]):
            arriving = self._without_direction(t, gradients)
            cpp.add_all(found, plain_gradient(self.isotropic, tensors, needed, arriving))
        return found


def messages(
    convolution: Convolution, networks: Sequence[Any], inputs: Inputs, kind: type[Problem] = Problem
) -> list[Tensor]:
    """All messages along every edge, as a kind of problem has them."""
    basis, plan = inputs.basis, inputs.basis.plan
    graph = [inputs.src, plan.order, plan.pairs, basis.without_direction, *plan.by_source]
    own = [value for network in networks for value in parameters(network)]  # which each pass checks
    t = cpp.tensors_of(convolution, own, inputs)._replace(graph=graph)
    sizes = cpp.sizes_of(convolution, inputs)
    return kind("triton", convolution, sizes, inputs.pairs_share, inputs).operation(t.flat())


cpp.register_messages(Problem, devices=("CPU", "CUDA"))


class ByOrder(NamedTuple):
    """Features or messages by order, as ``kernels/frames.py`` has them: m = 0, and all others."""

    m0: Tensor
    m: Tensor

    @classmethod
    def empty(cls, slots: Slots, edges: int, channels: int, like: Tensor) -> ByOrder:
        """Empty tensors for features or messages, of the dtype and on the device of ``like``."""
        m0 = like.new_empty(len(slots.table), 1, edges, channels)
        return cls(m0, m0.new_empty(slots.count, 2, edges, channels))


class Ends(NamedTuple):
    """Features or messages, or some of them.

    Attributes:
        degrees, parts: of each, its degree and its number.
        channels: of all of them, a power of two.
        slots: the name of their table.
    """

    degrees: tuple[int, ...]
    parts: tuple[int, ...]
    channels: int
    slots: str

    def only(self, which: Sequence[int]) -> Ends:
        """Some of them."""
        degrees, parts = (tuple(values[i] for i in which) for values in (self.degrees, self.parts))
        return self._replace(degrees=degrees, parts=parts)


class LastLayers(NamedTuple):
    """The last layers in the basis of the orders, for m = 0 and for all others, and those of the transposed map."""

    weights: list[Tensor]
    biases: list[Tensor]
    transposed: list[Tensor]
    transposed_biases: list[Tensor]


class Call:
    """The launches for one call.

    Args:
        problem: what is computed.
        t: from which tensors.
        share: whether pairs of edges are a row.
    """

    def __init__(self, problem: Problem, t: cpp.Tensors, share: bool) -> None:
        check_parameters(problem.convolution, t.parameters, t.scalars)
        self.problem, self.t, self.convolution = problem, t, problem.convolution
        self.layout = Layout.of(problem.convolution)
        self.device, self.dtype = t.scalars.device, t.scalars.dtype
        self.products = Products(self.device, self.dtype)
        self.edges, self.nodes = t.num_edges, t.num_nodes
        src, self.order, pairs, _, *self.by_source = t.graph
        self.src, self.pairs = src, len(pairs) if share else 0
        self.rows = self.edges - self.pairs
        self.frames = dict(zip(self.convolution.degrees, t.frames, strict=True))
        self.parameters = launch.addresses(t.parameters, self.device)

    # ------------------------------------------------------------------------------------------- values

    def turned(self, arriving: Sequence[Tensor] = ()) -> list[ByOrder]:
        """In the frames of the edges: what they send; and if given, derivatives with respect to the messages."""
        sizes, ends = self.problem.sizes, [self._features]
        values, own = (
            [b if a is None else a for a, b in zip(*both, strict=True)]  # something to point to
            for both in ((self.t.features, self.t.on_edges), (self.t.on_edges, self.t.features))
        )
        channels, owned = [size.of_node for size in sizes], [(size.first, size.of_edge) for size in sizes]
        if arriving:
            ends.append(self._messages)
            values, own = [*values, *arriving], [*own, *arriving]
            channels, owned = [*channels, *(v.shape[1] for v in arriving)], [*owned, *[(0, 0)] * len(arriving)]
        made, tile = [self._by_order(e) for e in ends], min(map(_edges, ends))
        each = [(e, m) for e, m in zip(ends, made, strict=True) for _ in e.parts]
        run(
            frames().turned, (blocks(self.edges, tile), len(each)),
            tuple(values), tuple(own), sum((self._frames(e) for e in ends), ()), self.order, self.src,
            tuple(self._table(e.slots) for e, _ in each), tuple(m.m0 for _, m in each), tuple(m.m for _, m in each),
            self.edges,
            DEGREES=sum((e.degrees for e in ends), ()), PARTS=sum((e.parts for e in ends), ()),
            CHANNELS=tuple(channels), OWN=tuple(owned), GATHER=tuple(e.slots == "slots_in" for e, _ in each),
            ORDERS=self.layout.orders, C=tuple(e.channels for e, _ in each), EDGES=tile, num_warps=4,
        )  # fmt: skip
        return made

    def messages(self, y: ByOrder, output: Sequence[Tensor]) -> None:
        """Write messages, turned back."""
        self._turned_back(self._messages, y, tuple(output), (0,) * len(output))

    def _turned_back(self, ends: Ends, y: ByOrder, values: tuple[Tensor, ...], firsts: tuple[int, ...]) -> None:
        tile, channels = _edges(ends), tuple(v.shape[1] for v in values)
        run(
            frames().turned_back, (blocks(self.edges, tile), len(values)),
            values, self._frames(ends), self.order, self._table(ends.slots), *y, self.edges,
            DEGREES=ends.degrees, PARTS=ends.parts, FIRST=firsts, CHANNELS=channels, ORDERS=self.layout.orders,
            C=ends.channels, EDGES=tile, num_warps=4,
        )  # fmt: skip

    def networks(self, transposed: bool = False) -> tuple[Tensor, LastLayers]:
        """The hidden values, ``[networks, rows, 32]``, and the last layers, also ``transposed`` if wanted."""
        made, layout, scalars, given = LastLayers([], [], [], []), self.layout, self.t.scalars, []
        g = scalars.new_empty(len(self.convolution.rows), self.rows, HIDDEN)
        for which in (0, 1):
            A = g.new_empty(self._kernels(which), layout.channels_out, 1 + which, layout.channels_in, HIDDEN)
            b = A.new_empty(A.shape[:-1])
            AT, bT = (torch.empty_like(v) if transposed else v[:0] for v in (A, b))
            given += [self._table("numbers", which), self._couplings(which), A, b, AT, bT]
            for into, value in zip(made, (A, b, AT, bT), strict=True):
                into.append(value)
        tiles, kernels = blocks(self.rows, ROWS), self._kernels(0) + self._kernels(1)
        run(
            radial().networks, (tiles * len(g) + kernels * layout.channels_out,),
            self.parameters, scalars, self.order, g, self.rows, self.pairs, scalars.shape[1], tiles, len(g),
            *given, self._kernels(0),
            also=self.t.parameters,
            HAS_NORM=self.convolution.has_norm, HAS_BIAS=self.convolution.has_bias, TRANSPOSED=transposed,
            P=layout.channels_out, C=layout.channels_in, F=layout.num_freq,
            SCALARS=power_of_two(scalars.shape[1], 16), ROWS=ROWS, **self._exact, num_warps=4,
        )  # fmt: skip
        return g, made

    def mixed(self, x: ByOrder, g: Tensor, A: LastLayers, into: ByOrder | None = None) -> ByOrder:
        """The messages, in the frames of the edges; written to tensors that are there already."""
        biases = A.biases if self.convolution.has_bias else None
        made = self._by_order(self._messages) if into is None else into
        return self._mixed(made, x, g, A.weights, biases, "networks", "targets")

    def mixed_back(self, dy: ByOrder, g: Tensor, A: LastLayers) -> ByOrder:
        """From derivatives with respect to messages to those with respect to features, in the frames of the edges."""
        biases = A.transposed_biases if self.convolution.has_bias else None
        made = self._by_order(self._features)
        return self._mixed(made, dy, g, A.transposed, biases, "networks_transposed", "sources")

    def _mixed(
        self, made: ByOrder, x: ByOrder, g: Tensor, weights: Any, biases: Any, networks: str, targets: str
    ) -> ByOrder:
        sides = (
            Messages(*values, self._table(targets, which), self._table(networks, which))
            for which, values in enumerate(zip(weights, biases or weights, x, made, strict=True))
        )
        self.products.messages(self._row_sets, g, *sides, biases is not None)
        return made

    # -------------------------------------------------------------------------------------- derivatives

    def derivatives(self, x: ByOrder, dy: ByOrder, g: Tensor, A: LastLayers, needed: cpp.Tensors) -> dict[str, Any]:
        """Those of the first order that are needed, but by frames, by the fields of ``Tensors``."""
        found: dict[str, Any] = {}
        if any(needed.parameters) or needed.scalars:
            d, dscalars = self.by_networks(x, dy, g, A, bool(needed.scalars))
            found |= {"parameters": self.by_parameters(d, needed.parameters), "scalars": dscalars}
        if any(needed.features) or any(needed.on_edges):
            dx = self.mixed_back(dy, g, A)
            found |= {"features": self.by_nodes(dx, needed.features), "on_edges": self.by_edges(dx, needed.on_edges)}
        return found

    def by_networks(
        self, x: ByOrder, dy: ByOrder, g: Tensor, A: LastLayers, by_scalars: bool
    ) -> tuple[Tensor, Tensor | None]:
        """With respect to all parameters, side by side (hidden layers of every network, weights and then biases of all
        last layers), and to the scalars.
        """
        scalars, networks, layout = self.t.scalars, len(g), self.layout
        of_network = HIDDEN * scalars.shape[1] + BEHIND
        made = g.new_empty if layout.reads_everything else g.new_zeros
        d = made(networks * of_network + layout.num_weights + layout.num_biases)
        of_part, parts = parts_of(self.rows, networks)
        sums = g.new_empty(parts, networks, of_network)
        dscalars = scalars.new_empty(networks if by_scalars else 0, *scalars.shape)
        run(
            radial().hidden_gradient, (networks, parts),
            self.parameters, scalars, self.order, self._by_hidden(x, dy, A), sums, dscalars, self.rows, self.pairs,
            scalars.shape[1], of_part,
            HAS_NORM=self.convolution.has_norm, BY_SCALARS=by_scalars, SCALARS=power_of_two(scalars.shape[1], 16),
            # What would spill: derivatives by scalars with twice as many rows; but on an H100, the others in two warps.
            ROWS=ROWS // 4 if by_scalars else ROWS // 2, **self._exact, num_stages=1,
            num_warps=2 if by_scalars or launch.capability(self.device) == 90 else 4,
        )  # fmt: skip
        self._by_last_layers(x, dy, g, sums, d)
        return d, dscalars.sum(0) if by_scalars else None

    def _by_hidden(self, x: ByOrder, dy: ByOrder, A: LastLayers) -> Tensor:
        dg = x.m0.new_empty(len(self.convolution.rows), self.rows, HIDDEN)
        sides = (
            ByHidden(*values, self._table("by_network", which), self._table("ends", which))
            for which, values in enumerate(zip(A.weights, x, dy, strict=True))
        )
        self.products.by_hidden(self._row_sets, dg, *sides, self._table("of_networks"))
        return dg

    def _by_last_layers(self, x: ByOrder, dy: ByOrder, g: Tensor, hidden: Tensor, d: Tensor) -> None:
        """Write the derivatives with respect to all parameters: those by the hidden layers are given in parts."""
        layout, C, P = self.layout, self.layout.channels_in, self.layout.channels_out
        sides = (
            ByWeights(*values, self._table("ends", which), self._table("networks", which))
            for which, values in enumerate(zip(x, dy, strict=True))
        )
        sums = self.products.by_weights(self._row_sets, g, *sides)
        run(
            radial().last_layers_gradient, (len(self.convolution.pairs) + len(g), P, layout.num_freq),
            hidden, *sums, *(self._table(name) for name in ("pairs", "kernels_of_pairs", "places")),
            *(self._couplings(which) for which in (0, 1)), d, *(b.shape[1:].numel() for b in sums[1::2]), len(sums[0]),
            len(self.convolution.pairs), len(hidden), len(g), hidden.shape[2],
            ORDERS=layout.orders, P=P, C=C, F=layout.num_freq, HAS_BIAS=self.convolution.has_bias, num_warps=4,
        )  # fmt: skip

    def by_parameters(self, d: Tensor, needed: Sequence[bool]) -> list[Tensor | None]:
        """The parts of ``d`` that are the derivatives with respect to each parameter."""
        scalars, rows = self.t.scalars.shape[1], self.convolution.rows
        hidden = [HIDDEN * scalars, HIDDEN, HIDDEN, HIDDEN, HIDDEN * HIDDEN, HIDDEN, HIDDEN, HIDDEN]
        sizes = [*hidden * len(rows), *(HIDDEN * r for r in rows), *rows]
        pieces = d.split(sizes)
        hidden_layers, weights, biases = (
            pieces[: 8 * len(rows)],
            pieces[8 * len(rows) : 9 * len(rows)],
            pieces[9 * len(rows) :],
        )
        found: list[Tensor | None] = []
        for network in range(len(rows)):
            own = [*hidden_layers[8 * network : 8 * network + 8], weights[network], biases[network]]
            values = self.t.parameters[PARAMETERS * network : PARAMETERS * (network + 1)]
            found += [None if v is None else piece.view(v.shape) for v, piece in zip(values, own, strict=True)]
        return only(found, needed)

    def by_nodes(self, dx: ByOrder, needed: Sequence[bool]) -> list[Tensor | None]:
        """With respect to the features of the nodes."""
        made = empty_like(self.t.features, needed)
        ends = self._features.only([i for i, n in enumerate(needed) if n])
        values = tuple(v for v in made if v is not None)
        run(
            frames().summed_at_nodes, (self.nodes, len(values)),
            values, self._frames(ends), *self.by_source, self._table(ends.slots), *dx, self.edges,
            DEGREES=ends.degrees, PARTS=ends.parts, CHANNELS=tuple(v.shape[1] for v in values),
            ORDERS=self.layout.orders, C=ends.channels, EDGES=max(1, min(4, 256 // ends.channels)), num_warps=1,
        )  # fmt: skip
        return made

    def by_edges(self, dx: ByOrder, needed: Sequence[bool]) -> list[Tensor | None]:
        """With respect to what edges send of their own."""
        made = empty_like(self.t.on_edges, needed)
        which = [i for i, n in enumerate(needed) if n]
        firsts = tuple(self.problem.sizes[i].first for i in which)
        self._turned_back(self._features.only(which), dx, tuple(v for v in made if v is not None), firsts)
        return made

    def by_frames(self, dx: ByOrder, y: ByOrder, gradients: Sequence[Tensor], inputs: Inputs) -> list[Tensor]:
        """With respect to the frames, in PyTorch: what was turned, times what it became."""
        found = {degree: torch.zeros_like(frame) for degree, frame in self.frames.items()}
        sent = [inputs.sent(k, c) for k, c in self.convolution.features]
        for ends, by_order, values in ((self._features, dx, sent), (self._messages, y, gradients)):
            for part, (degree, value) in enumerate(zip(ends.degrees, values, strict=True)):
                if degree:
                    rows = self._rows(by_order, ends, part, degree)[..., : value.shape[1]]
                    with full_precision(self.device):
                        found[degree].baddbmm_(rows, value[self.order])
        return list(found.values())

    def _rows(self, values: ByOrder, ends: Ends, part: int, degree: int) -> Tensor:
        return _rows(values, getattr(self.layout, ends.slots)(0)[part], part, degree)

    # ---------------------------------------------------------------------------------- sizes and tables

    @property
    def _features(self) -> Ends:
        features = self.convolution.features
        return Ends(tuple(k for k, _ in features), tuple(range(len(features))), self.layout.channels_in, "slots_in")

    @property
    def _messages(self) -> Ends:
        messages = self.convolution.messages
        return Ends(tuple(l for l, _ in messages), tuple(range(len(messages))), self.layout.channels_out, "slots_out")

    def _by_order(self, ends: Ends) -> ByOrder:
        slots = self.layout.inside if ends.slots == "slots_in" else self.layout.outside
        return ByOrder.empty(slots, self.edges, ends.channels, self.t.scalars)

    def _frames(self, ends: Ends) -> tuple[Tensor, ...]:
        return tuple(self.frames[degree] for degree in ends.degrees)

    def _kernels(self, which: int) -> int:
        return len(self.layout.kernels[which].pairs)

    def _table(self, name: str, which: int = 0) -> Tensor:
        return self.layout.table(name, which, self.device)

    def _couplings(self, which: int) -> Tensor:
        return couplings(self.layout, which, self.dtype, self.device)

    @property
    def _row_sets(self) -> list[Rows]:
        sets = [Rows(2, 0, self.pairs, 0), Rows(1, self.pairs, self.edges - 2 * self.pairs, 2 * self.pairs)]
        return [rows for rows in sets if rows.size]

    @property
    def _exact(self) -> dict[str, Any]:
        """How products of hidden layers are made, whatever the precision of others."""
        import triton.language as tl

        is_double = self.dtype == torch.float64
        return {"SUM": tl.float64 if is_double else tl.float32, "PRECISION": "ieee" if is_double else "tf32x3"}


def _rows(values: ByOrder, slots: Sequence[int], part: int, degree: int) -> Tensor:
    """Orders -k to k of one part, ``[edges, 2k+1, channels]``."""
    rows = {0: values.m0[part, 0]}
    for m in range(1, min(degree + 1, len(slots))):
        rows[-m], rows[m] = values.m[slots[m]]
    zero = torch.zeros_like(rows[0])
    return torch.stack([rows.get(m, zero) for m in range(-degree, degree + 1)], dim=1)


def turned_back_in_pytorch(
    convolution: Convolution, values: ByOrder, frames: Sequence[Tensor], order: Tensor
) -> list[Tensor]:
    """Messages ``[edges, channels, 2l+1]``, or their derivatives, from those by order, as autograd can look into it."""
    layout, by_degree = Layout.of(convolution), dict(zip(convolution.degrees, frames, strict=True))
    inverse, found = order.argsort(), []
    for part, (degree, channels) in enumerate(convolution.messages):
        rows = _rows(values, layout.slots_out(0)[part], part, degree)[..., :channels]
        with full_precision(order.device):
            found.append((rows.mT @ by_degree[degree]).index_select(0, inverse))
    return found


def frames() -> Any:
    """The kernels of that name; this imports Triton."""
    from ..kernels import frames

    return frames


def radial() -> Any:
    """The kernels of that name; this imports Triton."""
    from ..kernels import radial

    return radial


def _edges(ends: Ends) -> int:
    """Edges of a program that turns them: so many that all orders stay in registers."""
    return max(4, min(32, 1024 // ends.channels))
