"""Steps that a GPU repeats by itself: captured as a CUDA graph for each size of a batch, and replayed for others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor


class Recorder(Protocol):
    """What records functions without arguments."""

    def run(self, function: Callable[[], Any]) -> Any:
        """Call a function, as one that will be recorded is to be called before."""

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """What does the same again, on the same tensors, and gives the same tensors with what they then hold."""


class CudaGraphs:
    """Records CUDA graphs, all in one stream and one pool of memory: one runs after the other.

    Args:
        device: of all that they compute.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], Any]) -> Any:
        """Call a function in that stream, where derivatives are accumulated from then on."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Capture a function, which is called, though nothing is computed until it is replayed."""
        graph = torch.cuda.CUDAGraph()
        # Other threads put batches into page-locked memory meanwhile, which is not to end the capture.
        options = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
        with torch.cuda.graph(graph, **options):
            output = function()

        def replay() -> Any:
            graph.replay()
            return output

        return replay


class Captured:
    """A function of a batch: called for the first one of its sizes, recorded for the second, and then repeated.

    Whatever the function does on the host happens once in a recording, and in no repetition.

    Args:
        function: of a batch on the device; may write to what it finds there, and return tensors.
        to_device: moves a batch.
        recorder: what records.
    """

    def __init__(self, function: Callable[[Any], Any], to_device: Callable[[Any], Any], recorder: Recorder) -> None:
        self.function, self.to_device, self.recorder = function, to_device, recorder
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, tuple[Any, Callable[[], Any]]] = {}

    def __call__(self, batch: Any) -> Any:
        """What the function returns; tensors hold it until the next call.

        Args:
            batch: a tensor, None, what has ``tensors`` and ``refill`` (graphs and plans of the library), or a tuple or
                list of such; page-locked, so that the host does not wait.
        """
        sizes = sizes_of(batch)
        if sizes not in self._seen:
            self._seen.add(sizes)  # what is made once, such as constants, is made now
            return self.recorder.run(lambda: self.function(self.to_device(batch)))
        if sizes not in self._recorded:
            own = self.to_device(copy.deepcopy(batch))
            self._recorded[sizes] = own, self.recorder.record(partial(self.function, own))
        own, repeat = self._recorded[sizes]
        refill(own, batch)
        return repeat()


def sizes_of(batch: Any) -> Hashable:
    """Names, shapes and dtypes of all tensors of a batch, see :class:`Captured`.

    Args:
        batch: which.
    """
    if isinstance(batch, tuple | list):
        return tuple(map(sizes_of, batch))
    if isinstance(batch, Tensor):
        return tuple(batch.shape), batch.dtype
    return None if batch is None else tuple((name, sizes_of(value)) for name, value in batch.tensors().items())


@torch.no_grad()
def refill(batch: Any, other: Any) -> None:
    """Copy one batch into the memory of another of the same sizes.

    Args:
        batch: that is written to.
        other: that is read.
    """
    if isinstance(batch, tuple | list):
        for own, its in zip(batch, other, strict=True):
            refill(own, its)
    elif isinstance(batch, Tensor):
        batch.copy_(other, non_blocking=True)
    elif batch is not None:
        batch.refill(other)
