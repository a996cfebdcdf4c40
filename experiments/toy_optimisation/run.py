"""Trains a model to move points, joined by random springs, to where their energy is low.

python experiments/toy_optimisation/run.py                     a small model, in minutes
python experiments/toy_optimisation/run.py --preset iterative  the model of the Iterative SE(3)-Transformers paper
python experiments/toy_optimisation/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from experiments.toy_optimisation.flags import FREE, PRESETS, add_flags
from utils.cli import answer_help, none_or_text, run
from utils.flags import experiment_parser

if __name__ == "__main__":
    answer_help(lambda: experiment_parser(__doc__, PRESETS, add_flags))  # PyTorch takes seconds to import

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
from utils.experiment import Experiment, equivariance_line, summary, summary_lines
from utils.files import write_json
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer

# ---------------------------------------------------------------------------------------------------------- data


def load(flags: Namespace) -> dict[str, SpringsDataset]:
    """The datasets ``'train'``, ``'valid'``, ``'test'`` and, with --num_runs, ``'test-2'``, ...

    Args:
        flags: every flag.
    """
    datasets = {
        "train": SpringsDataset(flags.epoch_size, flags.n_points, "train", flags.seed),
        "valid": SpringsDataset(flags.num_valid, flags.n_points, "valid", flags.seed),
    }
    for number in range(flags.num_runs):
        name = "test" if number == 0 else f"test-{number + 1}"
        datasets[name] = SpringsDataset(flags.num_test, flags.n_points, "log", flags.seed + number)
    return datasets


# --------------------------------------------------------------------------------------------------------- model


def make_model(flags: Namespace) -> nn.Module:
    """The untrained model.

    Args:
        flags: every flag.
    """
    model = getattr(models, flags.model)(
        num_layers=flags.num_layers,
        num_degrees=flags.num_degrees,
        num_channels=flags.num_channels,
        div=flags.div,
        n_heads=flags.head,
        num_iter=flags.num_iter,
        si_m=flags.simid,
        si_e=flags.siend,
        x_ij=none_or_text(flags.xij),
        compute_gradients=flags.basis_gradients,
        k_neighbors=flags.k_neighbors,
        edge_features=flags.edge_features,
    )
    if flags.log_steps:
        model.gradient_flow = GradientFlow(model)
    return model


def probe(model: nn.Module) -> dict[str, Any]:
    """The gradients that have flowed into every step, where the model has --log_steps.

    Args:
        model: after a backward pass.
    """
    return model.gradient_flow.norms() if hasattr(model, "gradient_flow") else {}


# -------------------------------------------------------------------------------------------------------- report


def report(flags: Namespace, trainer: Trainer, loaders: dict[str, EpochLoader], folder: Path) -> dict[str, Any]:
    """Evaluate the best weights, write metrics.json and pictures, print the table.

    Args:
        flags: every flag.
        trainer: after the training, with the best weights.
        loaders: batches of every split.
        folder: of the run.

    Returns:
        what metrics.json holds.
    """
    fabric, model, test = trainer.fabric, trainer.model.eval(), loaders["test"]
    descent = GradientDescent(flags.gd_stepsize, flags.gd_tolerance)
    tests = [loader for split, loader in loaders.items() if split.startswith("test")]
    results = [compare(fabric, model, descent, loader, flags.gd_post_process) for loader in tests]
    few, _ = test.first(100)
    errors = relative_equivariance_error(fabric, model, few)
    metrics = {"test": mean_results(results), "equivariance_error": errors, **summary(trainer)}
    write_json(folder / "metrics.json", metrics)
    draw(trainer, test, metrics["test"], descent, folder / "pictures")
    print(f"\ntest: {len(tests) * flags.num_test} graphs of {flags.n_points} points")
    print(table(metrics["test"]))
    print(f"\n{equivariance_line(errors)}")
    print(f"animation           {folder / 'pictures' / 'animation.gif'}")
    print(summary_lines(metrics, folder))
    return metrics


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
    description=__doc__,
    presets=PRESETS,
    add_flags=add_flags,
    load=load,
    collate=collate,
    make_model=make_model,
    batch_loss=batch_loss,
    report=report,
    free=FREE,
    probe=probe,
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
