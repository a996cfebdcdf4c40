"""Trains a model to predict where charged particles, or particles on springs, will be.

python experiments/nbody/run.py                     a small model, in minutes
python experiments/nbody/run.py --preset paper      Table 1 of the SE(3)-Transformers paper
python experiments/nbody/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.nbody.config import PRESETS, Config, Model
from utils.cli import UsageError, answer_help, blame, run
from utils.config import none_or_text
from utils.flags import CommandLine

COMMAND_LINE = CommandLine(__doc__, PRESETS)
if __name__ == "__main__":
    answer_help(COMMAND_LINE.parser)  # PyTorch takes seconds to import

from torch import nn

from experiments.nbody import models, plots
from experiments.nbody.data import NBodyDataset, collate, load_or_simulate, load_trajectories
from experiments.nbody.evaluation import METRICS, as_trained, batch_loss, compare, relative_equivariance_error, table
from experiments.nbody.integrator import SE3Integrator
from experiments.nbody.simulation import Settings, Trajectories
from utils.checkpoints import Weights
from utils.experiment import Experiment, Loaders
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer

# ---------------------------------------------------------------------------------------------------------- data


def load(config: Config) -> dict[str, NBodyDataset]:
    """The datasets ``'train'``, ``'test'``, ``'valid'`` unless files were given without one, and that of --evaluate."""
    source = "--data" if config.ri_data is None else "--ri_data"
    arguments = {"delta_t": "--ri_delta_t", "burn_in": "--ri_burn_in", "sample_freq": "--sample_freq"}
    with blame(source, **arguments, stream="--stream"):
        splits = _simulate_splits(config) if config.ri_data is None else _read_splits(config)
        what = config.ri_delta_t, config.ri_burn_in, config.ri_start_at, config.seed, config.targets
        datasets = {
            split: NBodyDataset(trajectories, *what, mirror=config.mirror and split == "train")
            for split, trajectories in splits.items()
        }
        _check_horizons({split: dataset.horizon_time for split, dataset in datasets.items()})
    if config.evaluate is not None:
        with blame("--evaluate", delta_t="--evaluate_delta_t", sample_freq="--evaluate_sample_freq"):
            datasets["evaluate"] = _load_extra(config, datasets["train"].horizon_time)
    return datasets


def _check_horizons(times: dict[str, float]) -> None:
    """Refuse splits of which one looks further ahead than the others."""
    for split, time in times.items():
        if not math.isclose(time, times["train"]):
            raise ValueError(f"sample_freq: expected one horizon, got {times['train']} in train and {time} in {split}")


def _simulate_splits(config: Config) -> dict[str, Trajectories]:
    box_size = Settings.box_size if config.walls else 0.0
    settings = Settings(config.ri_data_type, config.n_balls, box_size=box_size, sample_freq=config.sample_freq or 100)
    sizes = {"train": config.num_train, "valid": config.num_valid, "test": config.num_test}
    seed = config.seed if config.data_seed is None else config.data_seed
    options = {"stream": config.stream, "progress": sys.stderr.isatty()}
    return {
        split: load_or_simulate(config.data, settings, size, seed, split, **options) for split, size in sizes.items()
    }


def _read_splits(config: Config) -> dict[str, Trajectories]:
    name = config.data_str or f"{config.ri_data_type}{config.n_balls}"
    paths = {split: Path(config.ri_data) / f"ds_{split}_{name}.pkl" for split in ("train", "valid", "test")}
    if not paths["valid"].exists():
        del paths["valid"]
    return {split: load_trajectories(path, config.sample_freq) for split, path in paths.items()}


def _load_extra(config: Config, horizon: float) -> NBodyDataset:
    trajectories = load_trajectories(config.evaluate, config.evaluate_sample_freq)
    start_at, targets = config.ri_start_at, config.targets
    dataset = NBodyDataset(trajectories, config.evaluate_delta_t, start_at=start_at, seed=config.seed, targets=targets)
    if not math.isclose(dataset.horizon_time, horizon):
        raise UsageError(
            f"--evaluate_delta_t: {config.evaluate_delta_t} frames of {config.evaluate} are a time of "
            f"{dataset.horizon_time:g}, but the model predicts {horizon:g} ahead"
        )
    return dataset


# --------------------------------------------------------------------------------------------------------- model


def make_model(config: Config) -> nn.Module:
    """The untrained model."""
    if config.model == "SE3Integrator":
        return SE3Integrator(config.num_layers, config.num_channels, config.num_degrees, config.num_steps)
    return getattr(models, config.model)(
        num_layers=config.num_layers,
        num_channels=config.num_channels,
        num_degrees=config.num_degrees,
        div=config.div,
        n_heads=config.head,
        si_m=config.simid,
        si_e=config.siend,
        x_ij=none_or_text(config.xij),
    )


def fit_model(model: nn.Module, dataset: NBodyDataset) -> None:
    """Tell an integrator how far it is to go.

    Args:
        model: untrained.
        dataset: of the training.
    """
    if isinstance(model, SE3Integrator):
        model.horizon.fill_(dataset.horizon_time)


def adapted(config: Config, model: nn.Module, weights: Weights, flags: Mapping[str, Any]) -> Weights:
    """Weights for an integrator, which goes as far as the data of this run do, however far it went before.

    Args:
        config: of the run.
        model: untrained.
        weights: of another run.
        flags: of that run.
    """
    return {**weights, "horizon": model.horizon} if isinstance(model, SE3Integrator) else weights


# -------------------------------------------------------------------------------------------------------- report


def report(config: Config, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Tables of the best weights' errors beside those of baselines, and plots."""
    fabric, model, test = trainer.fabric, trainer.model.eval(), loaders["test"].dataset
    results = {split: compare(fabric, model, loader) for split, loader in loaders.items() if split != "train"}
    G, *_ = loaders["test"].first(100)
    errors = relative_equivariance_error(fabric, model, G)
    horizon = {"horizon_steps": test.horizon, "horizon_time": test.horizon_time}
    draw(trainer, loaders["test"], results["test"], folder / "plots")
    lines = []
    for split in [split for split in ("test", "evaluate") if split in results]:
        lines.append(f"{split}: {len(loaders[split].dataset)} trajectories, {test.horizon} steps ahead")
        lines.append(f"{table(results[split])}\n")
    return {**results, "equivariance_error": errors, **horizon}, lines


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
    command_line=COMMAND_LINE,
    model=Model,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=lambda config, dataset: batch_loss,
    report=report,
    fit_model=fit_model,
    adapt=adapted,
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
