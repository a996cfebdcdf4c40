"""Trains a model to predict where charged particles, or particles on springs, will be.

python experiments/nbody/run.py                     a small model, in minutes
python experiments/nbody/run.py --preset paper      Table 1 of the SE(3)-Transformers paper
python experiments/nbody/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from torch import nn

from experiments.nbody import models, plots
from experiments.nbody.data import NBodyDataset, collate, load_or_simulate, load_trajectories
from experiments.nbody.evaluation import METRICS, as_trained, batch_loss, compare, relative_equivariance_error, table
from experiments.nbody.simulation import Settings, Trajectories
from utils.cli import UsageError, blame, count, none_or_text, positive, run
from utils.experiment import Experiment, equivariance_line, summary, summary_lines
from utils.files import write_json
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer

# ------------------------------------------------------------------------------------------------------- presets

QUICK = {
    "model": "SE3Transformer", "num_layers": 2, "num_degrees": 3, "num_channels": 8, "div": 2, "head": 2,
    "simid": "1x1", "siend": "att", "xij": "add",
    **TRAINING, "num_epochs": 30, "batch_size": 64, "lr": 3e-3, "clip_norm": 1.0,
    "ri_data_type": "charged", "n_balls": 5, "num_train": 2000, "num_valid": 300, "num_test": 500,
    "ri_delta_t": 5, "ri_burn_in": 0, "ri_start_at": "all", "sample_freq": None,
    "ri_data": None, "data_str": None, "data": "data/nbody",
    "evaluate": None, "evaluate_delta_t": 1, "evaluate_sample_freq": None,
    **MACHINE,
    **RUN, "save_dir": "runs/nbody",
}  # fmt: skip
PAPER = {
    **QUICK,
    "num_layers": 4, "num_degrees": 4, "num_channels": 8, "div": 4, "head": 2,
    "num_epochs": 300, "batch_size": 128, "lr": 1e-3, "clip_norm": None,
    "num_train": 3000, "num_valid": 2000, "num_test": 2000,
    "ri_delta_t": 10, "ri_start_at": "zero",
}  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "paper": PAPER,  # 1000 steps of the simulation, as the published command and Table 1's figures say
    "paper-500": {**PAPER, "ri_delta_t": 5},  # 500 steps, as the paper's text says
}

FREE = {"data", "evaluate", "evaluate_delta_t", "evaluate_sample_freq"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are n-body's own."""
    add = parser.add_argument_group("model").add_argument
    add("--model", choices=("SE3Transformer", "TFN"))
    add("--num_layers", type=count(1), help="layers in the middle")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1 in the middle")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--div", type=positive, help="what channels are divided by for keys and values (SE3Transformer)")
    add("--head", type=count(1), help="attention heads (SE3Transformer)")
    add("--simid", choices=("1x1", "att"), help="self-interaction of the middle layers (SE3Transformer)")
    add("--siend", choices=("1x1", "att"), help="self-interaction of the last layer (SE3Transformer)")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions (SE3Transformer)")

    add_training_flags(parser, "trajectories")

    add = parser.add_argument_group("data").add_argument
    add("--ri_data_type", choices=("charged", "springs"), help="what is simulated")
    add("--n_balls", type=count(2), help="particles of a simulated system")
    add("--num_train", type=count(1), help="simulated trajectories to train on")
    add("--num_valid", type=count(1), help="simulated trajectories that choose the best weights")
    add("--num_test", type=count(1), help="simulated trajectories to test on")
    add("--ri_delta_t", type=count(1), help="frames between input and target")
    add("--ri_burn_in", type=count(0), help="frames at the beginning never to start from")
    add("--ri_start_at", choices=("zero", "all"), help="start from the first frame, or from any")
    add("--sample_freq", type=count(1), help="simulation steps between frames (None: 100, or what the files say)")
    add("--ri_data", metavar="FOLDER", help="read ds_{train,valid,test}_NAME.pkl from there instead of simulating")
    add("--data_str", metavar="NAME", help="of these files (None: as in charged5)")
    add("--data", metavar="FOLDER", help="where simulated data are kept")
    add("--evaluate", metavar="FILE", type=none_or_text,
        help="also evaluate on the trajectories in this .npz or .pkl (none: no longer)")  # fmt: skip
    add("--evaluate_delta_t", type=count(1), help="frames of that file between input and target")
    add("--evaluate_sample_freq", type=count(1), help="simulation steps between its frames (None: what it says)")


def idle_flags(flags: Namespace) -> dict[str, str]:
    """The flags that have no effect, and why.

    Args:
        flags: every flag.
    """
    idle = {}
    if flags.ri_data is None:
        idle["data_str"] = "without --ri_data"
    else:
        idle |= dict.fromkeys(("n_balls", "num_train", "num_valid", "num_test"), "with --ri_data")
    if flags.evaluate is None:
        idle |= dict.fromkeys(("evaluate_delta_t", "evaluate_sample_freq"), "without --evaluate")
    return idle


# ---------------------------------------------------------------------------------------------------------- data


def load(flags: Namespace) -> dict[str, NBodyDataset]:
    """The datasets ``'train'``, ``'test'`` and, unless files were given without one, ``'valid'``; that of --evaluate.

    Args:
        flags: every flag.

    Raises:
        UsageError: a flag, named, asks for what cannot be done.
    """
    source = "--data" if flags.ri_data is None else "--ri_data"
    with blame(source, delta_t="--ri_delta_t", burn_in="--ri_burn_in", sample_freq="--sample_freq"):
        splits = _simulate_splits(flags) if flags.ri_data is None else _read_splits(flags)
        datasets = {
            split: NBodyDataset(trajectories, flags.ri_delta_t, flags.ri_burn_in, flags.ri_start_at, flags.seed)
            for split, trajectories in splits.items()
        }
    if flags.evaluate is not None:
        with blame("--evaluate", delta_t="--evaluate_delta_t", sample_freq="--evaluate_sample_freq"):
            datasets["evaluate"] = _load_extra(flags, datasets["train"].horizon)
    return datasets


def _simulate_splits(flags: Namespace) -> dict[str, Trajectories]:
    settings = Settings(flags.ri_data_type, flags.n_balls, sample_freq=flags.sample_freq or 100)
    sizes = {"train": flags.num_train, "valid": flags.num_valid, "test": flags.num_test}
    return {
        split: load_or_simulate(flags.data, settings, size, flags.seed, split, progress=True)
        for split, size in sizes.items()
    }


def _read_splits(flags: Namespace) -> dict[str, Trajectories]:
    name = flags.data_str or f"{flags.ri_data_type}{flags.n_balls}"
    paths = {split: Path(flags.ri_data) / f"ds_{split}_{name}.pkl" for split in ("train", "valid", "test")}
    if not paths["valid"].exists():
        del paths["valid"]
    return {split: load_trajectories(path, flags.sample_freq) for split, path in paths.items()}


def _load_extra(flags: Namespace, horizon: int) -> NBodyDataset:
    trajectories = load_trajectories(flags.evaluate, flags.evaluate_sample_freq)
    dataset = NBodyDataset(trajectories, flags.evaluate_delta_t, start_at=flags.ri_start_at, seed=flags.seed)
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
    G, _ = loaders["test"].first(100)
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
        learning_curves(trainer.epochs, METRICS, folder / "learning_curves.png", baselines)
    batch = test.first(3)
    G, target = trainer.fabric.to_device(batch)
    prediction = as_trained(trainer.fabric, trainer.model)(G)
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
    free=FREE,
    idle=idle_flags,
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
