"""Messages in PyTorch, and their derivatives, block by block of edges; between passes only their inputs are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from ..contraction.precision import full_precision
from ..native.operation import derivatives_by
from ..plan import Plan


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
        ctx.save_for_backward(*tensors)
        return tuple(passes.forward(t.like(tensors)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.passes.plan.check_unwritten()
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
    which = [i for i, n in enumerate(needed.flat()) if n]

    def gradient(count: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        create_graph = torch.is_grad_enabled()
        if not create_graph:
            tensors = (*_leaves(tensors[:count], needed.flat()), *tensors[count:])
        with torch.enable_grad():
            output = messages(t.like(tensors[:count]))
        leaves = [tensors[i] for i in which]
        found = torch.autograd.grad(output, leaves, tensors[count:], create_graph=create_graph, allow_unused=True)
        return tuple(torch.zeros_like(v) if d is None else d for v, d in zip(leaves, found, strict=True))

    total = zeros(t, needed).flat()
    for part in parts:
        b = part.tensors.flat()
        found = iter(_Recomputed.apply(gradient, len(b), *b, *part.gradients))
        d = [next(found) if n else None for n in needed.flat()]
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


def _leaves(values: Sequence[Tensor | None], needed: Sequence[bool]) -> list[Tensor | None]:
    return [None if v is None else v.detach().requires_grad_(n) for v, n in zip(values, needed, strict=True)]


class _Recomputed(torch.autograd.Function):
    """A function of tensors that is evaluated again in the backward pass; only the tensors are kept."""

    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], count: int, *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        ctx.function, ctx.count = function, count
        ctx.save_for_backward(*tensors)
        return function(count, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        create_graph = torch.is_grad_enabled()
        if not create_graph:
            tensors = _leaves(tensors, needed)
        leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
        with full_precision(gradients[0].device):
            with torch.enable_grad():
                output = ctx.function(ctx.count, *tensors)
            found = iter(derivatives_by(leaves, output, gradients, create_graph))
        return None, None, *(next(found) if n else None for n in needed)
