"""Differentiable functions of tensors that run in C++ or in Triton, and how autograd sees them.

An :class:`Operation` y = f(x) has up to three passes. Here J is the Jacobian of f at x, and dy are the derivatives of a
loss with respect to y, PyTorch's ``grad_output``:

- ``forward`` computes y;
- ``gradient`` computes the first derivatives dx = J^T dy;
- ``second`` computes the tangents of dx and of y along a tangent of x. That is the backward pass of ``gradient``: a
  derivative with respect to dx acts as a tangent of x, as second derivatives are symmetric.

To autograd they are three functions, each the backward pass of the one before: ``_Values``, ``_Gradient`` and
``_Second``. So no pass needs to know whether its results will be differentiated again.

Where PyTorch compiles, exports or counts operations, the custom operators of ``operators.py`` are called instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ..native.calls import contiguous
from ..native.operators import OPERATORS, with_none, without_none
from ..native.private import holds_numbers, is_recorded, is_watched, recording, will_run

Tensors = Sequence[Any]  # tensors, some of which may be None
Gradient = Callable[[Tensors, Sequence[bool], Tensors], Tensors]
Plain = Callable[[Tensors], Sequence[Tensor]] | None  # a function in PyTorch, of the tensors in a list


@dataclass(frozen=True, eq=False)  # by identity: the compiler of PyTorch 2.11 asks for a hash before there are values
class Operation:
    """A function of a list of tensors, in C++ and in PyTorch.

    Attributes:
        name: the name of the registered operator.
        statics: the arguments of that operator apart from tensors.
        allocate: takes the input tensors and returns empty tensors for the values.
        forward: takes the input tensors and what ``allocate`` returned, and writes the values there, in C++.
        gradient: computes first derivatives, in C++. It takes the input tensors, for each whether its derivative is
            needed, and the derivatives with respect to the values (None for a value that is not used). It returns the
            derivatives with respect to the input tensors, None where they are not needed or zero.
        plain: the same function in PyTorch, for second derivatives; None where ``second`` or ``plain_gradient`` is
            given, or where only the registered operator is used.
        second: computes tangents of first derivatives, in C++. It takes the input tensors, the derivatives with respect
            to the values, a tangent for each input tensor (None where zero), and which derivatives are needed. It
            returns the tangents of the first derivatives and those of the values. None leaves this to PyTorch.
        plain_gradient: computes in PyTorch what ``gradient`` does, so that autograd can differentiate it.
        check: raises an error in a backward pass if the saved tensors are not those of the forward pass; if None, their
            dtypes, shapes and devices are compared.
    """

    name: str
    statics: tuple[Any, ...]
    allocate: Callable[[Tensors], list[Tensor]]
    forward: Callable[[Tensors, Sequence[Tensor]], None]
    gradient: Gradient
    plain: Plain = None
    second: Callable[[Tensors, Tensors, Tensors, Sequence[bool]], tuple[Tensors, Sequence[Tensor]]] | None = None
    plain_gradient: Gradient | None = None
    check: Callable[[], None] | None = None

    def __call__(self, tensors: Tensors) -> list[Tensor]:
        """The values, in C++, recorded by autograd."""
        if is_watched():
            given, present = without_none(tensors)
            return list(getattr(OPERATORS, self.name)(given, present, *self.statics))
        return list(_applied(_Values, self, *contiguous(tensors)))

    def values(self, tensors: Tensors) -> list[Tensor]:
        """The values, in C++, not recorded by autograd."""
        output = self.allocate(tensors)
        self.forward(tensors, output)
        return output

    @property
    def unsupported(self) -> Exception:
        """The error where derivatives are batched (``is_grads_batched``), or differentiated in forward mode."""
        return NotImplementedError(
            f"{self.name} in C++ have neither batched nor forward derivatives: use_backend('edge') has these"
        )

    @property
    def in_pytorch(self) -> Gradient:
        """``gradient`` in PyTorch: the one that was given, or autograd's of ``plain``."""
        if self.plain_gradient is not None:
            return self.plain_gradient
        assert self.plain is not None
        return partial(plain_gradient, self.plain)

    def watched_gradient(self, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
        """First derivatives where PyTorch compiles or transforms the backward pass, or batches it.

        PyTorch must then see operations that it knows: its own, or the registered operator.
        """
        if self.plain is not None:
            return plain_gradient(self.plain, tensors, needed, gradients)
        if torch.is_grad_enabled() or not is_recorded():
            raise self.unsupported
        given, present = without_none(tensors)
        operator = getattr(OPERATORS, f"{self.name}_gradient")
        wanted = [n for n, p in zip(needed, present, strict=True) if p]
        return with_none(operator(given, present, list(gradients), wanted, *self.statics), needed)


def split(tensors: Tensors, parts: int) -> list[Tensors]:
    """Split a list into equal parts, ``parts`` of them."""
    size = len(tensors) // parts
    return [tensors[i : i + size] for i in range(0, len(tensors), size)]


def if_used(needed: Sequence[bool], gradients: Tensors) -> list[bool]:
    """Which derivatives are needed and not zero, where value i depends on no tensors but the i-th of each list.

    Args:
        needed: whether a derivative is needed, for all tensors of the first list, then of the second, and so on.
        gradients: derivatives with respect to the values; None for a value that is not used, which has no derivatives.
    """
    return [n and d is not None for n, d in zip(needed, cycle(gradients))]


def empty_like(tensors: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """Empty tensors for the derivatives that are needed; None for the others."""
    return [torch.empty_like(v) if n else None for v, n in zip(tensors, needed, strict=True)]


def only(derivatives: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """The derivatives that are needed; None for the others."""
    return [d if n else None for d, n in zip(derivatives, needed, strict=True)]


def _applied(function: Any, *args: Any) -> Any:
    """Call an autograd function; under ``no_grad``, compute its values directly.

    Nothing needs to be saved there, and passing a thousand parameters through autograd takes time.
    """
    return function.apply(*args) if torch.is_grad_enabled() else function.values(*args)


class _Values(torch.autograd.Function):
    """y = f(x), the forward pass of an operation."""

    @staticmethod
    def values(operation: Operation, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(operation.values(tensors))

    @staticmethod
    def forward(ctx: Any, operation: Operation, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.operation = operation
        ctx.kinds = None if operation.check else _kinds(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return _Values.values(operation, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        needed = _needed_now(ctx.next_functions, tensors)
        if _is_watched_or_batched(gradients):
            return None, *ctx.operation.watched_gradient(tensors, needed, gradients)
        _check_saved(ctx.operation, ctx.kinds, tensors)
        kept = contiguous(tensors)
        return None, *_applied(_Gradient, ctx.operation, needed, *kept, *contiguous(gradients))


class _Gradient(torch.autograd.Function):
    """dx = J^T dy, the first derivatives, from the tensors and the derivatives with respect to the values."""

    @staticmethod
    def values(operation: Operation, needed: Sequence[bool], *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        n = len(needed)
        return tuple(operation.gradient(tensors[:n], needed, tensors[n:]))

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, needed: Sequence[bool], *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.operation, ctx.needed = operation, needed
        ctx.kinds = None if operation.check else _kinds(tensors)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return _Gradient.values(operation, needed, *tensors)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        # What arrives here are derivatives with respect to dx, which act as tangents of x.
        tensors = ctx.saved_tensors
        wanted = _needed_now(ctx.next_functions, tensors)
        _check_saved(ctx.operation, ctx.kinds, tensors)
        every, for_pytorch = [*tensors, *tangents], _is_watched_or_batched(tangents)
        if for_pytorch and ctx.operation.plain is None:
            raise ctx.operation.unsupported
        if ctx.operation.second is None or for_pytorch:
            found = differentiated(ctx.operation.in_pytorch, len(ctx.needed), every, wanted)
        else:
            n = len(ctx.needed)
            kept = contiguous(tensors[:n])
            found = _applied(_Second, ctx.operation, n, wanted, *kept, *contiguous(every[n:]))
        # Derivatives with respect to values that are not used were None: nothing is returned for them.
        return None, None, *(d if v is not None else None for v, d in zip(tensors, found, strict=True))


class _Second(torch.autograd.Function):
    """The tangents of dx and y, from x, dy and a tangent of x. For third derivatives, PyTorch differentiates them."""

    @staticmethod
    def values(operation: Operation, n: int, wanted: Sequence[bool], *tensors: Tensor | None) -> tuple[Any, ...]:
        assert operation.second is not None
        derivatives, tangents = operation.second(tensors[:n], tensors[n:-n], tensors[-n:], wanted[:n])
        return *derivatives, *tangents

    @staticmethod
    def forward(
        ctx: Any, operation: Operation, n: int, wanted: Sequence[bool], *tensors: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.operation, ctx.n = operation, n
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return _Second.values(operation, n, wanted, *tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        _check_saved(ctx.operation, None, ctx.saved_tensors)
        needed, create_graph = ctx.needs_input_grad[3:], torch.is_grad_enabled()
        with recording():
            tensors = _views(ctx.saved_tensors, needed)
            second = _plain_second(ctx.operation.in_pytorch, ctx.n, tensors, [d is not None for d in gradients])
        leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
        return None, None, None, *with_none(derivatives_by(leaves, second, gradients, create_graph), needed)


def differentiated(gradient: Gradient, n: int, tensors: Tensors, wanted: Sequence[bool]) -> Tensors:
    """Tangents of first derivatives and of values, in PyTorch; autograd records them where it is enabled.

    Args:
        gradient: the first derivatives, as ``gradient`` of an :class:`Operation`, but in PyTorch.
        n: the number of tensors that the operation takes.
        tensors: these n tensors, then the derivatives with respect to the values, then n tangents.
        wanted: for each of them but the tangents, whether its derivative is needed.

    Returns:
        for each of them but the tangents, the derivative, or None where it is not needed: with respect to a tensor it
        is the tangent of its first derivative, with respect to a value's derivative the tangent of that value.
    """
    create_graph = torch.is_grad_enabled()
    with recording():
        found = _plain_second(gradient, n, _views(tensors, [*wanted, *[False] * n]), wanted)
    return found if create_graph else [None if v is None else v.detach() for v in found]


def _plain_second(gradient: Gradient, n: int, tensors: Tensors, wanted: Sequence[bool]) -> Tensors:
    """:func:`differentiated` of tensors that autograd records."""
    tangents = tensors[-n:]
    first = gradient(tensors[:n], [t is not None for t in tangents], tensors[n:-n])
    leaves = [v for v, w in zip(tensors[:-n], wanted, strict=True) if w]
    return with_none(derivatives_by(leaves, first, tangents, create_graph=True), wanted)


def _views(tensors: Tensors, needed: Sequence[bool]) -> list[Any]:
    """Each tensor as a new view or leaf, so that no derivative with respect to one flows through another."""
    views = []
    for v, n in zip(tensors, needed, strict=True):
        views.append(v if v is None or not n else v.view_as(v) if v.requires_grad else v.detach().requires_grad_())
    return views


def _is_watched_or_batched(gradients: Tensors) -> bool:
    """Whether PyTorch compiles or transforms this backward pass alone, or runs it on batched derivatives."""
    return is_watched() or not all(holds_numbers(d) for d in gradients if d is not None)


def _check_saved(operation: Operation, kinds: list[Any] | None, tensors: Tensors) -> None:
    """Refuse saved tensors that a hook (``saved_tensors_hooks``) has replaced by ones that C++ would misread."""
    if operation.check is not None:
        operation.check()
    elif kinds is not None and (found := _kinds(tensors)) != kinds:
        raise TypeError(f"what was kept for the backward pass must be {kinds}, got {found}")


def _kinds(tensors: Tensors) -> list[Any]:
    """Dtype, shape, and whether C++ can read it, of each tensor."""
    return [None if v is None else (v.dtype, v.shape, v.is_cpu and holds_numbers(v)) for v in tensors]


def _needed_now(next_functions: Sequence[Any], tensors: Sequence[Tensor | None]) -> list[bool]:
    """``needs_input_grad``, narrowed to what this backward pass computes.

    ``torch.autograd.grad(energy, positions)``, say, needs no derivatives with respect to parameters, though these
    require gradients.

    Args:
        next_functions: those of the autograd node that runs, one for every tensor that is not None.
        tensors: the saved tensors. If the derivative with respect to one leaf is needed, the derivatives with respect
            to all leaves count as needed.
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
                found.append(will_run(function))
            except RuntimeError:  # for leaves given to torch.autograd.grad, which are needed; errors are slow, so once
                by_leaves = True
                found.append(True)
    return found


def derivatives_by(
    leaves: Sequence[Any], values: Sequence[Tensor | None], gradients: Sequence[Tensor | None], create_graph: bool
) -> Sequence[Tensor | None]:
    """Derivatives with respect to leaves, by autograd, from those with respect to values; None where there are none."""
    both = zip(values, gradients, strict=True)
    pairs = [(v, d) for v, d in both if v is not None and d is not None and v.requires_grad]
    if not pairs or not leaves:
        return [None] * len(leaves)
    values, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(values, leaves, gradients, create_graph=create_graph, allow_unused=True)


def plain_gradient(
    plain: Callable[[Tensors], Sequence[Tensor]], tensors: Tensors, needed: Sequence[bool], gradients: Tensors
) -> Tensors:
    """First derivatives of a function that is written in PyTorch; autograd records them where it is enabled.

    Args:
        plain: the function.
        tensors, needed, gradients: as for ``gradient`` of an :class:`Operation`.
    """
    create_graph = torch.is_grad_enabled()
    with recording():
        tensors = _views(tensors, needed)
        values = plain(tensors)
    leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
    return with_none(derivatives_by(leaves, values, gradients, create_graph), needed)
