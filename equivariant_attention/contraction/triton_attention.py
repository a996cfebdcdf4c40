"""Attention on values and keys of backend 'triton', which stay in the frames of their edges.

Messages are written once, by order m in their frames (``kernels/frames.py``). The attention kernel turns them back in
registers, and its backward pass turns derivatives into the frames in registers. That saves writing and reading two
tensors on the edges in each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..contraction import cpp
from ..contraction.convolution import Convolution
from ..contraction.inputs import Inputs
from ..contraction.triton_layout import Layout
from ..contraction.triton_messages import ByOrder, Call, Problem, messages, turned_back_in_pytorch
from ..kernels.launch import launch as run
from ..kernels.launch import power_of_two
from ..native.operation import Operation, Tensors, only
from ..native.operators import or_zeros, register


def attended(
    convolution: Convolution, networks: Sequence[Any], inputs: Inputs, attention: Attention, queries: Sequence[Tensor],
    envelope: Tensor | None, plain: Callable[[Tensors], Sequence[Tensor]],
) -> list[Tensor]:  # fmt: skip
    """The output of attention at every node, on values and keys that are the messages of a convolution.

    Args:
        convolution, networks, inputs: as for :func:`equivariant_attention.contraction.contract`; the messages are the
            values, degree by degree, and then the keys.
        attention: the sizes of the attention.
        queries: for each degree of the keys, ``[nodes, channels, 2l+1]``.
        envelope: ``[edges, 1]``, or None.
        plain: attention in PyTorch, on values, keys, queries, the envelope and the destination of each edge.
    """
    plan, made = inputs.basis.plan, messages(convolution, networks, inputs, Framed)
    frames = cpp.frames_of(convolution, inputs)
    graph = [envelope, plan.dst, plan.order, *plan.by_destination]
    return attention.operation(plain)([*made, *queries, *frames, *graph])


def suits(inputs: Inputs) -> bool:
    """Whether messages may stay in their frames: no edge has length zero, and frames need no derivatives."""
    basis = inputs.basis
    return not len(basis.without_direction) and not any(frame.requires_grad for frame in basis.frames)


@dataclass(frozen=True)
class Framed(Problem):
    """Messages in the frames of their edges: two tensors, m = 0 and m > 0, as in ``kernels/frames.py``.

    Edges of length zero, and derivatives with respect to frames, are not supported: :func:`suits` excludes them.
    """

    name = "messages_by_order"

    def allocate(self, tensors: Sequence[Any]) -> list[Tensor]:
        """Empty tensors for the messages."""
        t, layout = self.like(tensors), Layout.of(self.convolution)
        return [*ByOrder.empty(layout.outside, t.num_edges, layout.channels_out, t.scalars)]

    def forward(self, tensors: Sequence[Any], output: Sequence[Tensor]) -> None:
        """Write the messages."""
        call = Call(self, self.like(tensors), self.pairs_share)
        (x,) = call.turned()
        call.mixed(x, *call.networks(), into=ByOrder(*output))

    def gradient(self, tensors: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]) -> list[Tensor | None]:
        """First derivatives."""
        t, n = self.like(tensors), self.like(needed)
        _refuse_those_by_frames(n.frames)
        call = Call(self, t, self.pairs_share and not n.scalars)
        (x,), networks = call.turned(), call.networks(transposed=True)
        found = call.derivatives(x, self._arriving(tensors, gradients), *networks, n)
        return [*self.like([None] * len(tensors))._replace(**found).flat()]

    def plain_gradient(
        self, tensors: Sequence[Any], needed: Sequence[bool], gradients: Sequence[Any]
    ) -> list[Tensor | None]:
        """First derivatives in PyTorch, which autograd can differentiate again."""
        t, dy = self.like(tensors), self._arriving(tensors, gradients)
        arriving = turned_back_in_pytorch(self.convolution, dy, t.frames, t.graph[1])
        return super().plain_gradient(tensors, needed, arriving)

    def _arriving(self, tensors: Sequence[Any], gradients: Sequence[Any]) -> ByOrder:
        """Derivatives with respect to the messages, with zeros in place of None."""
        return ByOrder(*or_zeros(gradients, self.allocate(tensors)))


@dataclass(frozen=True)
class Attention:
    """The sizes that attention depends on.

    Attributes:
        convolution: the convolution whose messages are the values and then the keys.
        num_nodes, n_heads: numbers of nodes and of attention heads.
        scale: what the inner products of queries and keys are multiplied by.
        num_values: number of degrees of the values.
    """

    convolution: Convolution
    num_nodes: int
    n_heads: int
    scale: float
    num_values: int

    def operation(self, plain: Callable[[Tensors], Sequence[Tensor]] | None = None) -> Operation:
        """Attention as a differentiable operation.

        Its tensors are the messages by order (two), queries, frames, the envelope or None, the destination of each
        edge, the order of the plan, and the two tensors of ``plan.by_destination``. Its values are the output, by
        degree.
        """

        def in_pytorch(tensors: Tensors) -> Sequence[Tensor]:
            assert plain is not None
            y, queries, frames, envelope, dst, order, _, _ = self._split(tensors)
            messages = turned_back_in_pytorch(self.convolution, y, frames, order)
            return plain([*messages, *queries, envelope, dst])

        statics = self.convolution.text, self.num_nodes, self.n_heads, self.scale, self.num_values
        whole = None if plain is None else in_pytorch
        return Operation("attention_by_order", statics, self._allocate, self._forward, self._gradient, whole)

    def _split(self, tensors: Tensors) -> tuple[ByOrder, Tensors, Tensors, Any, Tensor, Tensor, Tensor, Tensor]:
        keys = len(self.convolution.messages) - self.num_values
        envelope, dst, order, places, ends = tensors[-5:]
        return ByOrder(*tensors[:2]), tensors[2 : 2 + keys], tensors[2 + keys : -5], envelope, dst, order, places, ends

    def _allocate(self, tensors: Tensors) -> list[Tensor]:
        values = self.convolution.messages[: self.num_values]
        return [tensors[0].new_empty(self.num_nodes, c, 2 * l + 1) for l, c in values]

    def _forward(self, tensors: Tensors, output: Sequence[Tensor]) -> None:
        from ..kernels import attention_by_order as kernels

        y, queries, _, envelope, _, order, places, ends = self._split(tensors)
        run(
            kernels.attended, (self.num_nodes,),
            *y, self._frames(tensors), self._slots(y), tuple(queries), tuple(output),
            ends if envelope is None else envelope, order, places, ends, y.m0.shape[2], self.scale,
            HAS_ENVELOPE=envelope is not None, **self._constants(y),
        )  # fmt: skip

    def _gradient(self, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
        from ..kernels import attention_by_order as kernels

        y, queries, _, envelope, _, order, places, ends = self._split(tensors)
        _refuse_those_by_frames(self._split(needed)[2])
        arriving = or_zeros(gradients, self._allocate(tensors))
        dy = [torch.empty_like(v) for v in y]
        dqueries = [torch.empty_like(q) for q in queries]
        denvelope = None if envelope is None else torch.empty_like(envelope)
        run(
            kernels.attended_gradient, (self.num_nodes,),
            *y, self._frames(tensors), self._slots(y), tuple(queries), tuple(arriving), *dy, tuple(dqueries),
            ends if envelope is None else envelope, ends if denvelope is None else denvelope, order, places, ends,
            y.m0.shape[2], self.scale, HAS_ENVELOPE=envelope is not None, **self._constants(y),
        )  # fmt: skip
        found = [*dy, *dqueries, *[None] * len(self.convolution.degrees), denvelope, None, None, None, None]
        return only(found, needed)

    def _frames(self, tensors: Tensors) -> tuple[Tensor, ...]:
        by_degree = dict(zip(self.convolution.degrees, self._split(tensors)[2], strict=True))
        return tuple(by_degree[l] for l, _ in self.convolution.messages)

    def _slots(self, y: ByOrder) -> Tensor:
        return Layout.of(self.convolution).table("slots_out", 0, y.m0.device)

    def _constants(self, y: ByOrder) -> dict[str, Any]:
        import triton.language as tl

        messages, limits = self.convolution.messages, torch.finfo(y.m0.dtype)
        sizes = tuple(c // self.n_heads for _, c in messages)
        components = [2 * l + 1 for l, _ in messages]
        both = components[: self.num_values], components[self.num_values :]
        return {
            "DEGREES": tuple(l for l, _ in messages),
            "SIZES": sizes,
            "WIDTHS": tuple(map(power_of_two, sizes)),
            "FIRST": tuple(first for part in both for first in accumulate(part[:-1], initial=0)),
            "VALUES": self.num_values,
            "ORDERS": Layout.of(self.convolution).orders,
            "C": y.m0.shape[3],
            "HEADS": self.n_heads,
            "H": power_of_two(self.n_heads),
            "TINY": limits.tiny,
            "LEAST": limits.min,
            "SUM": tl.float64 if y.m0.dtype == torch.float64 else tl.float32,
            "num_warps": max(1, y.m0.shape[3] // 64),
        }


def _refuse_those_by_frames(needed: Sequence[bool]) -> None:
    """To PyTorch, None would be zero."""
    if any(needed):
        raise NotImplementedError("there are no derivatives by frames where messages stay in these")


cpp.register_messages(Framed, devices=("CPU", "CUDA"))
register(
    "attention_by_order",
    "str convolution, SymInt num_nodes, int n_heads, float scale, int num_values",
    lambda text, *rest: Attention(Convolution.of(text), *rest).operation(),
    devices=("CPU", "CUDA"),
)
