"""Several processes that train one model, as torchrun starts them; one process is the case of one.

Only the first, the leader, prints and writes; it also makes what all must agree on.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")


@contextmanager
def processes() -> Iterator[None]:
    """A context in which the processes of torchrun can communicate, and only the leader's prints are seen."""
    if not distributed.is_torchelastic_launched():
        yield
        return
    # Of both kinds: what is not on a GPU is sent by gloo.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        with contextlib.nullcontext() if is_leader() else contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        # DistributedDataParallel is part of a cycle, and keeps the group and its threads: one of these that still has a
        # tensor of Python's to release when the interpreter ends would abort the process.
        gc.collect()
        distributed.destroy_process_group()


def is_leader() -> bool:
    """Whether this is the first process, or the only one."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def local_processes() -> tuple[int, int]:
    """How many processes there are on this machine, and how many machines."""
    if not distributed.is_initialized():
        return 1, 1
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return here, distributed.get_world_size() // here


def from_leader(make: Callable[[], T]) -> T:
    """What the leader makes, in every process; it can be pickled.

    Args:
        make: called by the leader alone.
    """
    made = [make() if is_leader() else None]
    if distributed.is_initialized():
        distributed.broadcast_object_list(made)
    return made[0]


@contextmanager
def leader_first() -> Iterator[None]:
    """The leader goes through the ``with`` block before the others, who then find the files it has made."""
    if distributed.is_initialized() and not is_leader():
        distributed.barrier()
    yield
    if distributed.is_initialized() and is_leader():
        distributed.barrier()
