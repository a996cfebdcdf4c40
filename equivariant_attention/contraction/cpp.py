"""The order of ``frame`` on a CPU, in C++: radial weights and hidden values are made and used in the innermost cache.

So are its second derivatives; third ones are those of ``blockwise``.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction import blockwise, frame
from ..contraction.convolution import Convolution
from ..contraction.inputs import Inputs
from ..contraction.memory import room_for
from ..contraction.networks import as_cpp_reads, parameters
from ..contraction.operators import Operator
from ..native import calls
from ..native.calls import address, check_read, contiguous

SOURCE = Path(__file__).with_name("edge_first.cpp")


def missing(inputs: Inputs, dtype: torch.dtype) -> str:
    """What keeps this order from running here; empty, if nothing does. It is built when first asked for."""
    tensors = (inputs.src, inputs.scalars, *inputs.features.values(), *inputs.on_edges.values())
    return calls.missing(SOURCE, tensors, dtype)


def messages(convolution: Convolution, networks: Sequence[Any], inputs: Inputs) -> list[Tensor]:
    """All messages along every edge."""
    (scalars,) = contiguous((inputs.scalars,))
    own = [p for network in networks for p in parameters(network)]
    t = Tensors(
        features=contiguous(inputs.features.get(str(k)) for k, _ in convolution.features),
        on_edges=contiguous(inputs.on_edges.get(str(k)) for k, _ in convolution.features),
        scalars=scalars,
        frames=contiguous(inputs.basis.frames[l].to(scalars.dtype) for l in convolution.degrees),
        parameters=as_cpp_reads(convolution, own, scalars, networks),
    )
    output = Problem(convolution, inputs).operator(t)
    return blockwise.with_zero_length(convolution, inputs, t.parameters, output)


class Tensors(NamedTuple):
    """All that messages are a function of."""

    features: Sequence[Any]  # [nodes, channels, 2k+1], None where edges alone have a degree
    on_edges: Sequence[Any]  # [edges, channels, 2k+1], or None
    scalars: Any
    frames: Sequence[Any]  # of every degree
    parameters: Sequence[Any]  # of every network, one after the other

    def flat(self) -> tuple[Any, ...]:
        return (*self.features, *self.on_edges, self.scalars, *self.frames, *self.parameters)

    def like(self, values: Sequence[Any]) -> Tensors:
        """Other values in the places of these."""
        f, p = len(self.features), len(values) - len(self.parameters)
        return Tensors(values[:f], values[f : 2 * f], values[2 * f], values[2 * f + 1 : p], values[p:])


class Problem:
    """What messages depend on apart from tensors that have derivatives."""

    def __init__(self, convolution: Convolution, inputs: Inputs) -> None:
        self.convolution, (self.src,) = convolution, contiguous([inputs.src])
        self.plan, self.pairs_share = inputs.basis.plan, inputs.pairs_share
        self.sizes = _sizes(convolution, inputs)
        self.room = room_for("cache", self.src.device)
        self.inputs = inputs

    @property
    def operator(self) -> Operator:
        return Operator(*(partial(f, self) for f in (_check_pass, _forward, _gradient, _second, _plain_gradient)))


def _check_pass(problem: Problem, tensors: Sequence[Tensor | None]) -> None:
    problem.plan.check_unwritten()
    if calls.is_watched() or not all(calls.holds_numbers(v) for v in tensors if v is not None):
        raise NotImplementedError(
            "messages in C++ have neither batched nor forward derivatives: use_backend('edge') has these"
        )


def _forward(problem: Problem, t: Tensors) -> list[Tensor]:
    output = _room_for_messages(problem, t)
    _call("forward", problem, t, t.like([None] * len(t.flat())), made=output)
    return output


def _gradient(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """First derivatives."""
    total = _room(t, needed)
    _call("gradient", problem, t, total, arriving=contiguous(gradients))
    return t.like([d if n else None for d, n in zip(total.flat(), needed.flat(), strict=True)])


def _second(
    problem: Problem, t: Tensors, gradients: Sequence[Tensor], directions: Tensors, needed: Tensors
) -> tuple[Tensors, list[Tensor]]:
    """Tangents of first derivatives, and of messages."""
    total, output = _room(t, needed), _room_for_messages(problem, t)
    tangents = t.like(contiguous(directions.flat()))
    _call("second", problem, t, total, made=output, arriving=contiguous(gradients), tangents=tangents)
    return t.like([d if n else None for d, n in zip(total.flat(), needed.flat(), strict=True)]), output


def _room_for_messages(problem: Problem, t: Tensors) -> list[Tensor]:
    edges = problem.plan.num_edges
    return [t.scalars.new_empty(edges, c, 2 * l + 1) for l, c in problem.convolution.messages]


def _room(t: Tensors, needed: Tensors) -> Tensors:
    """Where C++ writes derivatives: those that are needed, and others where it makes all or none."""
    by_parameters = any(needed.parameters)
    return t._replace(
        features=[torch.zeros_like(v) if n else None for v, n in zip(t.features, needed.features, strict=True)],
        on_edges=[torch.empty_like(v) if n else None for v, n in zip(t.on_edges, needed.on_edges, strict=True)],
        scalars=torch.empty_like(t.scalars) if needed.scalars else None,
        frames=[torch.zeros_like(v) if any(needed.frames) else None for v in t.frames],
        parameters=[None if v is None or not by_parameters else torch.empty_like(v) for v in t.parameters],
    )


def _plain_gradient(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """First derivatives by 'frame', through the tensors that it makes of these."""
    leaves = t.like([v.view_as(v) if n else v for v, n in zip(t.flat(), needed.flat(), strict=True)])
    layout = frame.layout_of(problem.convolution)
    features = dict(zip((str(k) for k, _ in problem.convolution.features), leaves.features, strict=True))
    inputs = replace(problem.inputs, features={k: v for k, v in features.items() if v is not None})
    on_nodes = [inputs.on_nodes(k, c) for k, c in problem.convolution.features]
    framed = blockwise.tensors(layout, on_nodes, *leaves[1:])
    wanted = framed.like([v is not None and v.requires_grad for v in framed.flat()])
    found = blockwise.differentiable_gradient_of(blockwise.Problem(layout, inputs), framed, wanted, gradients)
    pairs = [(v, d) for v, d in zip(framed.flat(), found.flat(), strict=True) if d is not None]
    wanted_by = [v for v, n in zip(leaves.flat(), needed.flat(), strict=True) if n]
    outputs, derivatives = zip(*pairs, strict=True)
    by_inputs = iter(torch.autograd.grad(outputs, wanted_by, derivatives, create_graph=True, allow_unused=True))
    return t.like([next(by_inputs) if n else None for n in needed.flat()])


class _Part(ctypes.Structure):
    """A feature or a message; ``problem.hpp`` tells what the fields of this and the next ones are."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("degree", "channels", "of_node", "of_edge", "first")),
        *((name, ctypes.c_void_p) for name in ("node", "edge", "dnode", "dedge", "tnode", "tedge")),
    )


class _Network(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("rows", "first_pair", "num_pairs"))


class _Pair(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("feature", "message", "first", "step_out", "step_in")),
        ("coupling", ctypes.c_void_p),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "num_shared", "num_scalars")),
        *((name, ctypes.c_int64) for name in ("num_features", "num_messages", "num_networks", "max_degree", "room")),
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
    """Run a function of ``edge_first.cpp``.

    Args:
        function: 'forward', 'gradient' or 'second'.
        problem, t: what there is.
        d: where its derivatives are written; None where they are not wanted.
        made: where messages are written, or their tangents.
        arriving: derivatives by messages.
        tangents: of ``t``; None where they are zero.
    """
    t = t._replace(parameters=as_cpp_reads(problem.convolution, t.parameters, t.scalars))
    for messages in filter(None, (made, arriving)):
        _check(problem, t, messages)
    convolution, plan, dtype = problem.convolution, problem.plan, t.scalars.dtype
    structure = _structure(convolution, dtype)
    is_separate = d.scalars is not None or (tangents is not None and tangents.scalars is not None)
    call = _Problem(
        num_nodes=plan.num_nodes,
        num_edges=plan.num_edges,
        num_shared=2 * len(plan.pairs) if problem.pairs_share and not is_separate else 0,
        num_scalars=t.scalars.shape[1],
        num_features=len(convolution.features),
        num_messages=len(convolution.messages),
        num_networks=len(convolution.rows),
        max_degree=convolution.degrees[-1],
        room=problem.room,
        features=_features(problem, t, d),
        messages=_messages(convolution, made, arriving),
        networks=structure.networks,
        pairs=structure.pairs,
        parameters=_addresses(t.parameters),
        gradients=_addresses(d.parameters),
        frames=_addresses(_by_degree(convolution, t.frames)),
        dframes=_addresses(_by_degree(convolution, d.frames)),
        src=problem.src.data_ptr(),
        order=plan.order.data_ptr(),
        scalars=t.scalars.data_ptr(),
        dscalars=address(d.scalars),
        threads=calls.Threads(),
    )
    if tangents is not None:
        _point_to_tangents(call, convolution, t, tangents)
    calls.call(SOURCE, function, dtype, call)


def _point_to_tangents(call: _Problem, convolution: Convolution, t: Tensors, tangents: Tensors) -> None:
    for value, tangent in zip(t.flat(), tangents.flat(), strict=True):
        if tangent is not None:
            check_read(tangent, "the direction of a derivative", value.dtype, value.shape)
    for i, both in enumerate(zip(tangents.features, tangents.on_edges, strict=True)):
        call.features[i].tnode, call.features[i].tedge = map(address, both)
    call.tangents = _addresses(tangents.parameters)
    call.tframes = _addresses(_by_degree(convolution, tangents.frames))
    call.tscalars = address(tangents.scalars)


def _check(problem: Problem, t: Tensors, messages: Sequence[Tensor]) -> None:
    """Refuse what C++ would misread."""
    convolution, edges, dtype = problem.convolution, problem.plan.num_edges, t.scalars.dtype
    check_read(t.scalars, "the input of the radial networks", dtype, (edges, t.scalars.shape[1]))
    nodes = problem.plan.num_nodes
    for (k, _), sizes, feature, own in zip(convolution.features, problem.sizes, t.features, t.on_edges, strict=True):
        if sizes.of_node:
            check_read(feature, f"h['{k}']", dtype, (nodes, sizes.of_node, 2 * k + 1))
        if sizes.of_edge:
            check_read(own, f"what edges send of degree {k}", dtype, (edges, sizes.of_edge, 2 * k + 1))
    for l, frame_of_degree in zip(convolution.degrees, t.frames, strict=True):
        check_read(frame_of_degree, f"the frames of degree {l}", dtype, (edges, 2 * l + 1, 2 * l + 1))
    for (l, channels), message in zip(convolution.messages, messages, strict=True):
        check_read(message, f"the messages of degree {l}", dtype, (edges, channels, 2 * l + 1))
    check_read(problem.src, "src", torch.int64, (edges,))
    check_read(problem.plan.order, "the order of the plan", torch.int64, (edges,))


class Sizes(NamedTuple):
    """Of a feature: channels of nodes and of edges, and the one to which the first of these is added."""

    of_node: int
    of_edge: int
    first: int


def _sizes(convolution: Convolution, inputs: Inputs) -> list[Sizes]:
    """Of every feature; an error where they do not make up its channels."""
    found = []
    for k, channels in convolution.features:
        counts = [0 if v is None else v.shape[1] for v in (inputs.features.get(str(k)), inputs.on_edges.get(str(k)))]
        sizes = Sizes(counts[0], counts[1], inputs.first.get(str(k), 0))
        if sizes.of_node > channels or not 0 <= sizes.first <= channels - sizes.of_edge:
            raise ValueError(f"degree {k} must have {channels} channels in all, got {sizes}")
        found.append(sizes)
    return found


class _Structure(NamedTuple):
    """What C++ is told of a convolution, and the couplings that it points to, which must live as long."""

    networks: ctypes.Array[_Network]
    pairs: ctypes.Array[_Pair]
    couplings: list[Tensor]


@lru_cache(maxsize=1024)
def _structure(convolution: Convolution, dtype: torch.dtype) -> _Structure:
    networks: list[tuple[int, ...]] = []
    pairs: list[tuple[int | None, ...]] = []
    couplings: list[Tensor] = []
    for rows, served in zip(convolution.rows, convolution.by_network, strict=True):
        networks.append((rows, len(pairs), len(served)))
        for i in served:
            pair = convolution.pairs[i]
            couplings.append(frame.coupling_of(pair, convolution.ends[i], dtype, torch.device("cpu")).contiguous())
            place = (pair.feature, pair.message, pair.first, pair.step_out, pair.step_in)
            pairs.append((*place, couplings[-1].data_ptr()))
    return _Structure((_Network * len(networks))(*networks), (_Pair * len(pairs))(*pairs), couplings)


def _features(problem: Problem, t: Tensors, d: Tensors) -> ctypes.Array[_Part]:
    features = problem.convolution.features
    each = zip(features, problem.sizes, t.features, t.on_edges, d.features, d.on_edges, strict=True)
    return (_Part * len(features))(*((*part, *sizes, *map(address, tensors)) for part, sizes, *tensors in each))


def _messages(convolution: Convolution, made: Sequence[Tensor], arriving: Sequence[Tensor]) -> ctypes.Array[_Part]:
    rows = (_Part * len(convolution.messages))()
    for part, (l, channels), *values in zip_longest(rows, convolution.messages, made, arriving):
        part.degree, part.channels, part.of_edge = l, channels, channels
        part.edge, part.dedge = map(address, values)
    return rows


def _by_degree(convolution: Convolution, frames: Sequence[Tensor | None]) -> list[Tensor | None]:
    """From 0 to the largest degree; None where nothing has the degree, and for 0."""
    known = dict(zip(convolution.degrees, frames, strict=True))
    return [known.get(l) if l else None for l in range(convolution.degrees[-1] + 1)]


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p] | None:
    """Where each begins, null where there is none; None, if there are none at all."""
    numbers = array("Q", [0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    return (ctypes.c_void_p * len(numbers)).from_buffer(numbers) if any(numbers) else None
