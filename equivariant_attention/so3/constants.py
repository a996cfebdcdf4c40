"""Constant tensors, computed once per process."""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch
from torch import Tensor


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

    return once
