"""Points of scans, as many as a model takes, with edges from the nearest, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.graphs import batch
from equivariant_attention.neighbors import knn_graph
from equivariant_attention.plan import Plan
from experiments.scanobjectnn.rotations import Rotations, draw_rotation
from experiments.scanobjectnn.scans import Scans
from utils.graphs import make_graph

Sample = tuple[Tensor, Tensor, Tensor, int]  # positions, the two ends of edges, class
Batch = tuple[Any, Plan, Tensor]  # graphs, what is known of them ahead, classes


def without_background(scans: Scans) -> list[np.ndarray]:
    """The points of the objects alone, ``[points, 3]`` of each.

    Args:
        scans: which.

    Raises:
        ValueError: a scan has no point of its object, or none is said to be of the background.
    """
    if scans.on_object.all():
        raise ValueError("background: expected scans with points that are marked as background, got none")
    if not (seen := scans.on_object.any(axis=1)).all():
        raise ValueError(f"mask: expected points of the object in every scan, got none in {int(seen.argmin())}")
    return [points[own] for points, own in zip(scans.points, scans.on_object, strict=True)]


class Objects(Dataset):
    """Objects as a model sees them: some of the points, in a ball of radius 1 about their mean, maybe turned.

    A sample has positions, float32 ``[points, 3]``; the ends of edges to every point from its nearest, sources and
    destinations, int64 ``[edges]`` each; and the class.

    Args:
        points: of every scan, ``[points, 3]``.
        labels: int64 ``[scans]``.
        num_points: how many are drawn, anew in each epoch; all, of a scan that has fewer.
        neighbors: how many edges lead to a point.
        rotations: by what samples are turned, each by its own, anew in each epoch.
        seed: of what is drawn. The same points are drawn whatever the rotations.
    """

    def __init__(
        self,
        points: Sequence[np.ndarray],
        labels: np.ndarray,
        num_points: int,
        neighbors: int,
        rotations: Rotations = "none",
        seed: int = 0,
    ) -> None:
        self.points, self.labels, self.num_points, self.neighbors = points, labels, num_points, neighbors
        self.rotations, self.seed = rotations, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose what is drawn.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, self.epoch, index))
        points = self.points[index]
        drawn = points[rng.permutation(len(points))[: self.num_points]].astype(np.float64)
        drawn -= drawn.mean(axis=0)
        drawn /= max(np.linalg.norm(drawn, axis=1).max(), np.finfo(np.float32).tiny)
        x = torch.from_numpy((drawn @ draw_rotation(self.rotations, rng).T).astype(np.float32))
        return x, *knn_graph(x, self.neighbors).edges(), int(self.labels[index])


def collate(samples: Sequence[Sample], graph: Literal["own", "dgl"] = "own") -> Batch:
    """Join objects into one batched graph.

    Args:
        samples: items of :class:`Objects`.
        graph: ``'own'`` for :class:`~equivariant_attention.graphs.Graph`, ``'dgl'`` for a ``dgl.DGLGraph``.

    Returns:
        G, with ``ndata['x']`` ``[nodes, 1, 3]``, from the mean of an object's points, and ``edata['d']``
        ``[edges, 3]``; its plan; and the classes, int64 ``[graphs]``.

    Raises:
        ValueError: another ``graph``.
    """
    graphs = []
    for x, src, dst, _ in samples:
        G = make_graph(graph, src, dst, len(x))
        G.ndata["x"], G.edata["d"] = x.unsqueeze(1), x[dst] - x[src]
        graphs.append(G)
    G = batch(graphs)
    return G, Plan(G), torch.tensor([label for *_, label in samples])
