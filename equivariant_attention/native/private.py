"""What the engine asks of PyTorch that has no public name there: all of it is here, to be looked at in new versions.

PyTorch tells publicly whether it compiles, or traces by ``torch.jit``, and nothing else of what is asked below.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

try:
    from torch._C._dynamo import guards  # written in C++; nothing public is as fast
except ImportError:  # in another version of PyTorch: nothing is then remembered
    guards = None  # type: ignore[assignment]

LIMIT = 1024  # keys that are remembered
# Lists that are remembered for one key: those of forward and backward passes, with and without gradients, compiled...
STATES = 8


def is_transformed() -> bool:
    """Whether ``torch.func``, forward-mode autograd or ``torch.jit.trace`` run: they need PyTorch's own operations."""
    return (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_recorded() -> bool:
    """Whether PyTorch compiles, exports, records or counts operations: these must then be registered with it."""
    # A dispatch mode is one of make_fx, FakeTensorMode, FlopCounterMode, ...
    return torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None


def is_watched() -> bool:
    """Whether :func:`is_transformed` or :func:`is_recorded`."""
    return is_transformed() or is_recorded()


def is_looked_into() -> bool:
    """Whether PyTorch compiles or transforms what runs, so that no autograd function written by hand may be used."""
    return is_transformed() or torch.compiler.is_compiling()


def is_profiled() -> bool:
    """Whether a profiler runs."""
    return torch.autograd._profiler_enabled()


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor has dense memory of its own: it is no subclass, no wrapper of other tensors, and not sparse."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and torch._C._has_storage(tensor)


def will_run(node: Any) -> bool:
    """Whether the backward pass that runs comes to a node of autograd.

    Raises:
        RuntimeError: the node is of a leaf that was given to ``torch.autograd.grad``.
    """
    return torch._C._will_engine_execute_node(node)


@contextmanager
def recording() -> Iterator[None]:
    """Within this context autograd records operations, even inside a custom operator, where it is otherwise off."""
    with torch.enable_grad(), torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False):
        yield


class Seen:
    """Lists of tensors that passed a check, and a quick test whether another list is like one of these.

    A model has hundreds of parameters. To check them all before every call of C++ takes longer than to compare them, by
    the guards of ``torch.compile``, with a list that passed before.

    Two lists are alike if at every position the tensors agree in class, dtype, device, shape, strides,
    ``requires_grad`` and PyTorch's dispatch keys (which tell wrappers, pending negations, ...).
    """

    def __init__(self) -> None:
        self._guards: dict[Hashable, tuple[Any, ...]] = {}

    def has(self, key: Hashable, tensors: Sequence[Tensor]) -> bool:
        """Whether this list is like one of those last added under ``key``."""
        return any(guard.check(*tensors) for guard in self._guards.get(key, ()))

    def add(self, key: Hashable, tensors: Sequence[Tensor]) -> None:
        """Remember a list that passed the check, under ``key``."""
        if guards is None:
            return
        if len(self._guards) >= LIMIT:
            self._guards.clear()
        sizes, strides = [list(v.shape) for v in tensors], [list(v.stride()) for v in tensors]
        options: Any = {"dynamic_dims_sizes": sizes, "dynamic_dims_strides": strides}  # PyTorch's type stubs are wrong
        # A new tuple, as another thread may be iterating over the old one.
        self._guards[key] = (*self._guards.get(key, ()), guards.TensorGuards(*tensors, **options))[-STATES:]
