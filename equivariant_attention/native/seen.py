"""Whether tensors are of the kinds and shapes of some that were looked at before, as fast as PyTorch can tell."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

try:
    from torch._C._dynamo import guards  # by which torch.compile tells; no public way is as fast
except ImportError:  # in a PyTorch that has it elsewhere everything is looked at each time
    guards = None  # type: ignore[assignment]

LIMIT = 1024  # kinds that are remembered


class Seen:
    """Lists of tensors that were found to be as they must.

    A list is like one of these if in every place class, dtype, device, shape, strides and whether it requires gradients
    are the same, and whether it is a view that is yet to be negated, a wrapper and so on.
    """

    def __init__(self) -> None:
        self._guards: dict[Hashable, Any] = {}

    def has(self, key: Hashable, tensors: Sequence[Tensor]) -> bool:
        """Whether a list like this was added under ``key`` last."""
        guard = self._guards.get((key, tensors[0].requires_grad, torch.is_inference_mode_enabled()))
        return guard is not None and guard.check(*tensors)

    def add(self, key: Hashable, tensors: Sequence[Tensor]) -> None:
        """Remember a list as one that is as it must be."""
        if guards is None:
            return
        if len(self._guards) >= LIMIT:
            self._guards.clear()
        sizes, strides = [list(v.shape) for v in tensors], [list(v.stride()) for v in tensors]
        options: Any = {"dynamic_dims_sizes": sizes, "dynamic_dims_strides": strides}  # wrongly typed there
        guard = guards.TensorGuards(*tensors, **options)
        self._guards[key, tensors[0].requires_grad, torch.is_inference_mode_enabled()] = guard
