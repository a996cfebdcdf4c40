"""Backends 'cpp' and 'cpp-node': messages in C++, on a CPU, as SO(2) convolutions in the frames of the edges.

Edge first ('cpp'), like ``frame.py``, computes radial weights of each edge and uses them while they are in the L1
cache. Node first ('cpp-node'), like ``node.py``, has no radial weights, but sums over channels in once per source node,
for all of its outgoing edges. First and second derivatives are in C++ too; third derivatives are those of
``blockwise.py``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..contraction import blockwise, cost, frame
from ..contraction.convolution import Convolution
from ..contraction.derivatives import flat, like
from ..contraction.inputs import Inputs
from ..contraction.memory import memory_for
from ..contraction.radial import checked_parameters, packed, packed_shapes, unpacked
from ..native import calls
from ..native.calls import address, addresses, array, check_read
from ..native.operation import Operation, derivatives_by, differentiated, empty_like, only, plain_gradient
from ..native.operators import register, with_none

SOURCES = {
    "cpp": str(Path(__file__).with_name("edge_first.cpp")),
    "cpp-node": str(Path(__file__).with_name("node_first.cpp")),
}  # of the two backends


def missing(backend: str, inputs: Inputs, dtype: torch.dtype) -> str:
    """Why a backend cannot run here, or ``''`` if it can. The first call compiles it."""
    tensors = (inputs.src, inputs.scalars, *inputs.features.values(), *inputs.on_edges.values())
    return calls.missing(SOURCES[backend], tensors, dtype)


def messages(backend: str, convolution: Convolution, networks: Sequence[Any], inputs: Inputs) -> list[Tensor]:
    """All messages along every edge, by backend 'cpp' or 'cpp-node'; for '', by the one estimated to be faster."""
    own = packed(checked_parameters(convolution, networks, inputs.scalars))
    problem = Problem(backend, convolution, sizes_of(convolution, inputs), inputs.pairs_share, inputs)
    return problem.operation(tensors_of(convolution, own, inputs).flat())


def tensors_of(convolution: Convolution, parameters: Sequence[Any], inputs: Inputs) -> Tensors:
    """The tensors that messages are made from."""
    basis, plan = inputs.basis, inputs.basis.plan
    return Tensors(
        features=[inputs.features.get(str(k)) for k, _ in convolution.features],
        on_edges=[inputs.on_edges.get(str(k)) for k, _ in convolution.features],
        scalars=inputs.scalars,
        frames=frames_of(convolution, inputs),
        parameters=parameters,
        graph=[inputs.src, plan.order, plan.pairs, basis.without_direction],
    )


def frames_of(convolution: Convolution, inputs: Inputs) -> list[Tensor]:
    """The frames of the edges, one tensor for each degree of the convolution."""
    return [inputs.basis.frames[l].to(inputs.scalars.dtype) for l in convolution.degrees]


class Tensors(NamedTuple):
    """The tensors that messages are a function of, or one value (such as a bool) for each of them."""

    features: Sequence[Any]  # of the nodes, [nodes, channels, 2k+1]; None for a degree that only edges have
    on_edges: Sequence[Any]  # of the edges themselves, [edges, channels, 2k+1], or None
    scalars: Any  # what the radial networks see, [edges, edge_dim + 1]
    frames: Sequence[Any]  # for each degree, Wigner-D matrices in the order of the plan, [edges, 2l+1, 2l+1]
    parameters: Sequence[Any]  # of the radial networks, as radial.packed has them
    graph: Sequence[Any]  # source nodes; order and pairs of the plan; edges without direction

    def flat(self) -> tuple[Any, ...]:
        """The tensors in one list, as an :class:`Operation` takes them; :meth:`Problem.like` is the inverse."""
        return (*self.features, *self.on_edges, self.scalars, *self.frames, *self.parameters, *self.graph)

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return next(v for v in self.features if v is not None).shape[0]

    @property
    def num_edges(self) -> int:
        """The number of edges."""
        return self.scalars.shape[0]


@dataclass(frozen=True)
class Problem:
    """What messages depend on apart from tensors, and their passes.

    Attributes:
        backend: 'cpp' or 'cpp-node', or '' for the one estimated to be faster.
        convolution: the convolution.
        sizes: the :class:`Sizes` of each feature.
        pairs_share: whether the pairs of edges of the plan have equal scalars, and so share radial weights.
        inputs: the record that the tensors were taken from, for third derivatives; None in the registered operator,
            which is given tensors alone.
    """

    backend: str
    convolution: Convolution
    sizes: tuple[Sizes, ...]
    pairs_share: bool
    inputs: Inputs | None = None
    name: ClassVar[str] = "messages"  # of the operator
    has_second: ClassVar[bool] = True  # whether there are second derivatives but those in PyTorch
    num_of_graph = 4  # tensors of the graph
    by_network = staticmethod(unpacked)  # from the tensors that hold the parameters to ten of each network

    @classmethod
    @lru_cache(maxsize=1024)
    def registered(cls, backend: str, text: str, sizes: tuple[int, ...], pairs_share: bool) -> Problem:
        """From the ``statics`` of :attr:`operation`."""
        grouped = tuple(Sizes(*sizes[i : i + 3]) for i in range(0, len(sizes), 3))
        return cls(backend, Convolution.of(text), grouped, pairs_share)

    @property
    def operation(self) -> Operation:
        """Messages as a differentiable function of tensors, in C++."""
        sizes = [number for size in self.sizes for number in size]
        return Operation(
            name=self.name,
            statics=(self.backend, self.convolution.text, sizes, self.pairs_share),
            allocate=self.allocate,
            forward=self.forward,
            gradient=self.gradient,
            second=self.second if self.has_second else None,
            plain_gradient=self.plain_gradient,
            check=None if self.inputs is None else self.inputs.basis.plan.check_unwritten,
        )

    def like(self, tensors: Sequence[Any]) -> Tensors:
        """A flat list of tensors, or of one value for each, as a record :class:`Tensors`."""
        f, b = len(self.sizes), len(tensors) - self.num_of_graph
        a = 2 * f + 1 + len(self.convolution.degrees)
        parts = (tensors[:f], tensors[f : 2 * f], tensors[2 * f], tensors[2 * f + 1 : a], tensors[a:b], tensors[b:])
        return Tensors(*parts)

    def allocate(self, tensors: Sequence[Any]) -> list[Tensor]:
        """Empty tensors for the messages."""
        t = self.like(tensors)
        return [t.scalars.new_empty(t.num_edges, c, 2 * l + 1) for l, c in self.convolution.messages]

    def forward(self, tensors: Sequence[Any], output: Sequence[Tensor]) -> None:
        """Write the messages."""
        t = self.like(tensors)
        _call("forward", self, t, self.like([None] * len(tensors)), made=output)
        if len(t.graph[3]):
            self._add_without_direction(t, output, self.isotropic(tensors))

    def gradient(self, tensors: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]) -> list[Tensor | None]:
        """First derivatives."""
        t = self.like(tensors)
        total = _empty_derivatives(t, self.like(needed))
        _call("gradient", self, t, total, arriving=self._all_there(t, gradients))
        found = only(total.flat(), needed)
        if len(t.graph[3]):
            arriving = self._without_direction(t, gradients)
            add_all(found, plain_gradient(self.isotropic, tensors, needed, arriving))
        return found

    def second(
        self,
        tensors: Sequence[Any],
        gradients: Sequence[Any],
        tangents: Sequence[Any],
        needed: Sequence[bool],
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Tangents of first derivatives and of messages, along the tangents of the tensors."""
        t, output = self.like(tensors), self.allocate(tensors)
        total, arriving = _empty_derivatives(t, self.like(needed)), self._all_there(t, gradients)
        _call("second", self, t, total, made=output, arriving=arriving, tangents=self.like(tangents))
        found = only(total.flat(), needed)
        if len(t.graph[3]):
            every = [*tensors, *self._without_direction(t, gradients), *tangents]
            wanted = [*needed, *(d is not None for d in gradients)]
            plain = partial(plain_gradient, self.isotropic)
            both = differentiated(plain, len(tensors), every, wanted)
            add_all(found, both[: len(tensors)])
            self._add_without_direction(t, output, both[len(tensors) :])
        return found, output

    def isotropic(self, tensors: Sequence[Any]) -> list[Tensor | None]:
        """The messages along edges of length zero, in PyTorch: see :func:`blockwise.isotropic`."""
        t = self.like(tensors)
        own = self.by_network(t.parameters)
        return blockwise.isotropic(self.convolution, self._inputs(t), own, t.graph[3])

    def plain_gradient(
        self, tensors: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]
    ) -> list[Tensor | None]:
        """First derivatives in PyTorch, by 'frame', which autograd can differentiate again."""
        if self.inputs is None:
            raise NotImplementedError("messages in C++ have no third derivatives where they were recorded or compiled")
        leaves = self.like([v.view_as(v) if n else v for v, n in zip(tensors, needed, strict=True)])
        layout, inputs = frame.layout_of(self.convolution), self._inputs(leaves)
        on_nodes = [inputs.on_nodes(k, c) for k, c in self.convolution.features]
        framed = blockwise.tensors(layout, on_nodes, *leaves[1:4], self.by_network(leaves.parameters))
        tensors_of_frame = flat(framed)
        wanted = like(framed, [v is not None and v.requires_grad for v in tensors_of_frame])
        arriving = self._all_there(leaves, gradients)
        problem = blockwise.Problem(layout, replace(self.inputs, src=leaves.graph[0]))
        found = problem.gradient(framed, wanted, arriving)
        wanted_by = [v for v, n in zip(leaves.flat(), needed, strict=True) if n]
        total = with_none(derivatives_by(wanted_by, tensors_of_frame, flat(found), create_graph=True), needed)
        if len(leaves.graph[3]):
            arriving = self._without_direction(leaves, gradients)
            add_all(total, plain_gradient(self.isotropic, tensors, needed, arriving))
        return total

    def _inputs(self, t: Tensors) -> Inputs:
        keys = [str(k) for k, _ in self.convolution.features]
        features, on_edges = (
            {k: v for k, v in zip(keys, part, strict=True) if v is not None} for part in (t.features, t.on_edges)
        )
        first = {k: size.first for k, size in zip(keys, self.sizes, strict=True)}
        return Inputs(features, t.graph[0], t.scalars, {}, False, on_edges, first)

    def _all_there(self, t: Tensors, gradients: Sequence[Any]) -> list[Tensor]:
        """Derivatives with respect to messages, with zeros in place of None (a message that is not used)."""
        return [
            t.scalars.new_zeros(t.num_edges, c, 2 * l + 1) if d is None else d
            for d, (l, c) in zip(gradients, self.convolution.messages, strict=True)
        ]

    @staticmethod
    def _without_direction(t: Tensors, gradients: Sequence[Any]) -> list[Tensor | None]:
        return [None if d is None else d.index_select(0, t.graph[3]) for d in gradients]

    @staticmethod
    def _add_without_direction(t: Tensors, output: Sequence[Tensor], parts: Sequence[Tensor | None]) -> None:
        for value, part in zip(output, parts, strict=True):
            if part is not None:
                value.index_add_(0, t.graph[3], part)


def add_all(values: list[Tensor | None], others: Sequence[Tensor | None]) -> None:
    """Add the others to the values, in place; None stands for zero."""
    for i, other in enumerate(others):
        if other is not None:
            values[i] = other if values[i] is None else values[i] + other


def register_messages(kind: type[Problem], devices: Sequence[str] = ("CPU",)) -> None:
    """Register the operation of a kind of problem; arguments as of :func:`~equivariant_attention.native.register`."""

    def make(backend: str, text: str, sizes: Sequence[int], pairs_share: bool) -> Operation:
        return kind.registered(backend, text, tuple(sizes), pairs_share).operation

    register(kind.name, "str backend, str convolution, int[] sizes, bool pairs_share", make, devices)


register_messages(Problem)


def _empty_derivatives(t: Tensors, needed: Tensors) -> Tensors:
    """Tensors for the derivatives that are needed; C++ computes those by frames all or none, likewise by parameters."""
    by_parameters = any(needed.parameters)
    return t._replace(
        features=[torch.zeros_like(v) if n else None for v, n in zip(t.features, needed.features, strict=True)],
        on_edges=empty_like(t.on_edges, needed.on_edges),
        scalars=torch.empty_like(t.scalars) if needed.scalars else None,
        frames=[torch.zeros_like(v) if any(needed.frames) else None for v in t.frames],
        parameters=[None if v is None or not by_parameters else torch.empty_like(v) for v in t.parameters],
        graph=[None] * len(t.graph),
    )


class _Part(ctypes.Structure):
    """A feature or a message; ``problem.hpp`` explains the fields of this structure and the next ones."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("degree", "channels", "of_node", "of_edge", "first")),
        *((name, ctypes.c_void_p) for name in ("node", "edge", "dnode", "dedge", "tnode", "tedge")),
    )


class _Network(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("rows", "first_row", "first_pair", "num_pairs"))


class _Pair(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("feature", "message", "first", "step_out", "step_in")),
        ("coupling", ctypes.c_void_p),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "num_shared", "num_scalars")),
        *((name, ctypes.c_int64) for name in ("num_features", "num_messages", "num_networks")),
        *((name, ctypes.c_int64) for name in ("max_degree", "block_bytes")),
        ("features", ctypes.POINTER(_Part)),
        ("messages", ctypes.POINTER(_Part)),
        ("networks", ctypes.POINTER(_Network)),
        ("pairs", ctypes.POINTER(_Pair)),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("parameters", "gradients", "frames", "dframes")),
        *((name, ctypes.c_void_p) for name in ("src", "order", "scalars", "dscalars")),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("tangents", "tframes")),
        ("tscalars", ctypes.c_void_p),
        ("threads", calls.Threads),
    )


def _call(
    function: str,
    problem: Problem,
    t: Tensors,
    d: Tensors,
    made: Sequence[Tensor] = (),
    arriving: Sequence[Tensor] = (),
    tangents: Tensors | None = None,
) -> None:
    """Call a function of the C++ file of a backend.

    Args:
        function: 'forward', 'gradient' or 'second'.
        problem: the problem.
        t: the tensors that messages are made from.
        d: tensors for the derivatives with respect to ``t``; None where they are not needed.
        made: tensors for the messages, or for their tangents.
        arriving: derivatives with respect to the messages.
        tangents: of ``t``; None where they are zero.
    """
    for messages in filter(None, (made, arriving)):
        _check(problem, t, messages)
    convolution, dtype, (src, order, pairs, _) = problem.convolution, t.scalars.dtype, t.graph
    structure = _structure(convolution, dtype)
    num_pairs = len(pairs) if problem.pairs_share and (tangents is None or tangents.scalars is None) else 0
    backend = "cpp" if function == "second" else problem.backend
    saved = num_pairs if d.scalars is None else num_pairs // 2  # derivatives by scalars are computed for each edge
    backend = backend or cost.in_cpp(convolution, t.num_nodes, t.num_edges, saved)
    if calls.not_built(SOURCES[backend]):
        backend = "cpp"
    call = _Problem(
        num_nodes=t.num_nodes,
        num_edges=t.num_edges,
        num_shared=2 * num_pairs,
        num_scalars=t.scalars.shape[1],
        num_features=len(convolution.features),
        num_messages=len(convolution.messages),
        num_networks=len(convolution.rows),
        max_degree=convolution.degrees[-1],
        block_bytes=memory_for("cache" if backend == "cpp" else "block", src.device),
        features=_features(problem, t, d),
        messages=_messages(convolution, made, arriving),
        networks=structure.networks,
        pairs=structure.pairs,
        parameters=_table(t.parameters),
        gradients=_table(d.parameters),
        frames=_table(_by_degree(convolution, t.frames)),
        dframes=_table(_by_degree(convolution, d.frames)),
        src=address(src),
        order=address(order),
        scalars=address(t.scalars),
        dscalars=address(d.scalars),
        threads=calls.Threads(),
    )
    if tangents is not None:
        _point_to_tangents(call, convolution, t, tangents)
    calls.call(SOURCES[backend], function, dtype, call)


def _point_to_tangents(call: _Problem, convolution: Convolution, t: Tensors, tangents: Tensors) -> None:
    for value, tangent in zip(t.flat(), tangents.flat(), strict=True):
        if tangent is not None:
            check_read(tangent, "the direction of a derivative", value.dtype, value.shape)
    for i, both in enumerate(zip(tangents.features, tangents.on_edges, strict=True)):
        call.features[i].tnode, call.features[i].tedge = map(address, both)
    call.tangents = _table(tangents.parameters)
    call.tframes = _table(_by_degree(convolution, tangents.frames))
    call.tscalars = address(tangents.scalars)


def _check(problem: Problem, t: Tensors, messages: Sequence[Tensor]) -> None:
    """Refuse tensors that C++ would misread."""
    convolution, nodes, edges, dtype = problem.convolution, t.num_nodes, t.num_edges, t.scalars.dtype
    check_read(t.scalars, "the input of the radial networks", dtype, (edges, t.scalars.shape[1]))
    for (k, _), sizes, feature, own in zip(convolution.features, problem.sizes, t.features, t.on_edges, strict=True):
        if sizes.of_node:
            check_read(feature, f"h['{k}']", dtype, (nodes, sizes.of_node, 2 * k + 1))
        if sizes.of_edge:
            check_read(own, f"what edges send of degree {k}", dtype, (edges, sizes.of_edge, 2 * k + 1))
    for l, frame_of_degree in zip(convolution.degrees, t.frames, strict=True):
        check_read(frame_of_degree, f"the frames of degree {l}", dtype, (edges, 2 * l + 1, 2 * l + 1))
    for parameter, shape in zip(t.parameters, packed_shapes(convolution, t.scalars.shape[1]), strict=True):
        if shape is not None:
            check_read(parameter, "a parameter of the radial networks", dtype, shape)
    for (l, channels), message in zip(convolution.messages, messages, strict=True):
        check_read(message, f"the messages of degree {l}", dtype, (edges, channels, 2 * l + 1))
    for name, ends in zip(("src", "the order of the plan"), t.graph, strict=False):
        check_read(ends, name, torch.int64, (edges,))


class Sizes(NamedTuple):
    """The channels of a feature.

    Attributes:
        of_node, of_edge: how many channels nodes have, and edges themselves.
        first: the channel that the first channel of the edges is added to.
    """

    of_node: int
    of_edge: int
    first: int


def sizes_of(convolution: Convolution, inputs: Inputs) -> tuple[Sizes, ...]:
    """The :class:`Sizes` of each feature; raises a ValueError if they do not fit its channels."""
    found = []
    for k, channels in convolution.features:
        counts = [0 if v is None else v.shape[1] for v in (inputs.features.get(str(k)), inputs.on_edges.get(str(k)))]
        sizes = Sizes(counts[0], counts[1], inputs.first.get(str(k), 0))
        if sizes.of_node > channels or not 0 <= sizes.first <= channels - sizes.of_edge:
            raise ValueError(f"degree {k} must have {channels} channels in all, got {sizes}")
        found.append(sizes)
    return tuple(found)


class _Structure(NamedTuple):
    """A convolution as C++ reads it. The pairs point to the couplings, which therefore must be kept alive."""

    networks: ctypes.Array[_Network]
    pairs: ctypes.Array[_Pair]
    couplings: list[Tensor]


@lru_cache(maxsize=1024)
def _structure(convolution: Convolution, dtype: torch.dtype) -> _Structure:
    networks: list[tuple[int, ...]] = []
    pairs: list[tuple[int | None, ...]] = []
    couplings: list[Tensor] = []
    firsts = accumulate(convolution.rows, initial=0)
    for rows, first, served in zip(convolution.rows, firsts, convolution.by_network, strict=False):
        networks.append((rows, first, len(pairs), len(served)))
        for i in served:
            pair = convolution.pairs[i]
            couplings.append(frame.coupling_of(pair, convolution.ends[i], dtype, torch.device("cpu")).contiguous())
            place = (pair.feature, pair.message, pair.first, pair.step_out, pair.step_in)
            pairs.append((*place, couplings[-1].data_ptr()))
    return _Structure((_Network * len(networks))(*networks), (_Pair * len(pairs))(*pairs), couplings)


def _features(problem: Problem, t: Tensors, d: Tensors) -> ctypes.Array[_Part]:
    features = problem.convolution.features
    each = zip(features, problem.sizes, t.features, t.on_edges, d.features, d.on_edges, strict=True)
    return array(_Part, len(features))(*((*part, *sizes, *map(address, tensors)) for part, sizes, *tensors in each))


def _messages(convolution: Convolution, made: Sequence[Tensor], arriving: Sequence[Tensor]) -> ctypes.Array[_Part]:
    each = zip_longest(convolution.messages, made, arriving)
    rows = ((l, c, 0, c, 0, None, address(values), None, address(dvalues)) for (l, c), values, dvalues in each)
    return array(_Part, len(convolution.messages))(*rows)


def _by_degree(convolution: Convolution, frames: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Frames of degrees 0 to the largest; None for unused degrees, and for degree 0, which is invariant."""
    known = dict(zip(convolution.degrees, frames, strict=True))
    return [known.get(l) if l else None for l in range(convolution.degrees[-1] + 1)]


def _table(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p] | None:
    """An array of pointers to tensors, null for None; None if all tensors are None."""
    return None if all(v is None for v in tensors) else addresses(tensors)
