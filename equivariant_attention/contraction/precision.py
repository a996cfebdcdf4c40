"""In which precision messages are made: that of the parameters, whatever autocast says."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from ..checks import is_autocast_on


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, which would round frames and radial networks: messages would not be equivariant.

    A backward pass needs it too, as it may run under autocast where the forward pass did not, or the reverse.
    """
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """A context in which products of float32 matrices are not rounded to TF32, whatever PyTorch was told.

    Rotations must not be: a vector that is rounded no longer turns as its frame does. Radial weights may be.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cuda" or before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
