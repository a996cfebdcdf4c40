"""Trains a model to move points, joined by random springs, to where their energy is low.

python experiments/toy_optimisation/run.py                     a small model, in minutes
python experiments/toy_optimisation/run.py --preset iterative  the model of the Iterative SE(3)-Transformers paper
python experiments/toy_optimisation/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from experiments.toy_optimisation.config import PRESETS, Config, Model
from utils.cli import answer_help, run
from utils.config import none_or_text
from utils.flags import CommandLine

COMMAND_LINE = CommandLine(__doc__, PRESETS)
if __name__ == "__main__":
    answer_help(COMMAND_LINE.parser)  # PyTorch takes seconds to import

from torch import nn

from experiments.toy_optimisation import models, plots
from experiments.toy_optimisation.data import SpringsDataset, collate
from experiments.toy_optimisation.evaluation import (
    batch_loss,
    compare,
    mean_results,
    relative_equivariance_error,
    table,
)
from experiments.toy_optimisation.gradient_descent import GradientDescent
from experiments.toy_optimisation.observers import GradientFlow, attention_weights
from utils.experiment import Experiment, Loaders
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer

# ---------------------------------------------------------------------------------------------------------- data


def load(config: Config) -> dict[str, SpringsDataset]:
    """The datasets ``'train'``, ``'valid'``, ``'test'`` and, with --num_runs, ``'test-2'``, ..."""
    datasets = {
        "train": SpringsDataset(config.epoch_size, config.n_points, "train", config.seed),
        "valid": SpringsDataset(config.num_valid, config.n_points, "valid", config.seed),
    }
    for number in range(config.num_runs):
        name = "test" if number == 0 else f"test-{number + 1}"
        datasets[name] = SpringsDataset(config.num_test, config.n_points, "log", config.seed + number)
    return datasets


# --------------------------------------------------------------------------------------------------------- model


def make_model(config: Config) -> nn.Module:
    """The untrained model."""
    model = getattr(models, config.model)(
        num_layers=config.num_layers,
        num_degrees=config.num_degrees,
        num_channels=config.num_channels,
        div=config.div,
        n_heads=config.head,
        num_iter=config.num_iter,
        si_m=config.simid,
        si_e=config.siend,
        x_ij=none_or_text(config.xij),
        compute_gradients=config.basis_gradients,
        k_neighbors=config.k_neighbors,
    )
    if config.log_steps:
        model.gradient_flow = GradientFlow(model)
    return model


def probe(model: nn.Module) -> dict[str, Any]:
    """The gradients that have flowed into every step, where the model has --log_steps.

    Args:
        model: after a backward pass.
    """
    return model.gradient_flow.norms() if hasattr(model, "gradient_flow") else {}


# -------------------------------------------------------------------------------------------------------- report


def report(config: Config, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A table of the energies where the best weights and gradient descent end, and pictures."""
    fabric, model, test = trainer.fabric, trainer.model.eval(), loaders["test"]
    descent = GradientDescent(config.gd_stepsize, config.gd_tolerance)
    tests = [loader for split, loader in loaders.items() if split.startswith("test")]
    results = mean_results([compare(fabric, model, descent, loader, config.gd_post_process) for loader in tests])
    errors = relative_equivariance_error(fabric, model, test.first(100)[0])
    draw(trainer, test, results, descent, folder / "pictures")
    return {"test": results, "equivariance_error": errors}, [
        f"test: {len(tests) * config.num_test} graphs of {config.n_points} points",
        f"{table(results)}\n",
        f"animation           {folder / 'pictures' / 'animation.gif'}",
    ]


def draw(trainer: Trainer, test: EpochLoader, results: dict, descent: GradientDescent, folder: Path) -> None:
    """Draw the learning curve; energy against step; the first test graph as it moves, and what is attended to in it.

    Args:
        trainer: after the training.
        test: the test set.
        results: on it, by optimiser.
        descent: the baseline.
        folder: gets the pictures.
    """
    if trainer.epochs:
        references = {name: {"loss": row["energy"]} for name, row in results.items() if name != "network"}
        learning_curves(trainer.epochs, ["loss"], folder / "learning_curves.png", references)
    model, to_device = trainer.model, trainer.fabric.to_device
    with trainer.fabric.autocast():
        few = to_device(test.first(100)[0])
        plots.energy_curves(few, model, descent, folder / "energy.png")
        first = to_device(test.first(1)[0])
        plots.animation(first, model, descent, folder / "animation.gif")
        weights = attention_weights(model, first.local_var())
        plots.attention(first, weights, plots.network_path(first, model), folder / "attention.png")


EXPERIMENT = Experiment(
    command_line=COMMAND_LINE,
    model=Model,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=lambda config, dataset: partial(batch_loss, step_loss=config.step_loss),
    report=report,
    probe=probe,
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
