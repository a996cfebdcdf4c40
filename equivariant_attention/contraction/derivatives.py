"""Checkpointed evaluation in PyTorch, block by block of edges: only inputs are saved for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..native.operation import plain_gradient
from ..native.operators import those_needed, with_none
from ..plan import Plan
from ..precision import full_precision

T = TypeVar("T", bound=tuple[Any, ...])  # a record of the tensors that messages are a function of: a NamedTuple


def flat(record: T) -> list[Any]:
    """The tensors of a record, whose fields are tensors and lists of these; some may be None."""
    return [v for part in record for v in (part if isinstance(part, list) else [part])]


def like(record: T, values: Iterable[Any]) -> T:
    """The inverse of :func:`flat`, for other values."""
    rest = iter(values)
    parts = ([next(rest) for _ in part] if isinstance(part, list) else next(rest) for part in record)
    return type(record)(*parts)


class Passes(Protocol):
    """The passes of a backend, and the plan of the graph, which must not be written to between them."""

    plan: Plan

    def forward(self, t: Any) -> list[Tensor]:
        """The messages, from the tensors."""

    def gradient(self, t: Any, needed: Any, gradients: Sequence[Tensor]) -> Any:
        """The derivatives that are needed with respect to the tensors, from those with respect to the messages.

        Autograd can differentiate them again.
        """


def evaluated(passes: Passes, t: T) -> Sequence[Tensor]:
    """The messages along all edges, recorded by autograd if gradients are enabled."""
    # Under no_grad nothing is saved, and passing a thousand parameters through autograd takes time.
    return _Messages.apply(passes, t, *flat(t)) if torch.is_grad_enabled() else passes.forward(t)


class _Messages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, passes: Passes, t: T, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.passes, ctx.places = passes, like(t, [None] * len(tensors))
        ctx.refills = passes.plan.refills
        ctx.save_for_backward(*tensors)
        return tuple(passes.forward(like(t, tensors)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.passes.plan.check_unwritten(ctx.refills)
        t, needed = like(ctx.places, ctx.saved_tensors), like(ctx.places, ctx.needs_input_grad[2:])
        with full_precision(gradients[0].device):
            return None, None, *flat(ctx.passes.gradient(t, needed, gradients))


class Part(NamedTuple):
    """A block of edges.

    Attributes:
        messages: computes its messages, from its tensors.
        tensors: what these are a function of.
        rows: for each of them, which rows of the graph's tensor it has; None for tensors that all blocks share.
        gradients: derivatives with respect to its messages.
    """

    messages: Callable[[Any], list[Tensor]]
    tensors: Any
    rows: Any
    gradients: Sequence[Tensor]


def gradient_of(parts: Iterable[Part], t: T, needed: T) -> T:
    """First derivatives of messages, which autograd can differentiate again where it is enabled.

    Args:
        parts: the blocks of edges.
        t: the tensors of all edges.
        needed: with respect to which of them derivatives are needed.

    Returns:
        the derivatives, and None where they are not needed.
    """
    wanted = flat(needed)

    def gradient(messages: Callable[[T], list[Tensor]], both: Sequence[Any]) -> list[Tensor]:
        values, arriving = both[: len(wanted)], both[len(wanted) :]
        found = plain_gradient(lambda some: messages(like(t, some)), values, wanted, arriving)
        return those_needed(found, values, wanted)

    total: list[Any] = [torch.zeros_like(v) if n else None for v, n in zip(flat(t), wanted, strict=True)]
    for part in parts:
        d = with_none(_Recomputed.apply(partial(gradient, part.messages), *flat(part.tensors), *part.gradients), wanted)
        total = [_added(*values) for values in zip(total, d, flat(part.rows), strict=True)]
    return like(t, total)


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
