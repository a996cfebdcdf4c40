"""Batches whose order depends on a seed and the epoch alone, so that a resumed training sees the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler


class ShuffleByEpoch(Sampler[int]):
    """A permutation of a dataset drawn from (seed, epoch).

    Args:
        dataset: of fixed size.
        seed: of the permutations.
    """

    def __init__(self, dataset: Sized, seed: int) -> None:
        self.size, self.seed, self.epoch = len(dataset), seed, 0

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.size).tolist())

    def __len__(self) -> int:
        return self.size


class EpochLoader(DataLoader):
    """A DataLoader with :meth:`set_epoch`.

    Args:
        dataset: of fixed size; its own ``set_epoch``, if any, is called as well.
        batch_size: samples in a batch; the last one may be smaller.
        collate: makes a batch of a list of samples.
        shuffle: whether to permute, differently in each epoch.
        seed: of the permutations.
        num_workers: processes that prepare batches; 0 for none.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        collate: Callable[[list], Any],
        *,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        sampler = ShuffleByEpoch(dataset, seed) if shuffle else None
        super().__init__(dataset, batch_size, sampler=sampler, collate_fn=collate, num_workers=num_workers)

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration gives. Not while one is under way.

        Args:
            epoch: number of the epoch, from 0.
        """
        if isinstance(self.sampler, ShuffleByEpoch):
            self.sampler.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
