"""Numbers that a device computes, read by the host when they are there: a GPU is given its next work before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

_Item = TypeVar("_Item")


class Later:
    """Numbers on their way to the host.

    Args:
        values: each of one number, on one device; to be read as float64.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = torch.stack([value.detach().double().reshape(()) for value in values])  # one transfer for all
        self._arrived: torch.cuda.Event | None = None
        if self._values.is_cuda:
            self._values = torch.empty_like(self._values, device="cpu", pin_memory=True).copy_(
                self._values, non_blocking=True
            )
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The numbers; the host waits for them, and for nothing that came after them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()


def one_behind(items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items, each when the next has been made, so that what reads one does not keep the next waiting.

    Where the next cannot be made, the one before comes first, which may say why; then the error.

    Args:
        items: that are made one after the other, such as batches whose computation has begun.
    """
    kept: list[_Item] = []
    failure: Exception | None = None
    try:
        for item in items:
            yield from kept
            kept = [item]
    except Exception as error:
        failure = error
    yield from kept
    if failure is not None:
        raise failure
