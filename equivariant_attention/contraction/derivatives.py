"""Messages in PyTorch, and their derivatives, block by block of edges, checkpointed: only their inputs are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..native.operation import plain_gradient
from ..plan import Plan
from ..precision import full_precision


class Tensors(Protocol):
    """All tensors that messages are a function of; some may be None."""

    def flat(self) -> tuple[Any, ...]:
        """In one tuple."""

    def like(self: T, values: Sequence[Any]) -> T:
        """Other values in the places of these."""


T = TypeVar("T", bound=Tensors)


class Passes(NamedTuple):
    """What a backend does in each pass.

    Attributes:
        plan: of the graph; it must not be written to between the passes.
        forward: from the tensors to the messages.
        gradient: from the tensors, which derivatives are needed, and derivatives with respect to the messages, to the
            derivatives with respect to the tensors.
        differentiable_gradient: the same, which autograd can differentiate again.
    """

    plan: Plan
    forward: Callable[[Any], list[Tensor]]
    gradient: Callable[[Any, Any, Sequence[Tensor]], Any]
    differentiable_gradient: Callable[[Any, Any, Sequence[Tensor]], Any]


def evaluated(passes: Passes, t: Tensors) -> Sequence[Tensor]:
    """The messages along all edges, with derivatives."""
    # Without derivatives autograd has nothing to keep, and to hand it a thousand parameters takes a while.
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
        rows: which rows of the graph's tensors these are; None for tensors that blocks have in common.
        gradients: derivatives with respect to its messages.
    """

    tensors: Any
    rows: Any
    gradients: Sequence[Tensor]


def differentiable_gradient(messages: Callable[[T], list[Tensor]], parts: Iterable[Part], t: T, needed: T) -> T:
    """First derivatives of messages, as a function that autograd can differentiate again, where it is enabled.

    Args:
        messages: makes the messages of a block.
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
    """A function of tensors that is evaluated again in the backward pass; only the tensors are kept."""

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
