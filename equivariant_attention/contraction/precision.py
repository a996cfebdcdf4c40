"""In which precision messages are made: that of the parameters, whatever autocast says."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..checks import is_autocast_on


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast off: it would round in the frames and in the radial networks, where messages lose their equivariance.

    A backward pass needs it as well: it may run inside an autocast that the forward pass was not in, or the reverse.
    """
    return torch.autocast(device.type, enabled=False) if is_autocast_on(device) else nullcontext()
