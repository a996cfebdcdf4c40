"""Trains a model to move points, joined by random springs, to where their energy is low.

python experiments/toy_optimisation/run.py                     a small model, in minutes
python experiments/toy_optimisation/run.py --preset iterative  the model of the Iterative SE(3)-Transformers paper
python experiments/toy_optimisation/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

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
from utils.cli import count, none_or_text, positive, run
from utils.experiment import Experiment, equivariance_line, summary, summary_lines
from utils.files import write_json
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer

# ------------------------------------------------------------------------------------------------------- presets

QUICK = {
    "model": "SE3TransformerIterative", "num_layers": 1, "num_degrees": 2, "num_channels": 4, "num_iter": 3,
    "div": 2, "head": 1, "simid": "1x1", "siend": "att", "xij": "add", "basis_gradients": True, "k_neighbors": None,
    **TRAINING, "num_epochs": 10, "batch_size": 32, "lr": 1e-2, "warmup": 20, "clip_norm": 1.0, "seed": 54,
    "n_points": 10, "epoch_length": 2000, "num_valid": 500, "num_test": 1000,
    "gd_stepsize": 0.02, "gd_tolerance": 0.01, "gd_post_process": True, "num_runs": 1, "log_steps": True,
    **MACHINE,
    **RUN, "save_dir": "runs/toy_optimisation",
}  # fmt: skip
ITERATIVE = {
    **QUICK,
    "num_layers": 4, "num_degrees": 3,
    "num_epochs": 120, "epoch_length": 1000, "batch_size": 16, "lr": 2e-3, "warmup": 200, "clip_norm": 0.3,
    "ema": 0.99, "seed": 8, "num_valid": 200,
}  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "iterative": ITERATIVE,
    "no-basis-gradients": {**ITERATIVE, "basis_gradients": False},
    "single-pass": {**ITERATIVE, "num_iter": 1},
}

FREE = {"gd_stepsize", "gd_tolerance", "gd_post_process", "num_runs", "num_test"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are this experiment's own."""
    add = parser.add_argument_group("model").add_argument
    add("--model", choices=("SE3TransformerIterative",), help="with --num_iter 1, an SE(3)-Transformer of one pass")
    add("--num_layers", type=count(1), help="attention layers in each block")
    add("--num_degrees", type=count(2), help="degrees 0 to NUM_DEGREES - 1")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--num_iter", type=count(1), help="blocks: how often the points move")
    add("--div", type=positive, help="what channels are divided by for keys and values")
    add("--head", type=count(1), help="attention heads")
    add("--simid", choices=("1x1", "att"), help="self-interaction of the middle layers")
    add("--siend", choices=("1x1", "att"), help="self-interaction of the last layer")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions")
    add("--basis_gradients", action=BooleanOptionalAction, help="let gradients flow through the equivariant basis")
    add("--k_neighbors", type=count(1), help="edges of largest potential that a point attends to (None: all)")

    add_training_flags(parser, "graphs")

    add = parser.add_argument_group("data").add_argument
    add("--n_points", type=count(2), help="points of a graph")
    add("--epoch_length", type=count(1), help="graphs in an epoch; every epoch has new ones")
    add("--num_valid", type=count(1), help="graphs that choose the best weights, always the same")
    add("--num_test", type=count(1), help="graphs to test on, always the same")

    add = parser.add_argument_group("evaluation").add_argument
    add("--gd_stepsize", type=positive, help="step size of gradient descent")
    add("--gd_tolerance", type=positive, help="it ends when no point goes as far as this times the step size")
    add("--gd_post_process", action=BooleanOptionalAction, help="also let it go on from where the model ends")
    add("--num_runs", type=count(1), help="independent test sets to take means over")
    add("--log_steps", action=BooleanOptionalAction, help="record the gradients that flow into every step")


# ---------------------------------------------------------------------------------------------------------- data


def load(flags: Namespace) -> dict[str, SpringsDataset]:
    """The datasets ``'train'``, ``'valid'``, ``'test'`` and, with --num_runs, ``'test-2'``, ...

    Args:
        flags: every flag.
    """
    datasets = {
        "train": SpringsDataset(flags.epoch_length, flags.n_points, "train", flags.seed),
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
    few = test.first(100)
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
        few = to_device(test.first(100))
        plots.energy_curves(few, model, descent, folder / "energy.png")
        first = to_device(test.first(1))
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
