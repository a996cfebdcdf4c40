"""Functions of tensors that run in C++, first derivatives too; their second derivatives are those of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = Sequence[Any]  # some may be None


@dataclass(frozen=True)
class Operation:
    """A function of tensors, in C++ and in PyTorch.

    Attributes:
        forward: from what it is a function of to its values, in C++.
        gradient: from that, which derivatives are needed, and derivatives by the values, to these derivatives, in C++;
            None in the places of those that are not needed.
        plain: what forward is, in PyTorch.
    """

    forward: Callable[[Tensors], Sequence[Tensor]]
    gradient: Callable[[Tensors, Sequence[bool], Tensors], Tensors]
    plain: Callable[[Tensors], Sequence[Tensor]]

    def __call__(self, tensors: Tensors) -> list[Tensor]:
        """The values, in C++."""
        return list(_Operation.apply(self, *(None if v is None else v.contiguous() for v in tensors)))


def halves(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """The first and the second half of a list."""
    return tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]


def empty_like(tensors: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """Room for the derivatives that are needed; None for the others."""
    return [torch.empty_like(v) if n else None for v, n in zip(tensors, needed, strict=True)]


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, operation: Operation, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.operation = operation
        ctx.save_for_backward(*tensors)
        return tuple(operation.forward(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_differentiable_gradient(ctx.operation.plain, tensors, needed, gradients)
        return None, *ctx.operation.gradient(tensors, needed, [d.contiguous() for d in gradients])


def _differentiable_gradient(
    plain: Callable[[Tensors], Sequence[Tensor]], tensors: Tensors, needed: Sequence[bool], gradients: Tensors
) -> Tensors:
    # Views, so that derivatives by one are not those by another that it was made from.
    tensors = [v.view_as(v) if n else v for v, n in zip(tensors, needed, strict=True)]
    pairs = [(v, d) for v, d in zip(plain(tensors), gradients, strict=True) if v.requires_grad]
    values, gradients = zip(*pairs, strict=True)
    leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
    found = iter(torch.autograd.grad(values, leaves, gradients, create_graph=True, allow_unused=True))
    return [next(found) if n else None for n in needed]
