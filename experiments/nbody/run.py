"""Trains a model to predict where charged particles, or particles on springs, will be.

python experiments/nbody/run.py                     a small model, in minutes
python experiments/nbody/run.py --preset paper      Table 1 of the SE(3)-Transformers paper
python experiments/nbody/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from experiments.nbody.flags import FREE, PRESETS, add_flags, idle_flags
from utils.cli import UsageError, answer_help, blame, none_or_text, run
from utils.flags import experiment_parser

if __name__ == "__main__":
    answer_help(lambda: experiment_parser(__doc__, PRESETS, add_flags))  # PyTorch takes seconds to import

from torch import nn

from experiments.nbody import models, plots
from experiments.nbody.data import NBodyDataset, collate, load_or_simulate, load_trajectories
from experiments.nbody.evaluation import METRICS, as_trained, batch_loss, compare, relative_equivariance_error, table
from experiments.nbody.integrator import SE3Integrator
from experiments.nbody.simulation import Settings, Trajectories
from utils.experiment import Experiment, equivariance_line, summary, summary_lines
from utils.files import write_json
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer

# ---------------------------------------------------------------------------------------------------------- data


def load(flags: Namespace) -> dict[str, NBodyDataset]:
    """The datasets ``'train'``, ``'test'`` and, unless files were given without one, ``'valid'``; that of --evaluate.

    Args:
        flags: every flag.

    Raises:
        UsageError: a flag, named, asks for what cannot be done.
    """
    source = "--data" if flags.ri_data is None else "--ri_data"
    arguments = {"delta_t": "--ri_delta_t", "burn_in": "--ri_burn_in", "sample_freq": "--sample_freq"}
    with blame(source, **arguments, stream="--stream"):
        splits = _simulate_splits(flags) if flags.ri_data is None else _read_splits(flags)
        what = flags.ri_delta_t, flags.ri_burn_in, flags.ri_start_at, flags.seed, flags.targets
        datasets = {
            split: NBodyDataset(trajectories, *what, mirror=flags.mirror and split == "train")
            for split, trajectories in splits.items()
        }
    if flags.evaluate is not None:
        with blame("--evaluate", delta_t="--evaluate_delta_t", sample_freq="--evaluate_sample_freq"):
            datasets["evaluate"] = _load_extra(flags, datasets["train"].horizon)
    return datasets


def _simulate_splits(flags: Namespace) -> dict[str, Trajectories]:
    box_size = Settings.box_size if flags.walls else 0.0
    settings = Settings(flags.ri_data_type, flags.n_balls, box_size=box_size, sample_freq=flags.sample_freq or 100)
    sizes = {"train": flags.num_train, "valid": flags.num_valid, "test": flags.num_test}
    seed = flags.seed if flags.data_seed is None else flags.data_seed
    options = {"stream": flags.stream, "progress": sys.stderr.isatty()}
    return {
        split: load_or_simulate(flags.data, settings, size, seed, split, **options) for split, size in sizes.items()
    }


def _read_splits(flags: Namespace) -> dict[str, Trajectories]:
    name = flags.data_str or f"{flags.ri_data_type}{flags.n_balls}"
    paths = {split: Path(flags.ri_data) / f"ds_{split}_{name}.pkl" for split in ("train", "valid", "test")}
    if not paths["valid"].exists():
        del paths["valid"]
    return {split: load_trajectories(path, flags.sample_freq) for split, path in paths.items()}


def _load_extra(flags: Namespace, horizon: int) -> NBodyDataset:
    trajectories = load_trajectories(flags.evaluate, flags.evaluate_sample_freq)
    start_at, targets = flags.ri_start_at, flags.targets
    dataset = NBodyDataset(trajectories, flags.evaluate_delta_t, start_at=start_at, seed=flags.seed, targets=targets)
    if dataset.horizon != horizon:
        raise UsageError(
            f"--evaluate_delta_t: {flags.evaluate_delta_t} frames of {flags.evaluate} are {dataset.horizon} steps of "
            f"the simulation, but the model predicts {horizon}"
        )
    return dataset


# --------------------------------------------------------------------------------------------------------- model


def make_model(flags: Namespace) -> nn.Module:
    """The untrained model.

    Args:
        flags: every flag.
    """
    if flags.model == "SE3Integrator":
        return SE3Integrator(flags.num_layers, flags.num_channels, flags.num_degrees, flags.num_steps)
    return getattr(models, flags.model)(
        num_layers=flags.num_layers,
        num_channels=flags.num_channels,
        num_degrees=flags.num_degrees,
        div=flags.div,
        n_heads=flags.head,
        si_m=flags.simid,
        si_e=flags.siend,
        x_ij=none_or_text(flags.xij),
    )


def fit_model(model: nn.Module, dataset: NBodyDataset) -> None:
    """Tell an integrator how far it is to go.

    Args:
        model: untrained.
        dataset: of the training.
    """
    if isinstance(model, SE3Integrator):
        model.horizon.fill_(dataset.horizon_time)


# -------------------------------------------------------------------------------------------------------- report


def report(flags: Namespace, trainer: Trainer, loaders: dict[str, EpochLoader], folder: Path) -> dict[str, Any]:
    """Evaluate the best weights, write metrics.json and plots, print the table.

    Args:
        flags: every flag.
        trainer: after the training, with the best weights.
        loaders: batches of every split.
        folder: of the run.

    Returns:
        what metrics.json holds.
    """
    fabric, model, test = trainer.fabric, trainer.model.eval(), loaders["test"].dataset
    results = {split: compare(fabric, model, loader) for split, loader in loaders.items() if split != "train"}
    G, *_ = loaders["test"].first(100)
    errors = relative_equivariance_error(fabric, model, G)
    metrics = {
        **results,
        "equivariance_error": errors,
        **summary(trainer),
        "horizon_steps": test.horizon,
        "horizon_time": test.horizon_time,
    }
    write_json(folder / "metrics.json", metrics)
    draw(trainer, loaders["test"], results["test"], folder / "plots")
    for split in [split for split in ("test", "evaluate") if split in results]:
        print(f"\n{split}: {len(loaders[split].dataset)} trajectories, {test.horizon} steps ahead")
        print(table(results[split]))
    print(f"\n{equivariance_line(errors)}")
    print(summary_lines(metrics, folder))
    return metrics


def draw(trainer: Trainer, test: EpochLoader, results: dict, folder: Path) -> None:
    """Draw the learning curves, and the first test cases.

    Args:
        trainer: after the training.
        test: the test set.
        results: metrics on it, by predictor.
        folder: gets the plots.
    """
    baselines = {name: row for name, row in results.items() if name != type(trainer.model).__name__}
    if trainer.epochs:
        metrics = [metric for metric in ("loss", *METRICS) if f"train_{metric}" in trainer.epochs[0]]
        learning_curves(trainer.epochs, metrics, folder / "learning_curves.png", baselines)
    batch = test.first(3)
    G, plan, target = trainer.fabric.to_device(batch)
    prediction = as_trained(trainer.fabric, trainer.model)(G, plan)
    title = f"test set, {test.dataset.horizon} simulation steps ahead"
    plots.predictions(G, target, prediction, title, folder / "predictions.png")


EXPERIMENT = Experiment(
    description=__doc__,
    presets=PRESETS,
    add_flags=add_flags,
    load=load,
    collate=collate,
    make_model=make_model,
    batch_loss=batch_loss,
    report=report,
    fit_model=fit_model,
    free=FREE,
    idle=idle_flags,
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
