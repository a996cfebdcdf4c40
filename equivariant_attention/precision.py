"""The precision in which vectors are computed: that of the parameters, whatever autocast and TF32 would do."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from .checks import is_autocast_on


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast and without TF32, either of which would round vectors, so that they no longer turn.

    A backward pass needs it too, as it may run under autocast where the forward pass did not, or the reverse.

    Args:
        device: where what follows is computed.

    Returns:
        the context.
    """
    is_told = device.type == "cuda" and not torch.compiler.is_compiling()  # which cannot be told
    return _without_tf32(device) if is_told else without_autocast(device)


@contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with without_autocast(device):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, for kernels that round radial weights alone where PyTorch is told to use TF32.

    Args:
        device: where they run.

    Returns:
        the context.
    """
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()
