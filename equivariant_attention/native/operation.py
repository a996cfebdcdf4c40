"""Differentiable functions of tensors that run in C++.

An :class:`Operation` has a function for each derivative: ``forward`` for the values, ``gradient`` for the first
derivatives, ``second`` for the second ones along a direction. Autograd sees ``_Values``, whose backward pass is
``_Gradient``, whose backward pass is ``_Second``; so nothing needs to know who will differentiate again.

Each operation is also registered with PyTorch as two operators, ``torch.ops.equivariant_attention.<name>`` and
``<name>_gradient``, with the shapes of their results, their derivatives and how they act on batches. Where PyTorch
compiles, exports or counts, these are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from ..native.calls import contiguous, holds_numbers, is_recorded, is_watched

Tensors = Sequence[Any]  # tensors, some of which may be None
Gradient = Callable[[Tensors, Sequence[bool], Tensors], Tensors]
NAMESPACE = __name__.removesuffix(".native.operation").replace(".", "_")  # two copies of the package may be at work
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
OPERATORS = getattr(torch.ops, NAMESPACE)
INSIDE: dict[str, Callable[..., list[Tensor]]] = {}  # what each operator does, for those who count that


@dataclass(frozen=True)
class Operation:
    """A function of a list of tensors, in C++ and in PyTorch.

    Attributes:
        name: of the operator.
        statics: its other arguments, as the operator takes them.
        allocate: makes, from the tensors, empty ones for the values.
        forward: writes the values, in C++. Its arguments are the tensors, and what ``allocate`` made.
        gradient: the first derivatives, in C++. Its arguments are the tensors, whether the derivative with respect to
            each is needed, and derivatives with respect to the values (None for a value that is not used). It returns
            the derivatives with respect to the tensors, None where they are not needed or zero.
        plain: the same function in PyTorch, for second derivatives; None where ``second`` or ``plain_gradient`` is
            given, or only the operator is used.
        second: the second derivatives along a direction, in C++. Its arguments are the tensors, derivatives with
            respect to the values, the direction (a tangent for each tensor, None where zero), and which derivatives are
            needed. It returns the tangents of the first derivatives, and of the values. None where PyTorch does this.
        plain_gradient: what ``gradient`` returns, in PyTorch, for derivatives of it.
        check: raises an error in a backward pass if the tensors are no longer those of the forward pass; None compares
            their dtypes, shapes and devices.
        readable: makes of tensors those that C++ can read: contiguous, and as they are.
    """

    name: str
    statics: tuple[Any, ...]
    allocate: Callable[[Tensors], list[Tensor]]
    forward: Callable[[Tensors, Sequence[Tensor]], None]
    gradient: Gradient
    plain: Callable[[Tensors], Sequence[Tensor]] | None = None
    second: Callable[[Tensors, Tensors, Tensors, Sequence[bool]], tuple[Tensors, Sequence[Tensor]]] | None = None
    plain_gradient: Gradient | None = None
    check: Callable[[], None] | None = None
    readable: Callable[[Tensors], Tensors] = contiguous

    def __call__(self, tensors: Tensors) -> list[Tensor]:
        """The values, in C++, with derivatives."""
        if is_watched():
            given, present = _without_none(tensors)
            return list(getattr(OPERATORS, self.name)(given, present, *self.statics))
        return list(_applied(_Values, self, *self.readable(tensors)))

    def values(self, tensors: Tensors) -> list[Tensor]:
        """The same without derivatives."""
        output = self.allocate(tensors)
        self.forward(tensors, output)
        return output

    @property
    def unusual(self) -> Exception:
        """The error for batched derivatives, and for forward derivatives of them."""
        return NotImplementedError(
            f"{self.name} in C++ have neither batched nor forward derivatives: use_backend('edge') has these"
        )

    @property
    def in_pytorch(self) -> Gradient:
        """What gradient is, in PyTorch."""
        if self.plain_gradient is not None:
            return self.plain_gradient
        assert self.plain is not None
        return partial(plain_gradient, self.plain)

    def watched_gradient(self, tensors: Tensors, needed: Sequence[bool], gradients: Tensors) -> Tensors:
        """The first derivatives where PyTorch records or transforms them, or batches them (is_grads_batched)."""
        if self.plain is not None:
            return plain_gradient(self.plain, tensors, needed, gradients)
        if torch.is_grad_enabled() or not is_recorded():
            raise self.unusual
        given, present = _without_none(tensors)
        operator = getattr(OPERATORS, f"{self.name}_gradient")
        wanted = [n for n, p in zip(needed, present, strict=True) if p]
        found = iter(operator(given, present, list(gradients), wanted, *self.statics))
        return [next(found) if n else None for n in needed]


def register(name: str, statics: str, make: Callable[..., Operation], devices: Sequence[str] = ("CPU",)) -> None:
    """Make an operation known to PyTorch.

    Args:
        name: of the operator; the operator of its derivatives has ``_gradient`` after it.
        statics: its arguments beside tensors, in the language of PyTorch's schemas: ``'int heads, float scale'``.
        make: from these arguments to the operation.
        devices: where it can run.
    """
    qualified, by = f"{NAMESPACE}::{name}", f"{NAMESPACE}::{name}_gradient"
    after = f", {statics}" if statics else ""
    LIBRARY.define(f"{name}(Tensor[] tensors, bool[] present{after}) -> Tensor[]")
    LIBRARY.define(
        f"{name}_gradient(Tensor[] tensors, bool[] present, Tensor[] gradients, bool[] needed{after}) -> Tensor[]"
    )

    def forward(tensors: Sequence[Tensor], present: Sequence[bool], *rest: Any) -> list[Tensor]:
        operation = make(*rest)
        return operation.values(operation.readable(with_none(tensors, present)))

    def shapes(tensors: Sequence[Tensor], present: Sequence[bool], *rest: Any) -> list[Tensor]:
        return make(*rest).allocate(with_none(tensors, present))

    def gradient(
        tensors: Sequence[Tensor],
        present: Sequence[bool],
        gradients: Sequence[Tensor],
        needed: Sequence[bool],
        *rest: Any,
    ) -> list[Tensor]:
        operation, wanted = make(*rest), with_none(needed, present, absent=False)
        given = operation.readable(with_none(tensors, present))
        found = operation.gradient(given, wanted, contiguous(gradients))
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
        for device in devices:
            LIBRARY.impl(operator, kernel, device)
        INSIDE[operator] = kernel
        torch.library.register_fake(operator, fake, lib=LIBRARY)
        torch.library.register_vmap(operator, _one_by_one(operator), lib=LIBRARY)
    torch.library.register_autograd(qualified, backward, setup_context=keep, lib=LIBRARY)


def _one_by_one(qualified: str) -> Callable[..., Any]:
    """The rule of ``vmap`` for an operator: it is called for each member of the batch in turn."""

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
    """The i-th member of an argument that is batched along ``dims``; other arguments as they are."""
    if isinstance(value, Tensor):
        return value if dims is None else value.select(dims, i)
    if isinstance(dims, list | tuple):
        return [_selected(v, d, i) for v, d in zip(value, dims, strict=True)]
    return value


def _without_none(tensors: Tensors) -> tuple[list[Tensor], list[bool]]:
    """The tensors that are not None, and for each whether it is: an operator's list cannot hold None."""
    return [v for v in tensors if v is not None], [v is not None for v in tensors]


def with_none(values: Sequence[Any], present: Sequence[bool], absent: Any = None) -> list[Any]:
    """The inverse of :func:`_without_none`, also for values that go with the tensors."""
    rest = iter(values)
    return [next(rest) if p else absent for p in present]


def split(tensors: Tensors, parts: int) -> list[Tensors]:
    """A list in so many equal parts."""
    size = len(tensors) // parts
    return [tensors[i : i + size] for i in range(0, len(tensors), size)]


def halves(tensors: Tensors) -> list[Tensors]:
    """The first and the second half of a list."""
    return split(tensors, 2)


def if_used(needed: Sequence[bool], gradients: Tensors) -> list[bool]:
    """Which derivatives are needed, of a function whose i-th value depends on the i-th tensor of each list alone.

    Args:
        needed: for each tensor, one list after the other.
        gradients: derivatives with respect to the values; None for those that are not used.
    """
    return [n and d is not None for n, d in zip(needed, cycle(gradients))]


def empty_like(tensors: Tensors, needed: Sequence[bool]) -> list[Tensor | None]:
    """Empty tensors for the derivatives that are needed; None for the others."""
    return [torch.empty_like(v) if n else None for v, n in zip(tensors, needed, strict=True)]


def _applied(function: Any, *args: Any) -> Any:
    """Call a function of autograd; where derivatives are disabled, without autograd.

    It would have nothing to keep, and to hand it a thousand parameters takes a while.
    """
    return function.apply(*args) if torch.is_grad_enabled() else function.values(*args)


class _Values(torch.autograd.Function):
    """The values, from the tensors."""

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
        needed = _asked_for(ctx.next_functions, tensors)
        if _is_unusual(gradients):
            return None, *ctx.operation.watched_gradient(tensors, needed, gradients)
        _check_kept(ctx.operation, ctx.kinds, tensors)
        kept = ctx.operation.readable(tensors)
        return None, *_applied(_Gradient, ctx.operation, needed, *kept, *contiguous(gradients))


class _Gradient(torch.autograd.Function):
    """The first derivatives, from the tensors and the derivatives with respect to the values."""

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
    def backward(ctx: Any, *directions: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        wanted = _asked_for(ctx.next_functions, tensors)
        _check_kept(ctx.operation, ctx.kinds, tensors)
        every, unusual = [*tensors, *directions], _is_unusual(directions)
        if unusual and ctx.operation.plain is None:
            raise ctx.operation.unusual
        if ctx.operation.second is None or unusual:
            found = differentiated(ctx.operation.in_pytorch, len(ctx.needed), every, wanted)
        else:
            n = len(ctx.needed)
            kept = ctx.operation.readable(tensors[:n])
            found = _applied(_Second, ctx.operation, n, wanted, *kept, *contiguous(every[n:]))
        # Gradients that are None, of values that are not used, have no derivative.
        return None, None, *(d if v is not None else None for v, d in zip(tensors, found, strict=True))


class _Second(torch.autograd.Function):
    """The second derivatives, from the same and a direction; PyTorch takes the derivatives of these."""

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
        _check_kept(ctx.operation, None, ctx.saved_tensors)
        needed, create_graph = ctx.needs_input_grad[3:], torch.is_grad_enabled()
        with _recording():
            tensors = _views(ctx.saved_tensors, needed)
            second = _plain_second(ctx.operation.in_pytorch, ctx.n, tensors, [d is not None for d in gradients])
        leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
        found = iter(derivatives_by(leaves, second, gradients, create_graph))
        return None, None, None, *(next(found) if n else None for n in needed)


def differentiated(gradient: Gradient, n: int, tensors: Tensors, wanted: Sequence[bool]) -> Tensors:
    """The derivatives of a gradient along a direction, in PyTorch; autograd records them where it is enabled.

    Args:
        gradient: as of an :class:`Operation`, but in PyTorch.
        n: how many tensors the operation has.
        tensors: these, derivatives with respect to the values, and the direction, a tangent for each of the first.
        wanted: whether the derivative is needed, for all of them but the direction.
    """
    create_graph = torch.is_grad_enabled()
    with _recording():
        found = _plain_second(gradient, n, _views(tensors, [*wanted, *[False] * n]), wanted)
    return found if create_graph else [None if v is None else v.detach() for v in found]


@contextmanager
def _recording() -> Iterator[None]:
    """Where PyTorch records what derivatives need, also within an operator, where it otherwise does not."""
    with torch.enable_grad(), torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False):
        yield


def _plain_second(gradient: Gradient, n: int, tensors: Tensors, wanted: Sequence[bool]) -> Tensors:
    """The same for tensors that autograd has recorded; None where it is not needed."""
    directions = tensors[-n:]
    first = gradient(tensors[:n], [d is not None for d in directions], tensors[n:-n])
    leaves = [v for v, w in zip(tensors[:-n], wanted, strict=True) if w]
    found = iter(derivatives_by(leaves, first, directions, create_graph=True))
    return [next(found) if w else None for w in wanted]


def _views(tensors: Tensors, needed: Sequence[bool]) -> list[Any]:
    """The tensors as views or leaves of their own: no derivative with respect to one flows through another."""
    views = []
    for v, n in zip(tensors, needed, strict=True):
        views.append(v if v is None or not n else v.view_as(v) if v.requires_grad else v.detach().requires_grad_())
    return views


def _is_unusual(gradients: Tensors) -> bool:
    """Whether PyTorch records or transforms the derivatives alone, or they are batched."""
    return is_watched() or not all(holds_numbers(d) for d in gradients if d is not None)


def _check_kept(operation: Operation, kinds: list[Any] | None, tensors: Tensors) -> None:
    """Refuse tensors that were kept for a later pass, where a hook of saved tensors has returned others."""
    if operation.check is not None:
        operation.check()
    elif kinds is not None and (found := _kinds(tensors)) != kinds:
        raise TypeError(f"what was kept for the backward pass must be {kinds}, got {found}")


def _kinds(tensors: Tensors) -> list[Any]:
    """What C++ must know of tensors to read them."""
    return [None if v is None else (v.dtype, v.shape, v.is_cpu and holds_numbers(v)) for v in tensors]


def _asked_for(next_functions: Sequence[Any], tensors: Sequence[Tensor | None]) -> list[bool]:
    """``needs_input_grad``, narrowed to what this backward pass was asked for: that of forces needs none of parameters.

    Args:
        next_functions: of the node of autograd that runs, one for every tensor that is not None.
        tensors: what was kept. If the derivative with respect to one leaf is needed, that of all leaves counts as
            needed.
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
            except RuntimeError:  # of leaves given to torch.autograd.grad, which are needed; errors are slow, so once
                by_leaves = True
                found.append(True)
    return found


def derivatives_by(
    leaves: Sequence[Any], values: Sequence[Tensor | None], gradients: Sequence[Tensor | None], create_graph: bool
) -> Sequence[Tensor | None]:
    """Derivatives with respect to leaves, from those with respect to values made of them; None where there are none."""
    both = zip(values, gradients, strict=True)
    pairs = [(v, d) for v, d in both if v is not None and d is not None and v.requires_grad]
    if not pairs or not leaves:
        return [None] * len(leaves)
    values, gradients = zip(*pairs, strict=True)
    return torch.autograd.grad(values, leaves, gradients, create_graph=create_graph, allow_unused=True)


def plain_gradient(
    plain: Callable[[Tensors], Sequence[Tensor]], tensors: Tensors, needed: Sequence[bool], gradients: Tensors
) -> Tensors:
    """The first derivatives of a function in PyTorch; autograd records them where it is enabled.

    Args:
        plain: the function.
        tensors, needed, gradients: as of the gradient of an :class:`Operation`.
    """
    create_graph = torch.is_grad_enabled()
    with _recording():
        tensors = _views(tensors, needed)
        values = plain(tensors)
    leaves = [v for v, n in zip(tensors, needed, strict=True) if n]
    found = iter(derivatives_by(leaves, values, gradients, create_graph))
    return [next(found) if n else None for n in needed]
