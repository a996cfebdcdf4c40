"""Messages as an operator whose gradient is an operator, and the gradient of that again; none asks what comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contraction.derivatives import Tensors
from ..contraction.precision import full_precision


@dataclass(frozen=True)
class Operator:
    """How messages and their derivatives are evaluated, as functions of t: all that they are a function of.

    Attributes:
        check: refuses a pass where the graph is another by now, or that cannot read the tensors that have come.
        forward: from t to the messages.
        gradient: from t, which derivatives are needed, and derivatives by the messages, to these derivatives.
        second: from t, derivatives by the messages, directions like t, None where zero, and which are needed, to the
            tangents of these derivatives, and those of the messages.
        plain: what gradient is, in operations of PyTorch.
    """

    check: Callable[[Sequence[Tensor | None]], None]
    forward: Callable[[Any], list[Tensor]]
    gradient: Callable[[Any, Any, Sequence[Any]], Any]
    second: Callable[[Any, Sequence[Any], Any, Any], tuple[Any, list[Tensor]]]
    plain: Callable[[Any, Any, Sequence[Any]], Any]

    def __call__(self, t: Tensors) -> Sequence[Tensor]:
        """The messages."""
        return _applied(_Messages, self, t, *t.flat())


def _applied(function: Any, *args: Any) -> Any:
    """What a function gives; where derivatives are disabled, autograd has nothing to keep, and is not asked to.

    To hand a thousand parameters to it takes a while.
    """
    return function.apply(*args) if torch.is_grad_enabled() else function.values(*args)


class _Messages(torch.autograd.Function):
    """Of all that they are a function of, t."""

    @staticmethod
    def values(operator: Operator, places: Tensors, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(operator.forward(places.like(tensors)))

    @staticmethod
    def forward(ctx: Any, operator: Operator, t: Tensors, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.operator, ctx.places = operator, t.like([None] * len(tensors))
        ctx.save_for_backward(*tensors)
        return _Messages.values(operator, t, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.operator.check(gradients)
        tensors = ctx.saved_tensors
        needed = ctx.places.like(_asked_for(ctx.next_functions, tensors))
        return None, None, *_applied(_Gradient, ctx.operator, needed, *tensors, *gradients)


class _Gradient(torch.autograd.Function):
    """Of t and the derivatives by the messages."""

    @staticmethod
    def values(operator: Operator, needed: Tensors, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        n = len(needed.flat())
        return operator.gradient(needed.like(tensors[:n]), needed, tensors[n:]).flat()

    @staticmethod
    def forward(ctx: Any, operator: Operator, needed: Tensors, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.operator, ctx.needed = operator, needed
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return _Gradient.values(operator, needed, *tensors)

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.operator.check(directions)
        tensors = ctx.saved_tensors
        wanted = _asked_for(ctx.next_functions, tensors)
        return None, None, *_applied(_Second, ctx.operator, ctx.needed, wanted, *tensors, *directions)


class _Second(torch.autograd.Function):
    """Of t, the derivatives by the messages, and directions; its own derivatives are those of PyTorch."""

    @staticmethod
    def values(operator: Operator, places: Tensors, wanted: Sequence[bool], *tensors: Tensor | None) -> tuple[Any, ...]:
        n = len(places.flat())
        t, directions, by_t = (places.like(values) for values in (tensors[:n], tensors[-n:], wanted[:n]))
        derivatives, tangents = operator.second(t, tensors[n:-n], directions, by_t)
        return *derivatives.flat(), *tangents

    @staticmethod
    def forward(
        ctx: Any, operator: Operator, places: Tensors, wanted: Sequence[bool], *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.operator, ctx.places = operator, places
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        values = _Second.values(operator, places, wanted, *tensors)
        ctx.device = values[-1].device
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.operator.check(gradients)
        needed, create_graph = ctx.needs_input_grad[3:], torch.is_grad_enabled()
        with full_precision(ctx.device):
            with torch.enable_grad():
                # Views, so that derivatives by one are not those by another that it was made from.
                tensors = [v.view_as(v) if n else v for v, n in zip(ctx.saved_tensors, needed, strict=True)]
                second = _plain_second(ctx.operator, ctx.places, tensors, [d is not None for d in gradients])
            leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
            found = iter(_derivatives(second, leaves, gradients, create_graph))
        return None, None, None, *(next(found) if n else None for n in needed)


def _asked_for(next_functions: Sequence[Any], tensors: Sequence[Tensor | None]) -> list[bool]:
    """By which of what was kept a backward pass takes derivatives: for forces, say, by none of the parameters.

    Args:
        next_functions: of the node of autograd that runs, one for every tensor that is there.
        tensors: what was kept. If the pass takes derivatives by one leaf, it counts as taking them by all.
    """
    functions, found, by_leaves = iter(next_functions), [], False
    for tensor in tensors:
        function = None if tensor is None else next(functions)[0]
        if tensor is None or function is None:
            found.append(False)
        elif by_leaves and tensor.is_leaf:
            found.append(True)
        else:
            try:
                found.append(torch._C._will_engine_execute_node(function))
            except RuntimeError:  # a leaf that torch.autograd.grad was given: it is, and to be told takes a while
                by_leaves = True
                found.append(True)
    return found


def _plain_second(
    operator: Operator, places: Tensors, tensors: Sequence[Any], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """What :class:`_Second` gives, in operations of PyTorch; None where it is not wanted."""
    n = len(places.flat())
    directions = tensors[-n:]
    first = operator.plain(places.like(tensors[:n]), places.like([d is not None for d in directions]), tensors[n:-n])
    leaves = [v for v, w in zip(tensors[:-n], wanted, strict=True) if w]
    found = iter(_derivatives(first.flat(), leaves, directions, create_graph=True))
    return [next(found) if w else None for w in wanted]


def _derivatives(
    values: Sequence[Tensor | None], leaves: Sequence[Tensor], gradients: Sequence[Tensor | None], create_graph: bool
) -> Sequence[Tensor | None]:
    """Derivatives by leaves, from those by values; None where there are none."""
    both = zip(values, gradients, strict=True)
    pairs = [(v, d) for v, d in both if v is not None and d is not None and v.requires_grad]
    if not pairs:
        return [None] * len(leaves)
    values, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(values, leaves, gradients, create_graph=create_graph, allow_unused=True)
