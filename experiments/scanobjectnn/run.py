"""Tells what scanned objects are, and measures whether it still can when they are turned.

python experiments/scanobjectnn/run.py                       an SE(3)-Transformer that is told heights, in minutes
python experiments/scanobjectnn/run.py --no-height           one that is not
python experiments/scanobjectnn/run.py --data FOLDER         on ScanObjectNN, a folder such as main_split_nobg
python experiments/scanobjectnn/run.py --resume FOLDER       goes on with an interrupted run
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.scanobjectnn.config import PRESETS, Config, Model
from utils.cli import UsageError, answer_help, blame, run
from utils.flags import CommandLine

COMMAND_LINE = CommandLine(__doc__, PRESETS)
if __name__ == "__main__":
    answer_help(COMMAND_LINE.parser)  # PyTorch takes seconds to import

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from experiments.scanobjectnn import files, models, scans
from experiments.scanobjectnn.data import Batch, Objects, collate, without_background
from experiments.scanobjectnn.rotations import Rotations, draw_rotation
from utils.experiment import Experiment, Loaders
from utils.history import write_csv
from utils.plots import learning_curves
from utils.training import Trainer

METRICS, SPLITS = ("loss", "accuracy"), ("train", "valid")
TESTS = {"test": "none", "test_z": "z", "test_so3": "so3"}  # the same scans, turned


def classes(config: Config) -> tuple[str, ...]:
    """Their names, in the order of the labels."""
    return scans.CLASSES if config.data is None else files.CLASSES


def load_scans(config: Config) -> dict[str, scans.Scans]:
    """The scans ``'train'``, ``'valid'`` and ``'test'``: made, or of files."""
    if config.data is None:
        counts = {"train": config.num_train, "valid": config.num_valid, "test": config.num_test}
        return {split: scans.make_scans(n, config.seed, part) for part, (split, n) in enumerate(counts.items())}
    try:
        with blame("--data"):
            train, test = files.read_scanobjectnn(config.data, config.up)
    except ModuleNotFoundError as error:
        raise UsageError(f"--data: {error}") from error
    if not config.num_valid < len(train):
        raise UsageError(f"--num_valid: expected fewer than the {len(train)} of the file, got {config.num_valid}")
    order = np.random.default_rng(config.seed).permutation(len(train))
    return {"train": train[order[config.num_valid :]], "valid": train[order[: config.num_valid]], "test": test}


def load(config: Config) -> dict[str, Objects]:
    """The datasets ``'train'`` and ``'valid'``, and the test set as it stands and turned."""
    datasets = {}
    for split, of_split in load_scans(config).items():
        with blame("--no-background", background="--no-background"):
            points = of_split.points if config.background else without_background(of_split)
        turned = TESTS if split == "test" else {split: config.rotations}
        for name, rotations in turned.items():
            sizes = config.num_points, config.neighbors
            datasets[name] = Objects(points, of_split.labels, *sizes, rotations, config.seed)
    return datasets


def make_model(config: Config) -> nn.Module:
    """The untrained model."""
    of_all = {"num_layers": config.num_layers, "num_channels": config.num_channels, "num_classes": len(classes(config))}
    if config.model in ("PointNet", "HeightSet"):
        return getattr(models, config.model)(**of_all)
    of_all |= {"num_degrees": config.num_degrees, "height": config.height}
    if config.model == "TFN":
        return models.TFN(**of_all)
    return models.SE3Transformer(div=config.div, n_heads=config.head, **of_all)


def batch_loss(model: Callable[..., Tensor], batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Cross entropy, and the share of objects that are told right.

    Args:
        model: maps G and its plan to logits ``[graphs, classes]``.
        batch: (G, plan, target) from :func:`collate`.

    Returns:
        ``'loss'`` and ``'accuracy'``; and the number of objects.
    """
    G, plan, target = batch
    logits = model(G, plan=plan)
    right = logits.argmax(dim=1) == target
    return {"loss": cross_entropy(logits, target), "accuracy": right.float().mean()}, len(target)


def report(config: Config, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Accuracy of the best weights on the test set, as it stands and turned; what is taken for what; curves."""
    names, count = classes(config), len(loaders["test"].dataset)
    metrics: dict[str, Any] = {name: trainer.evaluate(loaders[name]) for name in TESTS}
    metrics["test_objects"] = count
    if config.model in ("SE3Transformer", "TFN"):
        group: Rotations = "z" if config.height else "so3"
        metrics["equivariance_error"] = {f"rotation ({group})": change_by_rotations(trainer, loaders["test"], group)}
    table = confusion(trainer, loaders["test"], len(names))
    rows = [{"class": name, **dict(zip(names, row, strict=True))} for name, row in zip(names, table, strict=True)]
    write_csv(folder / "confusion.csv", rows)
    if trainer.epochs:
        chance = {"chance": {"loss": math.log(len(names)), "accuracy": 1 / len(names)}}
        # An accuracy that is zero throughout, as of a handful of objects, has no place on a logarithmic axis.
        drawn = [name for name in METRICS if all(any(row[f"{s}_{name}"] for row in trainer.epochs) for s in SPLITS)]
        learning_curves(trainer.epochs, drawn, folder / "learning_curves.png", chance)
    standing, about_z, anyhow = (metrics[name]["accuracy"] for name in TESTS)
    return metrics, [
        f"accuracy            {standing:.4f} of {count} test objects as they stand,",
        f"                    {about_z:.4f} turned about z, {anyhow:.4f} turned anyhow",
        *_worst(table, names),
    ]


def _worst(table: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """A line on what is taken for what most often, if anything is."""
    wrong = table * (1 - np.eye(len(names), dtype=int))
    true, taken = np.unravel_index(wrong.argmax(), wrong.shape)
    line = f"most often wrong    {names[true]} taken for {names[taken]}, {wrong.max()} times; see confusion.csv"
    return [line] if wrong.any() else []


@torch.no_grad()
def confusion(trainer: Trainer, loader: Any, num_classes: int) -> np.ndarray:
    """How many objects of each class (rows) are taken for each (columns), ``[classes, classes]``.

    Args:
        trainer: with the model.
        loader: gives the batches.
        num_classes: how many.
    """
    trainer.model.eval()
    table = np.zeros((num_classes, num_classes), dtype=int)
    for batch in loader:
        G, plan, target = trainer.fabric.to_device(batch)
        with trainer.fabric.autocast():
            taken = trainer.model(G, plan=plan).argmax(dim=1)
        np.add.at(table, (target.cpu().numpy(), taken.cpu().numpy()), 1)
    return table


@torch.no_grad()
def change_by_rotations(trainer: Trainer, loader: Any, rotations: Rotations) -> float:
    """The largest change of a logit by a rotation, of the first objects of a dataset, relative to the largest logit.

    Args:
        trainer: with the model.
        loader: has the dataset.
        rotations: about ``'z'`` or any, ``'so3'``.
    """
    G, plan, _ = trainer.fabric.to_device(loader.first(32))
    before = trainer.model.eval()(G, plan=plan)
    turn = torch.from_numpy(draw_rotation(rotations, np.random.default_rng(0)).T).to(G.edata["d"])
    for field, name in ((G.ndata, "x"), (G.edata, "d")):
        field[name] = field[name] @ turn
    return float((trainer.model(G, plan=plan) - before).abs().max() / before.abs().max())


EXPERIMENT = Experiment(
    command_line=COMMAND_LINE,
    model=Model,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=lambda config, dataset: batch_loss,
    report=report,
    unit="objects",
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
