"""Remembers which lists of tensors were checked, and tells quickly whether another list is like one of these."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

try:
    from torch._C._dynamo import guards  # torch.compile's own test of tensors; no public one is as fast
except ImportError:  # another PyTorch may have it elsewhere: then all tensors are checked each time
    guards = None  # type: ignore[assignment]

LIMIT = 1024  # keys that are remembered
STATES = 8  # of the lists of one key: in forward and backward passes, with and without derivatives, compiled or not


class Seen:
    """Lists of tensors that passed a check.

    Another list is like one of these if in every place class, dtype, device, shape, strides, whether it requires
    gradients and PyTorch's dispatch keys (wrappers, views that are yet to be negated, ...) are the same.
    """

    def __init__(self) -> None:
        self._guards: dict[Hashable, tuple[Any, ...]] = {}

    def has(self, key: Hashable, tensors: Sequence[Tensor]) -> bool:
        """Whether one of the lists that were last added under ``key`` is like this one."""
        return any(guard.check(*tensors) for guard in self._guards.get(key, ()))

    def add(self, key: Hashable, tensors: Sequence[Tensor]) -> None:
        """Remember a list that passed the check."""
        if guards is None:
            return
        if len(self._guards) >= LIMIT:
            self._guards.clear()
        sizes, strides = [list(v.shape) for v in tensors], [list(v.stride()) for v in tensors]
        options: Any = {"dynamic_dims_sizes": sizes, "dynamic_dims_strides": strides}  # wrongly typed there
        # A new tuple, for other threads may be going through the old one.
        self._guards[key] = (*self._guards.get(key, ()), guards.TensorGuards(*tensors, **options))[-STATES:]
