"""The order of ``frame`` on a CPU, in C++: radial weights and hidden values are made and used in the innermost cache.

Second derivatives are those of ``blockwise``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equivariant_attention.contraction import blockwise, frame
from equivariant_attention.contraction.derivatives import Messages, Passes
from equivariant_attention.contraction.inputs import Inputs
from equivariant_attention.contraction.kernels import PARAMETERS, KernelSet, parameters
from equivariant_attention.contraction.memory import room_for
from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.native import calls
from equivariant_attention.native.calls import address
from equivariant_attention.so3 import aligned_coupling

SOURCE = Path(__file__).with_suffix(".cpp")


def missing(inputs: Inputs, dtype: torch.dtype) -> str:
    """What keeps this order from running here; empty, if nothing does. It is built when first asked for."""
    return calls.missing(SOURCE, (inputs.src, inputs.scalars), dtype)


def messages(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs) -> list[Features]:
    """Messages along every edge, for each of the sets of kernels."""
    layout = frame.Layout(sets, fiber_in)
    t = Tensors(
        features=[inputs.features[str(k)].contiguous() for k in fiber_in.degrees],
        vector=None if inputs.vector is None else inputs.vector.contiguous(),
        scalars=inputs.scalars.contiguous(),
        frames=[inputs.basis.frames[l].to(inputs.scalars.dtype).contiguous() for l in layout.degrees],
        parameters=[p.contiguous() for kernel in layout.kernels for p in parameters(kernel)],
    )
    output = Messages.apply(Problem(layout, inputs).passes, t, *t.flat())
    return blockwise.by_set(sets, fiber_in, inputs, layout, output)


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
        rest = iter(values)
        return Tensors(*([next(rest) for _ in part] if isinstance(part, list) else next(rest) for part in self))


class Problem:
    """What messages depend on apart from tensors that have derivatives."""

    def __init__(self, layout: frame.Layout, inputs: Inputs) -> None:
        self.layout, self.src, self.channel = layout, inputs.src.contiguous(), inputs.channel
        self.plan, self.pairs_share = inputs.basis.plan, inputs.pairs_share
        self.blockwise = blockwise.Problem(layout, inputs)
        self.room = room_for("cache", self.src.device)

    @property
    def passes(self) -> Passes:
        return Passes(*(partial(f, self) for f in (_forward, _gradient, _differentiable_gradient)))


def _forward(problem: Problem, t: Tensors) -> list[Tensor]:
    edges = problem.plan.num_edges
    output = [t.scalars.new_empty(edges, c, 2 * l + 1) for (l, _), c in problem.layout.messages.items()]
    _call("forward", problem, t, t.like([None] * len(t.flat())), output)
    return output


def _gradient(problem: Problem, t: Tensors, needed: Tensors, gradients: Sequence[Tensor]) -> Tensors:
    """First derivatives."""
    by_parameters = any(needed.parameters)
    total = t._replace(
        features=[torch.zeros_like(v) if n else None for v, n in zip(t.features, needed.features, strict=True)],
        vector=torch.empty_like(t.vector) if needed.vector else None,
        scalars=torch.empty_like(t.scalars) if needed.scalars else None,
        frames=[torch.zeros_like(v) if any(needed.frames) else None for v in t.frames],
        parameters=[torch.empty_like(v) if by_parameters else None for v in t.parameters],
    )
    _call("gradient", problem, t, total, [d.contiguous() for d in gradients])
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
    _fields_ = (
        ("feature", ctypes.c_int64),
        ("message", ctypes.c_int64),
        ("coupling", ctypes.c_void_p),
        ("parameters", ctypes.c_void_p * PARAMETERS),
        ("gradients", ctypes.c_void_p * PARAMETERS),
    )


class _Problem(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_nodes", "num_edges", "num_pairs", "num_scalars")),
        *((name, ctypes.c_int64) for name in ("num_features", "num_messages", "num_networks", "max_degree")),
        *((name, ctypes.c_int64) for name in ("channel", "room", "by_parameters")),
        ("features", ctypes.POINTER(_Part)),
        ("messages", ctypes.POINTER(_Part)),
        ("networks", ctypes.POINTER(_Network)),
        *((name, ctypes.c_void_p) for name in ("src", "order", "scalars", "vector", "dscalars", "dvector")),
        ("frames", ctypes.POINTER(ctypes.c_void_p)),
        ("dframes", ctypes.POINTER(ctypes.c_void_p)),
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
    layout, plan, dtype = problem.layout, problem.plan, t.scalars.dtype
    forward = function == "forward"
    pairs = len(plan.pairs) if problem.pairs_share and d.scalars is None else 0
    features = [
        (k, c, address(v), address(g))
        for (k, _), c, v, g in zip(layout.features, layout.features.values(), t[0], d[0], strict=True)
    ]
    made = [
        (l, c, address(v) if forward else 0, 0 if forward else address(v))
        for ((l, _), c), v in zip(layout.messages.items(), messages, strict=True)
    ]
    pairs_of_parts = [(k, l) for k in range(len(features)) for l in range(len(made))]
    couplings = [aligned_coupling(kernel.degree_out, kernel.degree_in, dtype) for kernel in layout.kernels]
    networks = (_Network * len(layout.kernels))()
    for i, (network, (k, l)) in enumerate(zip(networks, pairs_of_parts, strict=True)):
        own = slice(PARAMETERS * i, PARAMETERS * (i + 1))
        network.feature, network.message, network.coupling = k, l, couplings[i].data_ptr()
        network.parameters[:] = [v.data_ptr() for v in t.parameters[own]]
        network.gradients[:] = [address(v) for v in d.parameters[own]]
    count = layout.degrees[-1] + 1
    frames, dframes = (ctypes.c_void_p * count)(), (ctypes.c_void_p * count)()
    for l, v, g in zip(layout.degrees, t.frames, d.frames, strict=True):
        if l:
            frames[l], dframes[l] = v.data_ptr(), address(g)
    call = _Problem(
        num_nodes=len(t.features[0]),
        num_edges=plan.num_edges,
        num_pairs=pairs,
        num_scalars=t.scalars.shape[1],
        num_features=len(features),
        num_messages=len(made),
        num_networks=len(networks),
        max_degree=count - 1,
        channel=problem.channel,
        room=problem.room,
        by_parameters=any(v is not None for v in d.parameters),
        features=(_Part * len(features))(*features),
        messages=(_Part * len(made))(*made),
        networks=networks,
        src=problem.src.data_ptr(),
        order=plan.order.data_ptr(),
        scalars=t.scalars.data_ptr(),
        vector=address(t.vector),
        dscalars=address(d.scalars),
        dvector=address(d.vector),
        frames=frames,
        dframes=dframes if any(v is not None for v in d.frames) else None,
        threads=calls.Threads(),
    )
    calls.call(SOURCE, function, dtype, call)
