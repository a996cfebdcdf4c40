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


def matmul_precision() -> str:
    """'highest', 'high' or 'medium': how PyTorch was told to multiply float32 matrices, by either of its interfaces."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # told by fp32_precision, of PyTorch 2.9 and later, of which this knows nothing
        return "high" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "highest"


@contextmanager
def _without_tf32(device: torch.device) -> Iterator[None]:
    both: tuple[Any, Any] = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    parts = [part for part in both if hasattr(part, "fp32_precision")]  # none before PyTorch 2.9
    before = [part.fp32_precision for part in parts]
    try:
        whole = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
    except RuntimeError:
        whole = None
        torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        with without_autocast(device):
            yield
    finally:
        if whole is not None:
            torch.set_float32_matmul_precision(whole)
        for part, precision in zip(parts, before, strict=True):
            part.fp32_precision = precision


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, for kernels that round radial weights alone where PyTorch is told to use TF32.

    Args:
        device: where they run.

    Returns:
        the context.
    """
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()
