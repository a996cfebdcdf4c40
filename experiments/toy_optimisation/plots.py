"""Points on their way to a minimum: as an animation, as curves of their energy, and what the network attends to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from experiments.toy_optimisation.data import energies
from experiments.toy_optimisation.gradient_descent import GradientDescent
from experiments.toy_optimisation.models import move
from utils.files import atomic_write
from utils.plots import Figure, FigureCanvasAgg, Line3DCollection, save_figure

Trail = list[Tensor]  # positions [points, 1, 3] at the start and after every step


def network_path(G: Any, model: torch.nn.Module) -> Trail:
    """The positions before and after every step of a model.

    Args:
        G: graph; it is not changed.
        model: moves the points.
    """
    with torch.no_grad():
        steps = model(G.local_var())[1]
    return list(torch.cat([G.ndata["x"].unsqueeze(0), torch.stack(steps)]).cumsum(0))


def descent_path(G: Any, descent: GradientDescent, start: Tensor) -> Trail:
    """The positions before and after every step of gradient descent.

    Args:
        G: graph; it is not changed.
        descent: moves the points.
        start: positions to start from, ``[points, 1, 3]``.
    """
    G = G.local_var()
    move(G, start - G.ndata["x"])
    return [start, *(x for x, _ in descent.path(G))]


def energy_of(G: Any, x: Tensor) -> float:
    """The mean energy of the graphs with other positions.

    Args:
        G: batch of graphs; it is not changed.
        x: positions ``[points, 1, 3]``.
    """
    G = G.local_var()
    move(G, x - G.ndata["x"])
    return energies(G).mean().item()


def energy_curves(G: Any, model: torch.nn.Module, descent: GradientDescent, path: str | os.PathLike[str]) -> None:
    """Draw energy against step, of the model, gradient descent, and both in sequence.

    Args:
        G: batch of graphs, over which the mean is taken.
        model: moves the points.
        descent: the baseline.
        path: PNG file to write.
    """
    by_network = network_path(G, model)
    curves = {
        "gradient descent": (0, descent_path(G, descent, by_network[0])),
        "network, then gradient descent": (
            len(by_network) - 1,
            descent_path(G, descent, by_network[-1]),
        ),
        "network": (0, by_network),
    }
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="mean energy", yscale="log")
    axes.set_xscale("symlog", linthresh=len(by_network), linscale=0.6)
    for label, (first, positions) in curves.items():
        marker = "o" if label == "network" else None
        steps = first + np.arange(len(positions))
        axes.plot(steps, [energy_of(G, x) for x in positions], label=label, marker=marker)
    axes.legend()
    save_figure(figure, path)


def attention(G: Any, weights: Sequence[Sequence[Tensor]], positions: Trail, path: str | os.PathLike[str]) -> None:
    """Draw what every point attends to most: a row per block, with its points, and a column per layer.

    Args:
        G: a single graph.
        weights: per block and layer, ``[points, points]``, from :func:`attention_weights`.
        positions: at the start and after every block.
        path: PNG file to write.
    """
    columns = max(map(len, weights))
    figure = Figure(figsize=(2.6 * columns, 2.8 * len(weights)), layout="constrained")
    for i, layers in enumerate(weights):
        flat = _projected(positions[i])
        for number, weight in enumerate(layers):
            axes = figure.add_subplot(len(weights), columns, i * columns + number + 1, aspect="equal")
            axes.set_title(f"block {i + 1}, layer {number + 1}", fontsize="small")
            axes.set(xticks=[], yticks=[])
            for dst, src in enumerate(weight.argmax(dim=1).tolist()):
                share = float(weight[dst, src] / weight.max())
                axes.annotate(
                    "",
                    flat[dst],
                    flat[src],
                    arrowprops={
                        "arrowstyle": "-|>",
                        "connectionstyle": "arc3,rad=0.15",  # the two directions of a pair apart
                        "color": "C0",
                        "alpha": 0.2 + 0.8 * share,
                        "linewidth": 0.5 + 1.5 * share,
                    },
                )
            axes.scatter(*flat.T, color="C3", s=20, zorder=3)
    figure.suptitle("attention: an arrow to every point from the one it attends to most, the thicker the more")
    save_figure(figure, path)


def animation(
    G: Any, model: torch.nn.Module, descent: GradientDescent, path: str | os.PathLike[str], frames_per_step: int = 8
) -> None:
    """Draw how the points of a graph move: by the model, then by gradient descent, with the energy beside them.

    Args:
        G: a single graph.
        model: moves the points.
        descent: goes on from where the model ends.
        path: GIF file to write.
        frames_per_step: pictures of a step of the model; gradient descent gets as many for all of its steps.
    """
    by_network = network_path(G, model)
    by_descent = descent_path(G, descent, by_network[-1])
    last = len(by_network) - 1
    frames = [(step, by_network[0], "start") for step in [0.0] * 4]
    for i, (before, after) in enumerate(pairwise(by_network)):
        parts = np.linspace(0, 1, frames_per_step + 1)[1:].tolist()
        frames += [(i + part, before + part * (after - before), f"network, step {i + 1}") for part in parts]
    kept = np.unique(np.geomspace(1, len(by_descent) - 1, 2 * frames_per_step).astype(int))
    frames += [(last + step, by_descent[step], f"gradient descent, step {step}") for step in kept]
    frames += frames[-1:] * 8
    pictures = _pictures(G, frames, last)
    with atomic_write(path) as file:
        pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=120, loop=0)


def _pictures(G: Any, frames: Sequence[tuple[float, Tensor, str]], last: int) -> list[Image.Image]:
    src, dst = (ends.cpu().numpy() for ends in G.edges())
    pairs = np.stack([src, dst], axis=1)[src < dst]
    points = [x[:, 0].double().cpu().numpy() for _, x, _ in frames]
    points = [x - x.mean(axis=0) for x in points]
    reach = max(np.abs(x).max() for x in points)
    steps, energy = [step for step, _, _ in frames], [energy_of(G, x) for _, x, _ in frames]

    figure = Figure(figsize=(8, 4), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    limits = dict.fromkeys(("xlim", "ylim", "zlim"), (-reach, reach))
    space = figure.add_subplot(1, 2, 1, projection="3d", **limits)
    space.tick_params(labelbottom=False, labelleft=False)
    springs = space.add_collection3d(Line3DCollection(points[0][pairs], colors="grey", linewidths=0.5, alpha=0.5))
    balls = space.scatter(*points[0].T, c=np.arange(len(points[0])), cmap="tab10", s=40, depthshade=False)
    curve = figure.add_subplot(1, 2, 2, xlabel="step", ylabel="energy", yscale="log")
    curve.set(xlim=(0, max(steps[-1], 1)), ylim=(0.8 * min(energy), 1.2 * max(energy)))
    curve.set_xscale("symlog", linthresh=max(last, 1))
    (line,) = curve.plot([], [], color="C0")
    (end,) = curve.plot([], [], color="C3", marker="o")

    pictures = []
    for number, (x, (step, _, title)) in enumerate(zip(points, frames, strict=True)):
        springs.set_segments(x[pairs])
        balls._offsets3d = tuple(x.T)  # matplotlib has no public name for it
        line.set_data(steps[: number + 1], energy[: number + 1])
        end.set_data([step], [energy[number]])
        space.set_title(title)
        curve.set_title(f"energy {energy[number]:.4f}")
        canvas.draw()
        figure.set_layout_engine("none")  # everything stays where the first picture has it
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
        pictures.append(picture.quantize(64, method=Image.Quantize.FASTOCTREE))
    return pictures


def _projected(x: Tensor) -> np.ndarray:
    """Points in the plane in which they spread most, ``[points, 2]``."""
    x = x[:, 0].double().cpu().numpy()
    x = x - x.mean(axis=0)
    return x @ np.linalg.svd(x)[2][:2].T
