"""Random points joined by random double-well springs, made when they are asked for, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_sum
from experiments.toy_optimisation.models import pair_potential
from utils.graphs import fully_connected

SPLITS = ("train", "valid", "log")
SPREAD = 0.5  # standard deviation of a coordinate

Sample = tuple[np.ndarray, np.ndarray]
Batch = tuple[Any, Plan]  # graphs, and what is known of them ahead


class SpringsDataset(Dataset):
    """Points :math:`x_i \\sim N(0, 0.5^2)` in space, and a parameter :math:`a_{ij} = a_{ji} \\sim U(0, 1)` per pair.

    An item is (x, a), float32 ``[n, 3]`` and ``[n, n]``, the diagonal of a zero. In the splits ``'valid'`` and
    ``'log'`` it depends on (seed, index) alone, in ``'train'`` on (seed, epoch, index): every epoch has graphs never
    seen before, and a resumed training sees those that an uninterrupted one would.

    Args:
        length: how many.
        n_points: n.
        split: equal seeds give independent graphs in different splits.
        seed: non-negative integer.

    Raises:
        ValueError: an argument, named, is out of range.
    """

    def __init__(
        self, length: int, n_points: int = 10, split: Literal["train", "valid", "log"] = "train", seed: int = 0
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
        for name, value, least in (("length", length, 1), ("n_points", n_points, 2), ("seed", seed, 0)):
            if value < least:
                raise ValueError(f"{name}: expected an integer of at least {least}, got {value!r}")
        self.length, self.n_points, self.split, self.seed = length, n_points, split, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the graphs of an epoch; those of ``'valid'`` and ``'log'`` stay what they are.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch if self.split == "train" else 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of {self.length} graphs")
        rng = np.random.default_rng((self.seed, SPLITS.index(self.split), self.epoch, index))
        x = rng.normal(0, SPREAD, size=(self.n_points, 3))
        upper = np.triu(rng.uniform(size=(self.n_points, self.n_points)), k=1)
        return x.astype(np.float32), (upper + upper.T).astype(np.float32)


def collate(samples: Sequence[Sample], graph: Literal["own", "dgl"] = "own") -> Batch:
    """Join samples of n points each into one batched, fully connected graph.

    Args:
        samples: items of a :class:`SpringsDataset`, S of them.
        graph: ``'own'`` for :class:`~equivariant_attention.graphs.Graph`, ``'dgl'`` for a ``dgl.DGLGraph``.

    Returns:
        G and its plan. G is float32, with N = S n nodes and E = S n (n - 1) edges in the order of their destinations,
        then sources.
        ``G.ndata`` has positions ``'x'`` ``[N, 1, 3]`` and ``'ones'`` ``[N, 1, 1]``; ``G.edata`` has ``'d'``,
        x_dst - x_src, ``[E, 1, 3]``, its length ``'r'``, ``'potential_parameters'`` (a) and the potential ``'w'``, all
        ``[E, 1, 1]``.

    Raises:
        ValueError: another ``graph``, or samples of different numbers of points.
    """
    sizes = {len(x) for x, _ in samples}
    if len(sizes) != 1:
        raise ValueError(f"samples: expected one number of points in all of at least one, got {sorted(sizes)}")
    x, a = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*samples, strict=True))
    G, src, dst = fully_connected(graph, *x.shape[:2])
    G.ndata["x"] = x.reshape(-1, 1, 3)
    G.ndata["ones"] = torch.ones(G.num_nodes(), 1, 1)
    G.edata["d"] = (x[:, dst] - x[:, src]).reshape(-1, 1, 3)
    G.edata["r"] = G.edata["d"].norm(dim=-1, keepdim=True)
    G.edata["potential_parameters"] = a[:, dst, src].reshape(-1, 1, 1)
    G.edata["w"] = pair_potential(G.edata["r"], G.edata["potential_parameters"])
    return G, Plan(G)


def energies(G: Any) -> Tensor:
    """The energy of every graph: the mean of the potential over its edges, ``[graphs]``.

    Args:
        G: batch of graphs with edges, with the potential as ``edata['w']`` ``[edges, 1, 1]``.
    """
    w, sizes = G.edata["w"].flatten(), G.batch_num_edges().to(G.device)
    graphs = torch.arange(len(sizes), device=w.device).repeat_interleave(sizes, output_size=len(w))
    return segment_sum(w, graphs, len(sizes)) / sizes.to(w)
