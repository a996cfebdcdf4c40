"""A cache of checks: which lists of tensors passed one, and a quick test whether another list is like these.

A model has hundreds of parameters. To check them all before every call of C++ takes longer than to compare them, by the
guards of ``torch.compile``, with a list that passed before.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

try:
    from torch._C._dynamo import guards  # written in C++; nothing public is as fast
except ImportError:  # in another version of PyTorch: all tensors are then checked each time
    guards = None  # type: ignore[assignment]

LIMIT = 1024  # keys that are remembered
# Lists that are remembered for one key: those of forward and backward passes, with and without gradients, compiled...
STATES = 8


class Seen:
    """Lists of tensors that passed a check.

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
