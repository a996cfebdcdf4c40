"""Gradient descent on the positions, the baseline that every model is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from equivariant_attention.graphs import graph_of_node
from experiments.toy_optimisation.models import move, potential_slope

LONGEST_MOVE = 0.1  # along one edge, in one step


class GradientDescent:
    r"""Moves every point along its edges until its graph has come to rest.

    .. math:: x_i \leftarrow x_i + \sum_j \mathrm{clip}(-\eta V'(r_{ij}), \pm 0.1) \, (x_i - x_j) / r_{ij}

    Every graph of a batch is judged by itself: it stops after the first step in which none of its points goes as far as
    :math:`\tau \eta`, and costs nothing from there on.

    Args:
        stepsize: :math:`\eta`.
        tolerance: :math:`\tau`.
        max_steps: stop there in any case.

    Raises:
        ValueError: an argument, named, is not above 0.
    """

    def __init__(self, stepsize: float = 0.02, tolerance: float = 0.01, max_steps: int = 5000) -> None:
        for name, value in (("stepsize", stepsize), ("tolerance", tolerance), ("max_steps", max_steps)):
            if not value > 0:
                raise ValueError(f"{name}: expected a number above 0, got {value!r}")
        self.stepsize, self.tolerance, self.max_steps = stepsize, tolerance, max_steps

    def __call__(self, G: Any) -> tuple[Any, Tensor]:
        """Descend to the end.

        Args:
            G: graph as from :func:`~experiments.toy_optimisation.data.collate`.

        Returns:
            ``G`` itself, with new ``ndata['x']``, ``edata['d']``, ``edata['r']`` and ``edata['w']``; and the number of
            steps that each graph took, int64 ``[graphs]``.
        """
        x, steps = G.ndata["x"], torch.zeros(G.batch_size, dtype=torch.int64, device=G.device)
        for x, moving in self.path(G):  # noqa: B007 (the last positions count)
            steps += moving
        move(G, x - G.ndata["x"])
        return G, steps

    @torch.no_grad()
    def path(self, G: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """The positions after every step.

        Args:
            G: as above; it is not changed.

        Yields:
            positions ``[points, 1, 3]``, and which graphs have just taken a step, bool ``[graphs]``.
        """
        src, dst = (ends.long() for ends in G.edges())
        graph = graph_of_node(G)
        x, a = G.ndata["x"][:, 0], G.edata["potential_parameters"][:, 0]
        moving = torch.ones(G.batch_size, dtype=torch.bool, device=x.device)
        for _ in range(self.max_steps):
            d = x[dst] - x[src]
            r = d.norm(dim=1, keepdim=True)
            along = (-self.stepsize * potential_slope(r, a)).clamp(-LONGEST_MOVE, LONGEST_MOVE)
            step = torch.zeros_like(x).index_add_(0, dst, along * d / r.clamp_min(torch.finfo(r.dtype).tiny))
            x = x + step
            yield x.unsqueeze(1), moving
            largest = step.new_zeros(len(moving)).scatter_reduce_(0, graph, step.norm(dim=1), "amax")
            still_moving = moving & (largest >= self.tolerance * self.stepsize)
            if not still_moving.any():
                return
            if not torch.equal(still_moving, moving):
                moving = still_moving
                kept = moving[graph[dst]]
                src, dst, a = src[kept], dst[kept], a[kept]
