"""How low the energy gets, next to gradient descent, and whether the moves turn with the points."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from equivariant_attention.testing import equivariance_error
from experiments.toy_optimisation.data import Batch, energies
from experiments.toy_optimisation.gradient_descent import GradientDescent
from experiments.toy_optimisation.models import move
from utils.history import Row
from utils.loaders import EpochLoader

Optimiser = Callable[[Any], Any]  # moves the points of a graph, which is its own to change
Ends = tuple[Tensor, Tensor | None]  # of each graph: its energy at the end, and how many steps it took, if they differ


def batch_loss(model: nn.Module, batch: Batch, step_loss: float | None = None) -> tuple[dict[str, Tensor], int]:
    """The mean energy after the moves.

    Args:
        model: moves points; returns the graph and the moves.
        batch: (G, plan) from :func:`collate`; it is not changed.
        step_loss: if given, a model in training also minimises, with this weight, the mean energy after each move but
            the last, or it would throw points about on its way.

    Returns:
        ``'loss'``, and the mean length of the moves of step I as ``'update_norm_I'``; and the number of graphs.
    """
    G, plan = batch
    moved, steps = model(G.local_var(), plan=plan)
    loss = energies(moved).mean()
    if step_loss is not None and model.training and len(steps) > 1:
        loss = loss + step_loss * torch.stack(on_the_way(G.local_var(), steps)).mean()
    norms = {f"update_norm_{i}": moved.ndata[f"update_norm_{i}"].mean() for i in range(len(steps))}
    return {"loss": loss, **norms}, G.batch_size


def on_the_way(G: Any, steps: Sequence[Tensor]) -> list[Tensor]:
    """The mean energy after every step but the last.

    Args:
        G: the graphs before the first step; they are moved.
        steps: ``[points, 1, 3]`` each.
    """
    found = []
    for step in steps[:-1]:
        move(G, step)
        found.append(energies(G).mean())
    return found


def as_trained(fabric: Fabric, model: nn.Module) -> Optimiser:
    """A model as an optimiser in the precision of the training, without gradients.

    Args:
        fabric: of the training.
        model: what was trained.
    """

    def move(G: Any) -> Any:
        with torch.no_grad(), fabric.autocast():
            return model(G)[0]

    return move


def mirror(G: Any) -> Any:
    """Turn every point into its image on the other side of the origin; ``G`` itself.

    Args:
        G: graph as from :func:`~experiments.toy_optimisation.data.collate`.
    """
    G.ndata["x"], G.edata["d"] = -G.ndata["x"], -G.edata["d"]
    return G


def compare(
    fabric: Fabric, model: nn.Module, descent: GradientDescent, loader: EpochLoader, post_process: bool
) -> dict[str, Row]:
    """The energies that optimisers reach, and where they start from; of the network also with both mirror images.

    Args:
        fabric: of the training.
        model: what was trained.
        descent: the baseline.
        loader: what to evaluate on.
        post_process: also let gradient descent go on from where the model ends.

    Returns:
        of every optimiser, by its name, the mean ``'energy'`` of a graph, its ``'standard_error'``, and, for gradient
        descent, the mean number of ``'steps'``.
    """
    optimiser = as_trained(fabric, model)
    batches = [ends(optimiser, descent, fabric.to_device(G), post_process) for G, _ in loader]
    results = {}
    for name in batches[0]:
        energy_of_batch, steps = zip(*(batch[name] for batch in batches), strict=True)
        energy = torch.cat(energy_of_batch).double()
        results[name] = {
            "energy": energy.mean().item(),
            "standard_error": energy.std(correction=0).item() / len(energy) ** 0.5,
        }
        if steps[0] is not None:
            results[name]["steps"] = torch.cat(steps).double().mean().item()
    return results


def ends(optimiser: Optimiser, descent: GradientDescent, G: Any, post_process: bool) -> dict[str, Ends]:
    """Where optimisers end that start from the points of the same graphs.

    A mirror image has the same energy, but models of SO(3) take another way from there: of both ends the lower counts,
    after the steps of both.

    Args:
        optimiser: the network.
        descent: the baseline.
        G: batch of graphs; it is not changed.
        post_process: also let gradient descent go on from where the network ends.

    Returns:
        of every optimiser, by its name, the ends of the graphs.
    """
    images = [optimiser(start) for start in (G.local_var(), mirror(G.local_var()))]
    found: dict[str, Ends] = {"start": (energies(G), None), "network": (energies(images[0]), None)}
    descended, steps = descent(G.local_var())
    found["gradient descent"] = energies(descended), steps
    found["network, both images"] = torch.minimum(*map(energies, images)), None
    if post_process:
        (end, steps), (other, more) = map(descent, images)
        found["network + gradient descent"] = energies(end), steps
        lower = torch.minimum(energies(end), energies(other))
        found["network + gradient descent, both images"] = lower, steps + more
    return found


def mean_results(results: list[dict[str, Row]]) -> dict[str, Row]:
    """The means over several test sets of equal size.

    Args:
        results: of :func:`compare`; the standard errors are of independent sets.
    """
    means: dict[str, Row] = {}
    for name, row in results[0].items():
        means[name] = {key: statistics.fmean(result[name][key] for result in results) for key in row}
        means[name]["standard_error"] /= len(results) ** 0.5
    return means


def relative_equivariance_error(fabric: Fabric, model: nn.Module, G: Any) -> Row:
    """The errors of the way each point goes, by :func:`equivariance_error`, in the precision of the training.

    Args:
        fabric: of the training.
        model: what was trained.
        G: batch of graphs.
    """
    optimiser = as_trained(fabric, model)

    def displacement(G: Any) -> Tensor:
        start = G.ndata["x"]
        return optimiser(G).ndata["x"] - start

    return equivariance_error(displacement, fabric.to_device(G), output_degree=1, output_on="nodes")


def table(results: dict[str, Row]) -> str:
    """Energies as lines of text.

    Args:
        results: of :func:`compare`.
    """
    width = max(map(len, results))
    lines = [f"{'':{width}}  energy   standard error  steps of gradient descent"]
    for name, row in results.items():
        steps = f"{row['steps']:25.0f}" if "steps" in row else ""
        lines.append(f"{name:{width}}  {row['energy']:.5f}  {row['standard_error']:14.5f}  {steps}".rstrip())
    return "\n".join(lines)
