"""How good a prediction of the motion is, next to the baselines, and whether it turns with its input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from equivariant_attention.testing import equivariance_error
from experiments.nbody.data import constant, linear_motion
from utils.history import Row
from utils.loaders import EpochLoader
from utils.training import evaluate

METRICS = ("loss", "position", "velocity")


def batch_loss(model: Callable[[Any], Tensor], batch: tuple[Any, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Mean squared errors per coordinate, the published loss among them.

    Args:
        model: maps G to predictions [N, 2, 3].
        batch: (G, target) from `collate`.

    Returns ('position' and 'velocity', and their sum as 'loss'), N.
    """
    G, target = batch
    position, velocity = (model(G) - target).square().mean(dim=(0, 2))
    return {"loss": position + velocity, "position": position, "velocity": velocity}, len(target)


def compare(fabric: Fabric, model: nn.Module, loader: EpochLoader) -> dict[str, Row]:
    """Returns the metrics of the model (under its class's name) and of the baselines."""
    horizon_time = loader.dataset.horizon_time
    predictors = {
        type(model).__name__: as_trained(fabric, model),
        "linear motion": lambda G: linear_motion(G.ndata["v"], horizon_time),
        "constant": lambda G: constant(G.ndata["v"]),
    }
    return {name: evaluate(fabric, predictor, batch_loss, loader) for name, predictor in predictors.items()}


def as_trained(fabric: Fabric, model: nn.Module) -> Callable[[Any], Tensor]:
    """Returns the model as a function of G in the precision of the training, without gradients."""

    def predict(G: Any) -> Tensor:
        with torch.no_grad(), fabric.autocast():
            return model(G).to(G.ndata["v"].dtype)

    return predict


def relative_equivariance_error(fabric: Fabric, model: nn.Module, G: Any) -> Row:
    """Returns the errors of `equivariance_error` for a batch of systems, in the precision of the training."""
    predict = as_trained(fabric, model)
    return equivariance_error(predict, fabric.to_device(G), node_degrees={"x": 1, "v": 1}, output_degree=1)


def table(results: dict[str, Row]) -> str:
    """Returns position and velocity errors of every predictor in `results` as lines of text."""
    width = max(map(len, results))
    lines = [f"{'':{width}}  MSE position  MSE velocity"]
    lines += [f"{name:{width}}  {row['position']:12.5f}  {row['velocity']:12.5f}" for name, row in results.items()]
    return "\n".join(lines)
