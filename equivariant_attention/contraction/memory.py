"""How much memory the evaluation of messages takes beside their input and output."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..compiling import constant_when_compiled

# Bytes, by type of device: of radial weights made at a time; of all else that a block of edges needs; and of a block
# that is evaluated with its graph of derivatives. On a CPU the first must stay in cache, and block sizes decide
# everything: these were measured. A GPU wants enough work to fill it.
DEFAULTS = {
    "cache": {"cpu": 2**22, "cuda": 2**28},
    "block": {"cpu": 24 * 2**20, "cuda": 2**30},
    "graph": {"cpu": 2**28, "cuda": 2**32},
}
_limit: ContextVar[int | None] = ContextVar("memory", default=None)


@contextmanager
def limited_memory(limit: int | None) -> Iterator[None]:
    """Within this context no block of edges takes much more than so many bytes; None stands for the defaults."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


@constant_when_compiled
def room_for(purpose: str, device: torch.device) -> int:
    """Bytes for 'cache', 'block' or 'graph'."""
    by_device = DEFAULTS[purpose]
    default = by_device.get(device.type, by_device["cuda"])
    limit = _limit.get()
    return default if limit is None else min(default, limit)
