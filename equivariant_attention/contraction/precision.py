"""In which precision messages are made: that of the parameters, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..checks import is_autocast_on


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast, which would round frames and radial networks: messages would not be equivariant.

    A backward pass needs it too, as it may run under autocast where the forward pass did not, or the reverse.
    """
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()
