"""The precision in which vectors are computed: that of the parameters, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .checks import is_autocast_on


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, under which vectors, frames and radial weights would be rounded and not turn exactly.

    A backward pass needs it too, as it may run under autocast where the forward pass did not, or the reverse.

    Args:
        device: where what follows is computed.

    Returns:
        the context.
    """
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()
