"""Registers operations with PyTorch as custom operators, which are called where it compiles, exports or counts them.

Each operation is three of them: ``torch.ops.equivariant_attention.<name>``; its backward pass, ``<name>_gradient``; and
the backward pass of that, ``<name>_second``. Each has a fake kernel (the shapes of its results) and a rule for vmap.
What cannot be differentiated again raises an error: PyTorch would take it for a constant, with a warning at most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from ..native.calls import contiguous

if TYPE_CHECKING:
    from ..native.operation import Operation

# Made from the name of the package, as two copies of it may be imported under different names.
NAMESPACE = __name__.removesuffix(".native.operators").replace(".", "_")
LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")
OPERATORS = getattr(torch.ops, NAMESPACE)
INSIDE: dict[str, Callable[..., list[Tensor]]] = {}  # what an operator does, for benchmarks to count in there


def register(name: str, statics: str, make: Callable[..., Operation], devices: Sequence[str] = ("CPU",)) -> None:
    """Register an operation with PyTorch as three custom operators.

    Args:
        name: the name of the operator; those of its derivatives have the suffixes ``_gradient`` and ``_second``.
        statics: the arguments apart from tensors, as in a PyTorch schema: ``'int heads, float scale'``.
        make: takes these arguments and returns the operation.
        devices: the dispatch keys that they are registered for.
    """
    r, lists = _Registered(name, make), "Tensor[] tensors, bool[] present"
    passes = {
        "": (lists, r.forward, r.shapes, r.keep, r.backward),
        "_gradient": (
            f"{lists}, Tensor[] gradients, bool[] needed",
            r.gradient, r.shapes_of_gradient, r.keep_gradient, r.backward_of_gradient,
        ),
        "_second": (
            f"{lists}, Tensor[] gradients, Tensor[] tangents, bool[] moved, bool[] needed",
            r.second, r.shapes_of_second, _keep_nothing, r.backward_of_second,
        ),
    }  # fmt: skip
    for suffix, (arguments, kernel, shapes, keep, backward) in passes.items():
        qualified = f"{NAMESPACE}::{name}{suffix}"
        LIBRARY.define(f"{name}{suffix}({arguments}{statics and f', {statics}'}) -> Tensor[]")
        for device in devices:
            LIBRARY.impl(qualified, partial(_apart, kernel), device)
        INSIDE[qualified] = kernel
        torch.library.register_fake(qualified, shapes, lib=LIBRARY)
        torch.library.register_vmap(qualified, _one_by_one(qualified), lib=LIBRARY)
        torch.library.register_autograd(qualified, backward, setup_context=keep, lib=LIBRARY)


class _Registered:
    """What PyTorch calls for the three operators of an operation.

    All take ``tensors``, those of the operation that are not None, and ``present``, which of them these are; and the
    ``statics`` last. Masks of derivatives (``needed``, ``moved``) are of ``tensors``.
    """

    def __init__(self, name: str, make: Callable[..., Operation]) -> None:
        self.name, self.make = name, make

    def forward(self, tensors: Sequence[Tensor], present: Sequence[bool], *statics: Any) -> list[Tensor]:
        return self.make(*statics).values(contiguous(with_none(tensors, present)))

    def shapes(self, tensors: Sequence[Tensor], present: Sequence[bool], *statics: Any) -> list[Tensor]:
        return self.make(*statics).allocate(with_none(tensors, present))

    def gradient(
        self,
        tensors: Sequence[Tensor],
        present: Sequence[bool],
        gradients: Sequence[Tensor],
        needed: Sequence[bool],
        *statics: Any,
    ) -> list[Tensor]:
        """The first derivatives that are needed."""
        given, wanted = contiguous(with_none(tensors, present)), with_none(needed, present, absent=False)
        return those_needed(self.make(*statics).gradient(given, wanted, contiguous(gradients)), given, wanted)

    def shapes_of_gradient(
        self, tensors: Sequence[Tensor], present: Any, gradients: Any, needed: Sequence[bool], *statics: Any
    ) -> list[Tensor]:
        return [v.new_empty(v.shape) for v, n in zip(tensors, needed, strict=True) if n]

    def second(
        self,
        tensors: Sequence[Tensor],
        present: Sequence[bool],
        gradients: Sequence[Tensor],
        tangents: Sequence[Tensor],
        moved: Sequence[bool],
        needed: Sequence[bool],
        *statics: Any,
    ) -> list[Tensor]:
        """Tangents of the first derivatives that are needed, then of the values, along those of what is moved."""
        pass_of = self.make(*statics).second
        if pass_of is None:
            raise self.unsupported("second")
        given, wanted = contiguous(with_none(tensors, present)), with_none(needed, present, absent=False)
        along = contiguous(with_none(with_none(tangents, moved), present))
        found, values = pass_of(given, contiguous(gradients), along, wanted)
        return [*those_needed(found, given, wanted), *values]

    def shapes_of_second(
        self,
        tensors: Sequence[Tensor],
        present: Sequence[bool],
        gradients: Any,
        tangents: Any,
        moved: Any,
        needed: Sequence[bool],
        *statics: Any,
    ) -> list[Tensor]:
        return [
            *self.shapes_of_gradient(tensors, present, gradients, needed, *statics),
            *self.shapes(tensors, present, *statics),
        ]

    def keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, ctx.present, *ctx.statics = inputs
        ctx.save_for_backward(*tensors)

    def backward(self, ctx: Any, gradients: Sequence[Tensor]) -> tuple[Any, ...]:
        needed = list(ctx.needs_input_grad[0])
        operator = getattr(OPERATORS, f"{self.name}_gradient")
        found = operator(list(ctx.saved_tensors), ctx.present, list(gradients), needed, *ctx.statics)
        return with_none(found, needed), *[None] * (1 + len(ctx.statics))

    def keep_gradient(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors, ctx.present, gradients, ctx.moved, *ctx.statics = inputs
        ctx.save_for_backward(*tensors, *gradients)

    def backward_of_gradient(self, ctx: Any, tangents: Sequence[Tensor]) -> tuple[Any, ...]:
        if self.make(*ctx.statics).second is None:
            raise self.unsupported("second")
        needed = list(ctx.needs_input_grad[0])
        tensors, gradients = ctx.saved_tensors[: len(needed)], ctx.saved_tensors[len(needed) :]
        operator, lists = getattr(OPERATORS, f"{self.name}_second"), (list(tensors), ctx.present, list(gradients))
        found = operator(*lists, list(tangents), ctx.moved, needed, *ctx.statics)
        of_tensors = sum(needed)
        return with_none(found[:of_tensors], needed), None, found[of_tensors:], None, *[None] * len(ctx.statics)

    def backward_of_second(self, ctx: Any, gradients: Any) -> NoReturn:
        raise self.unsupported("third")

    def unsupported(self, order: str) -> Exception:
        return NotImplementedError(
            f"{self.name} in C++ or Triton have no {order} derivatives where PyTorch records or compiles them: "
            "use_backend('frame') has these"
        )


def _apart(kernel: Callable[..., list[Tensor]], *args: Any) -> list[Tensor]:
    """What a kernel returns, copied where several of it share memory, which results of an operator may not.

    On a GPU the derivatives with respect to parameters are parts of one sum.
    """
    found = kernel(*args)
    places = [v.untyped_storage().data_ptr() for v in found]
    times = Counter(places)
    which = [i for i, place in enumerate(places) if times[place] > 1]
    if which:
        copies = [torch.empty_like(found[i]) for i in which]
        torch._foreach_copy_(copies, [found[i] for i in which])  # one launch for 64 or more
        for i, copy in zip(which, copies, strict=True):
            found[i] = copy
    return found


def _keep_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Of an operator that cannot be differentiated."""


def _one_by_one(qualified: str) -> Callable[..., Any]:
    """The vmap rule of an operator: call it for each element of the batch in turn."""

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
    """Element i of an argument that is batched along ``dims``; an argument that is not batched stays as it is."""
    if isinstance(value, Tensor):
        return value if dims is None else value.select(dims, i)
    if isinstance(dims, list | tuple):
        return [_selected(v, d, i) for v, d in zip(value, dims, strict=True)]
    return value


def without_none(tensors: Sequence[Any]) -> tuple[list[Tensor], list[bool]]:
    """The tensors that are not None, and a mask of where these are: a ``Tensor[]`` of an operator cannot hold None.

    (Autograd does not look into a ``Tensor?[]``, which can.)
    """
    return [v for v in tensors if v is not None], [v is not None for v in tensors]


def or_zeros(values: Iterable[Any], like: Iterable[Any]) -> list[Any]:
    """The values, with zeros like the others in place of None; None where both are."""
    return [torch.zeros_like(v) if d is None and v is not None else d for d, v in zip(values, like, strict=True)]


def those_needed(derivatives: Sequence[Any], tensors: Sequence[Any], needed: Sequence[bool]) -> list[Tensor]:
    """The derivatives with respect to tensors that are needed, with zeros in place of None."""
    return or_zeros(compress(derivatives, needed), compress(tensors, needed))


def with_none(values: Sequence[Any], present: Sequence[bool], absent: Any = None) -> list[Any]:
    """The inverse of :func:`without_none`: values at the places that ``present`` marks, and ``absent`` elsewhere."""
    rest = iter(values)
    return [next(rest) if p else absent for p in present]
