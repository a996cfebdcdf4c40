"""How much memory messages may take as workspace, beside their input and output."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

from ..compiling import constant_when_compiled
from ..kernels.launch import is_gpu

# Bytes. 'cache': radial weights that C++ makes at a time, which must stay in cache. 'block': all else that its block of
# edges needs. 'graph': a block in PyTorch, that autograd records. On a CPU speed depends on these: they were measured.
# On a GPU they were not; counted were launches of a step of the paper's QM9 model (240 bonded molecules) by 'frame':
# 7,177 in blocks of 4 GB, 13,757 in those of 1 GB, which move as many bytes.
DEFAULTS = {"cache": 2**22, "block": 24 * 2**20, "graph": 2**26}
GRAPH_ON_GPU = 2**32
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
    on_gpu = purpose == "graph" and (device.type != "cpu" or is_gpu(device))
    default = GRAPH_ON_GPU if on_gpu else DEFAULTS[purpose]
    limit = _limit.get()
    return default if limit is None else min(default, limit)
