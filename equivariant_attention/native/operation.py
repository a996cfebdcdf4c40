"""Functions of tensors that run in C++, first derivatives too; their second derivatives are those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ..native.calls import contiguous, holds_numbers, is_watched

Tensors = Sequence[Any]  # some may be None


@dataclass(frozen=True)
class Operation:
    """A function of tensors, in C++ and in PyTorch.

    Attributes:
        forward: from what it is a function of to its values, in C++.
        gradient: from that, which derivatives are needed, and derivatives by the values (None by what is not used), to
            these derivatives, in C++; None in the places of those that are not needed, or of which no value is used.
        plain: what forward is, in PyTorch.
    """

    forward: Callable[[Tensors], Sequence[Tensor]]
    gradient: Callable[[Tensors, Sequence[bool], Tensors], Tensors]
    plain: Callable[[Tensors], Sequence[Tensor]]

    def __call__(self, tensors: Tensors) -> list[Tensor]:
        """The values, in C++."""
        return list(_Operation.apply(self, *contiguous(tensors)))


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The first and the second half of a list."""
    return tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]


def if_used(needed: Sequence[bool], gradients: Tensors) -> list[bool]:
    """Which derivatives are needed by lists of inputs whose i-th members make the i-th value, and no other.

    Args:
        needed: whether, by all of these, one list after the other.
        gradients: derivatives by the values; None by those that are not used.
    """
    return [n and d is not None for n, d in zip(needed, cycle(gradients))]


def empty_like(tensors: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """Room for the derivatives that are needed; None for the others."""
    return [torch.empty_like(v) if n else None for v, n in zip(tensors, needed, strict=True)]


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operation: Operation, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.operation, ctx.kinds = operation, _kinds(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return tuple(operation.forward(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        # Derivatives alone may be watched, or be many at once (is_grads_batched).
        plain = torch.is_grad_enabled() or is_watched() or not all(holds_numbers(d) for d in gradients if d is not None)
        if plain:
            return None, *_plain_gradient(ctx.operation.plain, tensors, needed, gradients)
        if (found := _kinds(tensors)) != ctx.kinds:
            raise TypeError(f"what was kept for the backward pass must be {ctx.kinds}, got {found}")
        kept, by_values = (contiguous(part) for part in (tensors, gradients))
        return None, *ctx.operation.gradient(kept, needed, by_values)


def _kinds(tensors: Tensors) -> list[Any]:
    """What C++ must know of tensors to read them; whoever keeps them between two passes may exchange them."""
    return [None if v is None else (v.dtype, v.shape, v.is_cpu and holds_numbers(v)) for v in tensors]


def _plain_gradient(
    plain: Callable[[Tensors], Sequence[Tensor]], tensors: Tensors, needed: Sequence[bool], gradients: Tensors
) -> Tensors:
    """The derivatives, in PyTorch; differentiable where that is enabled."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, so that derivatives by one are not those by another that it was made from.
        tensors = [v.view_as(v) if n else v for v, n in zip(tensors, needed, strict=True)]
        values = plain(tensors)
    pairs = [(v, d) for v, d in zip(values, gradients, strict=True) if v.requires_grad and d is not None]
    if not pairs:
        return [None] * len(needed)
    values, gradients = zip(*pairs, strict=True)
    leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
    found = iter(torch.autograd.grad(values, leaves, gradients, create_graph=create_graph, allow_unused=True))
    return [next(found) if n else None for n in needed]
