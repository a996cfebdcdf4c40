"""Predicted against true positions."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor

from utils.plots import Figure, save_figure


def predictions(G: Any, target: Tensor, prediction: Tensor, title: str, path: str | os.PathLike[str]) -> None:
    """Draw every system of a batch in 3D: from where each particle starts to where it is, and is predicted to be.

    Args:
        G: batch of a few systems, with ``ndata['x']`` ``[N, 1, 3]``.
        target: ``[N, 2, 3]``; displacements are ``[:, 0]``.
        prediction: the same of the model.
        title: of the whole figure.
        path: PNG file to write.
    """
    sizes = G.batch_num_nodes().tolist()
    figure = Figure(figsize=(4 * len(sizes), 4.5), layout="constrained")
    figure.suptitle(title)
    start = G.ndata["x"].cpu()[:, 0]
    states = (start, start + target[:, 0].cpu(), start + prediction[:, 0].detach().cpu())
    for number, systems in enumerate(zip(*(state.double().split(sizes) for state in states), strict=True), start=1):
        axes = figure.add_subplot(1, len(sizes), number, projection="3d")
        for particle, (x0, true, predicted) in enumerate(zip(*(s.numpy() for s in systems), strict=True)):
            color, label = f"C{particle % 10}", particle == 0
            axes.plot(*zip(x0, true, strict=True), color=color, linewidth=1)
            axes.plot(*zip(x0, predicted, strict=True), color=color, linewidth=1, linestyle=":")
            axes.scatter(*x0, color=color, s=12, label="start" if label else None)
            axes.scatter(*true, color=color, s=45, facecolors="none", label="true" if label else None)
            axes.scatter(*predicted, color=color, s=35, marker="x", label="predicted" if label else None)
        axes.set_aspect("equal")
    axes.legend(loc="upper right", fontsize="small")
    save_figure(figure, path)
