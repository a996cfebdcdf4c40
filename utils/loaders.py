"""Batches whose order depends on a seed and the epoch alone, so that a resumed training sees the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler


class ShuffleByEpoch(Sampler[int]):
    """A permutation of a dataset drawn from (seed, epoch), or a part of it.

    Args:
        dataset: of fixed size.
        seed: of the permutations.
        part: which places of the permutation are given.
    """

    def __init__(self, dataset: Sized, seed: int, part: slice = slice(None)) -> None:
        self.size, self.seed, self.part, self.epoch = len(dataset), seed, part, 0

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        return iter(order[self.part].tolist())

    def __len__(self) -> int:
        return len(range(self.size)[self.part])


class ShorterEpochs(Dataset):
    """A large dataset in epochs of a chosen size: checkpoints and validation come more often.

    Passes over all samples follow each other without a break, each in an order drawn from (seed, pass).

    Args:
        dataset: of fixed size; its own ``set_epoch``, if any, is called as well.
        size: samples in an epoch.
        seed: of the orders.
    """

    def __init__(self, dataset: Dataset, size: int, seed: int) -> None:
        self.dataset, self.size, self.seed = dataset, size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the samples.

        Args:
            epoch: number of the epoch, from 0.
        """
        first, length = epoch * self.size, len(self.dataset)
        passes = range(first // length, (first + self.size - 1) // length + 1)
        order = [np.random.default_rng((self.seed, number)).permutation(length) for number in passes]
        start = first - passes[0] * length
        self.indices = np.concatenate(order)[start : start + self.size]
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def __getitems__(self, indices: Sequence[int]) -> Any:
        return samples_of(self.dataset, self.indices[indices].tolist())


def samples_of(dataset: Dataset, indices: Sequence[int]) -> Any:
    """What a DataLoader gives to its collate: what ``dataset.__getitems__`` has for them, else a list of samples.

    Args:
        dataset: which.
        indices: of the samples.
    """
    at_once = getattr(dataset, "__getitems__", None)
    return at_once(indices) if at_once else [dataset[index] for index in indices]


class EpochLoader(DataLoader):
    """A DataLoader with :meth:`set_epoch`, of all samples or of the share of one of several processes.

    Args:
        dataset: of fixed size; its own ``set_epoch``, if any, is called as well.
        batch_size: samples in a batch of this process; the last one may be smaller. The batches of all processes side
            by side are those of one process with ``processes`` times the batch size; a last one of fewer samples than
            processes is left out if samples are shuffled.
        collate: makes a batch of a list of samples; or, where the dataset has DataLoader's ``__getitems__``, of what
            that gathers for all their indices at once.
        shuffle: whether to permute, differently in each epoch.
        seed: of the permutations.
        num_workers: processes that prepare batches; 0 for none.
        pin_memory: whether batches are to be in page-locked memory, from where a GPU takes them while the host goes on.
        rank, processes: which process this is, of how many.

    Attributes:
        processes: as given.
        num_samples: in an epoch, those of all processes.

    Raises:
        ValueError: there are more processes than samples.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        collate: Callable[[Any], Any],
        *,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        size = len(dataset)
        if size < processes:
            raise ValueError(f"processes: expected at most {size}, a sample for each, got {processes}")
        left_over = size % (batch_size * processes)
        self.processes, self.num_samples = processes, size - left_over * (shuffle and left_over < processes)
        part = slice(rank, self.num_samples, processes)
        sampler = ShuffleByEpoch(dataset, seed, part) if shuffle else range(size)[part]
        workers = {"num_workers": num_workers, "pin_memory": pin_memory}
        super().__init__(dataset, batch_size, sampler=sampler, collate_fn=collate, **workers)

    def first(self, count: int) -> Any:
        """A batch of the first samples of the dataset, all of them where there are fewer.

        Args:
            count: how many.
        """
        return self.collate_fn(samples_of(self.dataset, range(min(len(self.dataset), count))))

    def set_epoch(self, epoch: int) -> None:
        """Choose what the next iteration gives. Not while one is under way.

        Args:
            epoch: number of the epoch, from 0.
        """
        if isinstance(self.sampler, ShuffleByEpoch):
            self.sampler.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
