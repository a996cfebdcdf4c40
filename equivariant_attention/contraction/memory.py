"""How much memory messages may take as workspace, beside their input and output."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..compiling import constant_when_compiled

# Bytes, for each type of device. 'cache': radial weights that are made at a time. 'block': all else that a block of
# edges needs. 'graph': a block that autograd records. On a CPU the first must stay in cache, and speed depends on these
# sizes: they were measured. A GPU needs blocks that are large enough to fill it.
DEFAULTS = {
    "cache": {"cpu": 2**22, "cuda": 2**28},
    "block": {"cpu": 24 * 2**20, "cuda": 2**30},
    "graph": {"cpu": 2**26, "cuda": 2**32},
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
def memory_for(purpose: str, device: torch.device) -> int:
    """Bytes for a purpose: 'cache', 'block' or 'graph'."""
    by_device = DEFAULTS[purpose]
    default = by_device.get(device.type, by_device["cuda"])
    limit = _limit.get()
    return default if limit is None else min(default, limit)
