"""The order of ``frame`` on a CPU, in C++: radial weights and hidden values are made and used in the innermost cache.

Second derivatives are those of ``blockwise``.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contraction import blockwise, frame
from ..contraction.derivatives import Passes, evaluated
from ..contraction.inputs import Inputs
from ..contraction.kernels import KernelSet
from ..contraction.memory import room_for
from ..contraction.parameters import check_parameters, parameters
from ..fibers import Features, Fiber
from ..native import calls
from ..native.calls import address, check_read, contiguous
from ..so3 import aligned_coupling

SOURCE = Path(__file__).with_suffix(".cpp")


def missing(inputs: Inputs, dtype: torch.dtype) -> str:
    """What keeps this order from running here; empty, if nothing does. It is built when first asked for."""
    tensors = (inputs.src, inputs.scalars, *inputs.features.values())
    return calls.missing(SOURCE, tensors if inputs.vector is None else (*tensors, inputs.vector), dtype)


def messages(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs) -> list[Features]:
    """Messages along every edge, for each of the sets of kernels."""
    layout = frame.layout_of(sets, fiber_in)
    vector, scalars = contiguous((inputs.vector, inputs.scalars))
    t = Tensors(
        features=contiguous(inputs.features[str(k)] for k in fiber_in.degrees),
        vector=vector,
        scalars=scalars,
        frames=contiguous(inputs.basis.frames[l].to(scalars.dtype) for l in layout.degrees),
        parameters=contiguous(p for kernel in layout.kernels(sets) for p in parameters(kernel)),
    )
    output = evaluated(Problem(layout, inputs).passes, t)
    return blockwise.by_set(sets, inputs, layout, t.parameters, output)


class Tensors(NamedTuple):
    """All that messages are a function of."""

    features: Sequence[Any]  # [nodes, channels, 2k+1]
    vector: Any
    scalars: Any
    frames: Sequence[Any]  # of every degree
    parameters: Sequence[Any]  # of every kernel, one after the other

    def flat(self) -> tuple[Any, ...]:
        return (*self.features, self.vector, self.scalars, *self.frames, *self.parameters)

    def like(self, values: Sequence[Any]) -> Tensors:
        """Other values in the places of these."""
        f, p = len(self.features), len(values) - len(self.parameters)
        return Tensors(values[:f], *values[f : f + 2], values[f + 2 : p], values[p:])


class Problem:
    """What messages depend on apart from tensors that have derivatives."""

    def __init__(self, layout: frame.Layout, inputs: Inputs) -> None:
        self.layout, (self.src,), self.channel = layout, contiguous([inputs.src]), inputs.channel
        self.plan, self.pairs_share = inputs.basis.plan, inputs.pairs_share
        self.blockwise = blockwise.Problem(layout, inputs)
        self.room = room_for("cache", self.src.device)

    @property
    def passes(self) -> Passes:
        return Passes(self.plan, *(partial(f, self) for f in (_forward, _gradient, _differentiable_gradient)))


def _forward(problem: Problem, t: Tensors) -> list[Tensor]:
    edges = problem.plan.num_edges
    output = [t.scalars.new_empty(edges, c, 2 * l + 1) for (l, _), c in problem.layout.messages.items()]
    _call("forward", problem, t, t.like([None] * len(t.flat())), output)
    return output


def _gradient(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """First derivatives."""
    if calls.is_watched() or not all(map(calls.holds_numbers, gradients)):
        raise NotImplementedError(
            "messages in C++ have neither batched nor forward derivatives: use_backend('edge') has these"
        )
    by_parameters = any(needed.parameters)
    total = t._replace(
        features=[torch.zeros_like(v) if n else None for v, n in zip(t.features, needed.features, strict=True)],
        vector=torch.empty_like(t.vector) if needed.vector else None,
        scalars=torch.empty_like(t.scalars) if needed.scalars else None,
        frames=[torch.zeros_like(v) if any(needed.frames) else None for v in t.frames],
        parameters=[torch.empty_like(v) if by_parameters else None for v in t.parameters],
    )
    _call("gradient", problem, t, total, contiguous(gradients))
    return t.like([d if n else None for d, n in zip(total.flat(), needed.flat(), strict=True)])


def _differentiable_gradient(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """Those of 'frame', through the tensors that it makes of these."""
    leaves = t.like([v.view_as(v) if n else v for v, n in zip(t.flat(), needed.flat(), strict=True)])
    framed = blockwise.tensors(problem.layout, *leaves)
    wanted = framed.like([v is not None and v.requires_grad for v in framed.flat()])
    found = blockwise.differentiable_gradient_of(problem.blockwise, framed, wanted, gradients)
    pairs = [(v, d) for v, d in zip(framed.flat(), found.flat(), strict=True) if d is not None]
    inputs = [v for v, n in zip(leaves.flat(), needed.flat(), strict=True) if n]
    outputs, derivatives = zip(*pairs, strict=True)
    by_inputs = iter(torch.autograd.grad(outputs, inputs, derivatives, create_graph=True, allow_unused=True))
    return t.like([next(by_inputs) if n else None for n in needed.flat()])


class _Part(ctypes.Structure):
    """A feature or a message; ``compiled.cpp`` tells what the fields of this and the next ones are."""

    _fields_ = (
        ("degree", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
    )


class _Network(ctypes.Structure):
    _fields_ = (("feature", ctypes.c_int64), ("message", ctypes.c_int64), ("coupling", ctypes.c_void_p))


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "num_pairs", "num_scalars")),
        *((name, ctypes.c_int64) for name in ("num_features", "num_messages", "num_networks", "max_degree")),
        *((name, ctypes.c_int64) for name in ("channel", "room")),
        ("features", ctypes.POINTER(_Part)),
        ("messages", ctypes.POINTER(_Part)),
        ("networks", ctypes.POINTER(_Network)),
        *((name, ctypes.POINTER(ctypes.c_void_p)) for name in ("parameters", "gradients", "frames", "dframes")),
        *((name, ctypes.c_void_p) for name in ("src", "order", "scalars", "vector", "dscalars", "dvector")),
        ("threads", calls.Threads),
    )


def _call(function: str, problem: Problem, t: Tensors, d: Tensors, messages: Sequence[Tensor]) -> None:
    """Run a function of ``compiled.cpp``.

    Args:
        function: 'forward' or 'gradient'.
        problem, t: what there is.
        d: where its derivatives are written; None where they are not wanted.
        messages: where they are written, or the derivatives by them.
    """
    _check(problem, t, messages)
    networks, _ = _networks(problem.layout, t.scalars.dtype)
    layout, plan, dtype, nothing = problem.layout, problem.plan, t.scalars.dtype, [None] * len(messages)
    values, gradients = (messages, nothing) if function == "forward" else (nothing, messages)
    call = _Problem(
        num_nodes=len(t.features[0]),
        num_edges=plan.num_edges,
        num_pairs=len(plan.pairs) if problem.pairs_share and d.scalars is None else 0,
        num_scalars=t.scalars.shape[1],
        num_features=len(layout.features),
        num_messages=len(layout.messages),
        num_networks=len(layout.ends),
        max_degree=layout.degrees[-1],
        channel=problem.channel,
        room=problem.room,
        features=_parts(layout.features, t.features, d.features),
        messages=_parts(layout.messages, values, gradients),
        networks=networks,
        parameters=_addresses(t.parameters),
        gradients=_addresses(d.parameters),
        frames=_addresses(_by_degree(layout, t.frames)),
        dframes=_addresses(_by_degree(layout, d.frames)),
        src=problem.src.data_ptr(),
        order=plan.order.data_ptr(),
        scalars=t.scalars.data_ptr(),
        vector=address(t.vector),
        dscalars=address(d.scalars),
        dvector=address(d.vector),
        threads=calls.Threads(),
    )
    calls.call(SOURCE, function, dtype, call)


def _check(problem: Problem, t: Tensors, messages: Sequence[Tensor]) -> None:
    """Refuse what ``compiled.cpp`` would misread."""
    layout, edges, dtype = problem.layout, problem.plan.num_edges, t.scalars.dtype
    check_parameters(layout.ends, t.parameters, t.scalars)
    check_read(t.scalars, "the input of the radial networks", dtype, (edges, t.scalars.shape[1]))
    for ((k, _), channels), feature in zip(layout.features.items(), t.features, strict=True):
        check_read(feature, f"h['{k}']", dtype, (len(t.features[0]), channels, 2 * k + 1))
    for l, frame_of_degree in zip(layout.degrees, t.frames, strict=True):
        check_read(frame_of_degree, f"the frames of degree {l}", dtype, (edges, 2 * l + 1, 2 * l + 1))
    for ((l, _), channels), message in zip(layout.messages.items(), messages, strict=True):
        check_read(message, f"the messages of degree {l}", dtype, (edges, channels, 2 * l + 1))
    if t.vector is not None:
        check_read(t.vector, "edata['d']", dtype, (edges, 3))
    check_read(problem.src, "src", torch.int64, (edges,))
    check_read(problem.plan.order, "the order of the plan", torch.int64, (edges,))


def _parts(
    channels: Mapping[frame.Key, int], values: Sequence[Tensor | None], gradients: Sequence[Tensor | None]
) -> ctypes.Array[_Part]:
    each = zip(channels.items(), values, gradients, strict=True)
    return (_Part * len(channels))(*((degree, c, address(v), address(g)) for ((degree, _), c), v, g in each))


@lru_cache(maxsize=1024)
def _networks(layout: frame.Layout, dtype: torch.dtype) -> tuple[ctypes.Array[_Network], list[Tensor]]:
    """The networks, and the couplings that they point to, which must live as long."""
    couplings = [aligned_coupling(kernel.degree_out, kernel.degree_in, dtype) for kernel in layout.ends]
    pairs = product(range(len(layout.features)), range(len(layout.messages)))
    each = zip(pairs, couplings, strict=True)
    networks = (_Network * len(couplings))(*((feature, message, c.data_ptr()) for (feature, message), c in each))
    return networks, couplings


def _by_degree(layout: frame.Layout, frames: Sequence[Tensor | None]) -> list[Tensor | None]:
    """From 0 to the largest degree; None where nothing has the degree, and for 0."""
    known = dict(zip(layout.degrees, frames, strict=True))
    return [known.get(l) if l else None for l in range(layout.degrees[-1] + 1)]


def _addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p] | None:
    """Where each begins, null where there is none; None, if there are none at all."""
    numbers = array("Q", [0 if tensor is None else tensor.data_ptr() for tensor in tensors])
    return (ctypes.c_void_p * len(numbers)).from_buffer(numbers) if any(numbers) else None
