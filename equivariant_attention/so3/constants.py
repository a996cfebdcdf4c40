"""Constant tensors, computed once per process."""

from collections.abc import Callable
from functools import cache, wraps
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from ..compiling import constant_when_compiled


def constant(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``functools.cache`` for functions that return constant tensors.

    What is cached must serve every later caller, so it is made outside whatever mode the first caller is in: one of
    inference mode could not take part in training afterwards, a fake one of ``torch.export`` holds no numbers, and one
    of ``torch.func`` is of its transform alone.
    """

    @cache
    @wraps(function)
    def once(*args: Any, **kwargs) -> Tensor:
        with _disable_current_modes(), torch._C._DisableFuncTorch(), torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    kept = SimpleNamespace()

    @constant_when_compiled
    def name_of(*args: Any, **kwargs) -> str:
        tensor = once(*args, **kwargs)
        # As torch._dynamo.mark_static, which does nothing within a compilation: sizes of the graph may be the same by
        # chance, but not always.
        tensor._dynamo_static_indices = {*range(tensor.dim())}  # type: ignore[attr-defined]
        name = f"tensor_{id(tensor)}"
        setattr(kept, name, tensor)
        return name

    @wraps(once)
    def found(*args: Any, **kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            # It would take a tensor that name_of returned for the same as other tensors that it returned.
            return getattr(kept, name_of(*args, **kwargs))
        tensor = once(*args, **kwargs)
        # A mode such as FakeTensorMode gets a tensor of its own kind.
        return tensor if _get_current_dispatch_mode() is None else torch.ops.aten.lift_fresh(tensor)

    found.cache_clear = once.cache_clear  # type: ignore[attr-defined]
    return found
