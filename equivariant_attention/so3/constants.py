"""Constant tensors, computed once per process."""

from collections.abc import Callable
from functools import cache, wraps
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..compiling import constant_when_compiled


def constant(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``functools.cache`` for functions that return constant tensors.

    What is cached must serve every later caller, so it is made outside any inference mode that the first caller is in:
    an inference tensor could not take part in training afterwards.
    """

    @cache
    @wraps(function)
    def once(*args: Any, **kwargs) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    kept = SimpleNamespace()

    @constant_when_compiled
    def name_of(*args: Any, **kwargs) -> str:
        tensor = once(*args, **kwargs)
        name = f"tensor_{id(tensor)}"
        setattr(kept, name, tensor)
        return name

    @wraps(once)
    def found(*args: Any, **kwargs) -> Tensor:
        # torch.compile would take a tensor that name_of returned for the same as other tensors that it returned.
        return getattr(kept, name_of(*args, **kwargs)) if torch.compiler.is_compiling() else once(*args, **kwargs)

    found.cache_clear = once.cache_clear  # type: ignore[attr-defined]
    return found
