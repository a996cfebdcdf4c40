"""Functions of tensors that run in C++, first derivatives too; their second derivatives are those of PyTorch.

Each is registered with PyTorch as two operators, ``torch.ops.equivariant_attention.<name>`` and ``<name>_gradient``.
What compiles, exports or counts sees these, and finds their shapes, derivatives and batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ..native.calls import contiguous, holds_numbers, is_watched

Tensors = Sequence[Any]  # some may be None
NAMESPACE = __name__.removesuffix(".native.operation").replace(".", "_")  # two copies of the package may be at work
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
OPERATORS = getattr(torch.ops, NAMESPACE)


@dataclass(frozen=True)
class Operation:
    """A function of tensors, in C++ and in PyTorch.

    Attributes:
        name: of the operator.
        statics: what it depends on beside tensors, as the operator takes it.
        room: from what it is a function of to tensors where its values are written.
        forward: from that, and these, in C++.
        gradient: from that, which derivatives are needed, and derivatives by the values (None by what is not used), to
            these derivatives, in C++; None in the places of those that are not needed, or of which no value is used.
        plain: what it is, in PyTorch; None for the operator alone.
    """

    name: str
    statics: tuple[Any, ...]
    room: Callable[[Tensors], list[Tensor]]
    forward: Callable[[Tensors, Sequence[Tensor]], None]
    gradient: Callable[[Tensors, Sequence[bool], Tensors], Tensors]
    plain: Callable[[Tensors], Sequence[Tensor]] | None = None

    def __call__(self, tensors: Tensors) -> list[Tensor]:
        """The values, in C++."""
        if is_watched():
            given, present = _without_none(tensors)
            return list(getattr(OPERATORS, self.name)(given, present, *self.statics))
        return list(_Operation.apply(self, *contiguous(tensors)))

    def values(self, tensors: Tensors) -> list[Tensor]:
        """The same without derivatives."""
        output = self.room(tensors)
        self.forward(tensors, output)
        return output


def register(name: str, statics: str, make: Callable[..., Operation]) -> None:
    """Make an operation known to PyTorch.

    Args:
        name: of the operator; that of its derivatives has ``_gradient`` after it.
        statics: what it depends on beside tensors, as PyTorch's schemas have it, such as ``'int heads, float scale'``.
        make: from these to the operation.
    """
    qualified, by = f"{NAMESPACE}::{name}", f"{NAMESPACE}::{name}_gradient"
    after = f", {statics}" if statics else ""
    LIBRARY.define(f"{name}(Tensor[] tensors, bool[] present{after}) -> Tensor[]")
    LIBRARY.define(
        f"{name}_gradient(Tensor[] tensors, bool[] present, Tensor[] gradients, bool[] needed{after}) -> Tensor[]"
    )

    def forward(tensors: Sequence[Tensor], present: Sequence[bool], *rest: Any) -> list[Tensor]:
        return make(*rest).values(contiguous(_with_none(tensors, present)))

    def shapes(tensors: Sequence[Tensor], present: Sequence[bool], *rest: Any) -> list[Tensor]:
        return make(*rest).room(_with_none(tensors, present))

    def gradient(
        tensors: Sequence[Tensor],
        present: Sequence[bool],
        gradients: Sequence[Tensor],
        needed: Sequence[bool],
        *rest: Any,
    ) -> list[Tensor]:
        given, wanted = contiguous(_with_none(tensors, present)), _spread(needed, present)
        found = make(*rest).gradient(given, wanted, contiguous(gradients))
        return [d for d in found if d is not None]

    def shapes_of_gradient(
        tensors: Sequence[Tensor], present: Any, gradients: Any, needed: Sequence[bool], *rest: Any
    ) -> list[Tensor]:
        return [v.new_empty(v.shape) for v, n in zip(tensors, needed, strict=True) if n]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, ctx.present, *ctx.statics = inputs
        ctx.save_for_backward(*tensors)

    def backward(ctx: Any, gradients: Sequence[Tensor]) -> tuple[Any, ...]:
        needed = list(ctx.needs_input_grad[0])
        operator = getattr(OPERATORS, f"{name}_gradient")
        found = iter(operator(list(ctx.saved_tensors), ctx.present, list(gradients), needed, *ctx.statics))
        return [next(found) if n else None for n in needed], *[None] * (1 + len(ctx.statics))

    for operator, kernel, fake in ((qualified, forward, shapes), (by, gradient, shapes_of_gradient)):
        LIBRARY.impl(operator, kernel, "CPU")
        torch.library.register_fake(operator, fake, lib=LIBRARY)
        torch.library.register_vmap(operator, _one_by_one(operator), lib=LIBRARY)
    torch.library.register_autograd(qualified, backward, setup_context=keep, lib=LIBRARY)


def _one_by_one(qualified: str) -> Callable[..., Any]:
    """How an operator acts on a batch of its inputs: on each of them in turn."""

    def batched(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[list[Tensor], list[int]]:
        operator = getattr(OPERATORS, qualified.removeprefix(f"{NAMESPACE}::"))
        found = []
        for i in range(info.batch_size):
            each = [_selected(value, dims, i) for value, dims in zip(inputs, in_dims, strict=True)]
            found.append(operator(*each))
        values = [torch.stack(value) for value in zip(*found, strict=True)]
        return values, [0] * len(values)

    return batched


def _selected(value: Any, dims: Any, i: int) -> Any:
    """The i-th of what is batched along ``dims``; all else as it is."""
    if isinstance(value, Tensor):
        return value if dims is None else value.select(dims, i)
    if isinstance(dims, list | tuple):
        return [_selected(v, d, i) for v, d in zip(value, dims, strict=True)]
    return value


def _without_none(tensors: Tensors) -> tuple[list[Tensor], list[bool]]:
    """Those that are there, and which of them are."""
    return [v for v in tensors if v is not None], [v is not None for v in tensors]


def _with_none(tensors: Sequence[Tensor], present: Sequence[bool]) -> list[Tensor | None]:
    """The inverse of :func:`_without_none`."""
    rest = iter(tensors)
    return [next(rest) if p else None for p in present]


def _spread(needed: Sequence[bool], present: Sequence[bool]) -> list[bool]:
    rest = iter(needed)
    return [next(rest) if p else False for p in present]


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
        return tuple(operation.values(tensors))

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
