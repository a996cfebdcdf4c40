"""How much memory messages may take as workspace, beside their input and output."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..compiling import constant_when_compiled
from ..kernels.launch import is_gpu

# Bytes, for each type of device. 'cache': radial weights that are made at a time. 'block': all else that a block of
# edges needs. 'graph': a block that autograd records. On a CPU the first must stay in cache, and speed depends on these
# sizes: they were measured. Of a GPU this is counted: in blocks of 25 MB, half of an H100's L2 cache, 'frame' would
# launch 492 kernels more in an attention layer of the paper's QM9 model (240 bonded molecules, forward and backward),
# 2.5 ms if each takes 5 microseconds; and spare it 3.1 of 9.9 GB at most, .9 ms at 3.35 TB/s.
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
    default = DEFAULTS[purpose]["cpu" if device.type == "cpu" and not is_gpu(device) else "cuda"]
    limit = _limit.get()
    return default if limit is None else min(default, limit)
