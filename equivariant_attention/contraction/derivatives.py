"""Checkpointed evaluation in PyTorch, block by block of edges: only inputs are saved for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..native.operation import plain_gradient
from ..plan import Plan
from ..precision import full_precision


class Tensors(Protocol):
    """A record of the tensors that messages are a function of; some may be None."""

    def flat(self) -> tuple[Any, ...]:
        """The tensors in one tuple."""

    def like(self: T, values: Sequence[Any]) -> T:
        """The inverse of :meth:`flat`, for other values."""


T = TypeVar("T", bound=Tensors)


class Passes(NamedTuple):
    """The passes of a backend.

    Attributes:
        plan: the plan of the graph; it must not be written to between the passes.
        forward: takes the tensors and returns the messages.
        gradient: takes the tensors, which derivatives are needed, and the derivatives with respect to the messages; it
            returns the derivatives with respect to the tensors.
        differentiable_gradient: the same, in operations that autograd can differentiate.
    """

    plan: Plan
    forward: Callable[[Any], list[Tensor]]
    gradient: Callable[[Any, Any, Sequence[Tensor]], Any]
    differentiable_gradient: Callable[[Any, Any, Sequence[Tensor]], Any]


def evaluated(passes: Passes, t: Tensors) -> Sequence[Tensor]:
    """The messages along all edges, recorded by autograd if gradients are enabled."""
    # Under no_grad nothing is saved, and passing a thousand parameters through autograd takes time.
    return _Messages.apply(passes, t, *t.flat()) if torch.is_grad_enabled() else passes.forward(t)


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, t: Tensors, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.passes, ctx.places = passes, t.like([None] * len(tensors))
        ctx.refills = passes.plan.refills
        ctx.save_for_backward(*tensors)
        return tuple(passes.forward(t.like(tensors)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.passes.plan.check_unwritten(ctx.refills)
        t, needed = ctx.places.like(ctx.saved_tensors), ctx.places.like(ctx.needs_input_grad[2:])
        derivative = ctx.passes.differentiable_gradient if torch.is_grad_enabled() else ctx.passes.gradient
        with full_precision(gradients[0].device):
            return None, None, *derivative(t, needed, gradients).flat()


class Part(NamedTuple):
    """A block of edges.

    Attributes:
        tensors: what its messages are a function of.
        rows: for each of them, which rows of the graph's tensor it has; None for tensors that all blocks share.
        gradients: derivatives with respect to its messages.
    """

    tensors: Any
    rows: Any
    gradients: Sequence[Tensor]


def differentiable_gradient(messages: Callable[[T], list[Tensor]], parts: Iterable[Part], t: T, needed: T) -> T:
    """First derivatives of messages, which autograd can differentiate again where it is enabled.

    Args:
        messages: computes the messages of a block from its tensors.
        parts: the blocks.
        t: the tensors of all edges.
        needed: with respect to which of them derivatives are needed.

    Returns:
        the derivatives, and None where they are not needed.
    """
    wanted = needed.flat()

    def gradient(both: Sequence[Any]) -> list[Tensor]:
        values, arriving = both[: len(wanted)], both[len(wanted) :]
        found = plain_gradient(lambda some: messages(t.like(some)), values, wanted, arriving)
        each = zip(values, found, wanted, strict=True)
        return [torch.zeros_like(v) if d is None else d for v, d, n in each if n]

    total = zeros(t, needed).flat()
    for part in parts:
        found = iter(_Recomputed.apply(gradient, *part.tensors.flat(), *part.gradients))
        d = [next(found) if n else None for n in wanted]
        total = [_added(*values) for values in zip(total, d, part.rows.flat(), strict=True)]
    return t.like(total)


def zeros(t: T, needed: T) -> T:
    """Zeros to which derivatives are added; None where they are not needed."""
    return t.like([torch.zeros_like(v) if n else None for v, n in zip(t.flat(), needed.flat(), strict=True)])


def _added(whole: Tensor | None, part: Tensor | None, rows: Tensor | None) -> Tensor | None:
    if whole is None:
        return None
    if torch.is_grad_enabled():
        return whole + part if rows is None else whole.index_add(0, rows, part)
    return whole.add_(part) if rows is None else whole.index_add_(0, rows, part)


class _Recomputed(torch.autograd.Function):
    """A checkpointed function: only its tensors are saved, and the backward pass evaluates it again."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[[Sequence[Any]], list[Tensor]], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return tuple(function(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(gradients[0].device):
            return None, *plain_gradient(ctx.function, ctx.saved_tensors, ctx.needs_input_grad[1:], gradients)
