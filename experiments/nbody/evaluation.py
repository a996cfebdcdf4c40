"""How good a prediction of the motion is, next to the baselines, and whether it turns with its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from equivariant_attention.plan import Plan
from equivariant_attention.testing import equivariance_error
from experiments.nbody.data import Batch, constant, linear_motion
from utils.history import Row
from utils.loaders import EpochLoader
from utils.training import evaluate

METRICS = ("position", "velocity")  # of which the loss is the sum


def batch_loss(model: Callable[..., Tensor], batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Mean squared errors per coordinate, the published loss among them.

    Args:
        model: maps G and its plan to predictions ``[N, 2, 3]``.
        batch: (G, plan, target) from :func:`collate`; a target of positions alone judges positions alone.

    Returns:
        ``'position'`` and, unless the target has positions alone, ``'velocity'``, and their sum as ``'loss'``; and N.
    """
    G, plan, target = batch
    errors = (model(G, plan=plan)[:, : target.shape[1]] - target).square().mean(dim=(0, 2))
    return {"loss": errors.sum(), **dict(zip(METRICS, errors, strict=False))}, len(target)


def compare(fabric: Fabric, model: nn.Module, loader: EpochLoader) -> dict[str, Row]:
    """The metrics of a model (under its class's name) and of the baselines.

    Args:
        fabric: of the training.
        model: what was trained.
        loader: what to evaluate on.
    """
    horizon_time = loader.dataset.horizon_time
    predictors = {
        type(model).__name__: as_trained(fabric, model),
        "linear motion": lambda G, plan: linear_motion(G.ndata["v"], horizon_time),
        "constant": lambda G, plan: constant(G.ndata["v"]),
    }
    return {name: evaluate(fabric, predictor, batch_loss, loader) for name, predictor in predictors.items()}


def as_trained(fabric: Fabric, model: nn.Module) -> Callable[..., Tensor]:
    """A model as a function of G, and its plan if it is at hand, in the precision of the training, without gradients.

    Args:
        fabric: of the training.
        model: what was trained.
    """

    def predict(G: Any, plan: Plan | None = None) -> Tensor:
        with torch.no_grad(), fabric.autocast():
            return model(G, plan=plan).to(G.ndata["v"].dtype)

    return predict


def relative_equivariance_error(fabric: Fabric, model: nn.Module, G: Any) -> Row:
    """The errors of :func:`equivariance_error`, in the precision of the training.

    Args:
        fabric: of the training.
        model: what was trained.
        G: batch of systems.
    """
    predict, degrees = as_trained(fabric, model), {"x": 1, "v": 1}
    return equivariance_error(predict, fabric.to_device(G), node_degrees=degrees, output_degree=1, output_on="nodes")


def table(results: dict[str, Row]) -> str:
    """Errors of positions and, if they were asked for, velocities as lines of text.

    Args:
        results: metrics of every predictor, by its name.
    """
    width = max(map(len, results))
    metrics = [metric for metric in METRICS if metric in next(iter(results.values()))]
    lines = ["  ".join([" " * width, *(f"MSE {metric}" for metric in metrics)])]
    lines += ["  ".join([f"{name:{width}}", *(f"{row[m]:12.5f}" for m in metrics)]) for name, row in results.items()]
    return "\n".join(lines)
