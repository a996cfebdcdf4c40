"""Trains a model to predict a property of molecules.

python experiments/qm9/run.py                                     atomisation energies of the embedded molecules
python experiments/qm9/run.py --task homo                         another property of theirs
python experiments/qm9/run.py --preset homo                       HOMO energies of QM9 (pip install qm9pack)
python experiments/qm9/run.py --preset paper                      the SE(3)-Transformer paper's model and recipe
python experiments/qm9/run.py --preset nvidia --source download   NVIDIA's, on files that are downloaded
python experiments/qm9/run.py --resume FOLDER                     goes on with an interrupted run
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from experiments.qm9.config import PRESETS, RECIPES, Config, Model, Source
from utils.cli import UsageError, answer_help, blame, run
from utils.flags import CommandLine

COMMAND_LINE = CommandLine(__doc__, PRESETS, RECIPES)
if __name__ == "__main__":
    answer_help(COMMAND_LINE.parser)  # PyTorch takes seconds to import

import numpy as np
import torch
from torch.utils.data import Dataset

from experiments.qm9 import sources
from experiments.qm9.adapted import adapted
from experiments.qm9.data import MoleculeDataset, collate, pad, with_target
from experiments.qm9.evaluation import (
    batch_loss,
    loss_of_tensors,
    loss_together,
    predict,
    relative_equivariance_error,
    write,
)
from experiments.qm9.models import make_model, neighbours_of
from experiments.qm9.molecules import SPLITS, Molecules
from experiments.qm9.scaling import Scaled
from experiments.qm9.targets import TARGETS, weights_of
from utils.arrays import as_integers, read_npz
from utils.experiment import Experiment, Loaders
from utils.loaders import ShorterEpochs
from utils.plots import learning_curves
from utils.training import BatchLoss, Trainer

NOTES = {"embedded": "; labels by GFN2-xTB, real physics but not QM9's"}

# ---------------------------------------------------------------------------------------------------------- data


def load_molecules(config: Source) -> Molecules:
    """The molecules of a source.

    Args:
        config: says which.

    Raises:
        UsageError: there are none, or they are damaged.
    """
    source = config.resolved_source()
    if source not in ("embedded", "qm9pack") and config.data_address is None:
        raise UsageError(f"--data_address: expected a path with --source {source}")
    if source in ("published", "arrays") and not Path(config.data_address).is_file():
        raise UsageError(f"--data_address: {config.data_address}: there is no such file")
    try:
        with blame("--source qm9pack" if source == "qm9pack" else "--data_address"):
            molecules = _read(source, config)
    except ModuleNotFoundError as error:
        raise UsageError(f"--source {source}: {error}") from error
    if config.test_ids is not None:
        with blame("--test_ids", ids="--test_ids"):
            molecules = molecules.hold_out(read_ids(config.test_ids))
    print(f"{source}: {molecules.summary}{NOTES.get(source, '')}")
    return molecules


def _read(source: str, config: Source) -> Molecules:
    if source == "embedded":
        return sources.embedded()
    if source == "arrays":
        return sources.from_arrays(config.data_address, config.cache, progress=True)
    if source == "qm9pack":
        return sources.from_qm9pack(config.cache, progress=True)
    if source == "published":
        return sources.from_published(config.data_address)
    return sources.from_download(config.data_address, fetch=config.source == "download", progress=True)


def read_ids(path: str) -> np.ndarray:
    """All whole numbers in an .npz.

    Args:
        path: of the file.

    Raises:
        ValueError: it holds something else, or nothing.
    """
    numbers = [as_integers(name, values).ravel() for name, values in read_npz(path).items()]
    if not numbers:
        raise ValueError(f"{path}: expected arrays of whole numbers, got none")
    return np.unique(np.concatenate(numbers))


def load(config: Config) -> dict[str, Dataset]:
    """The datasets ``'train'``, ``'valid'`` and ``'test'``, those that are asked for: molecules with a known target."""
    molecules = load_molecules(config)
    with blame("--task", task="--task"):
        known = with_target(molecules, config.task)
    if len(known) < len(molecules):
        print(f"{len(known):,} of them with a known {config.task}")
    parts = {split: known.part(split) for split in SPLITS}
    for split in SPLITS:
        size = getattr(config, f"num_{split}")
        if size is not None:
            parts[split] = draw(parts[split], size, f"--num_{split}")
        if size == 0:
            del parts[split]
    if not parts.keys() & {"valid", "test"}:
        raise UsageError("--num_test: expected some molecules with --num_valid 0, for errors to be of")
    if empty := [split for split, part in parts.items() if not len(part)]:
        raise UsageError(f"--data_address: no molecules for {empty[0]} there")
    with blame("--cutoff", cutoff="--cutoff", envelope="--envelope"):
        neighbours = neighbours_of(config)
    datasets: dict[str, Dataset] = {
        split: MoleculeDataset(
            part,
            config.task,
            neighbours,
            rotate=config.rotate and split == "train",
            mirror=config.mirror and split == "train",
            seed=config.seed,
        )
        for split, part in parts.items()
    }
    if config.epoch_size is not None:
        datasets["train"] = ShorterEpochs(datasets["train"], config.epoch_size, config.seed)
    return datasets


def draw(molecules: Molecules, size: int, flag: str) -> Molecules:
    """Some molecules at random, always the same ones, and of two sizes the smaller within the larger.

    Args:
        molecules: to draw from.
        size: how many.
        flag: what asked for so many.

    Raises:
        UsageError: there are fewer.
    """
    if size > len(molecules):
        raise UsageError(f"{flag}: expected at most {len(molecules)} molecules, which there are, got {size}")
    return molecules.take(np.sort(np.random.default_rng(0).permutation(len(molecules))[:size]))


def fit_model(model: Scaled, train: Dataset) -> None:
    """Give a model the mean and the standard deviation of the training set, for all splits.

    Args:
        model: untrained.
        train: as :func:`load` makes it.

    Raises:
        UsageError: there is nothing to learn.
    """
    dataset = whole(train)
    with blame("--task", targets="--task"):
        model.fit(torch.from_numpy(dataset.targets), torch.from_numpy(dataset.molecules.element_counts))


def make_loss(config: Config, dataset: Dataset) -> BatchLoss:
    """What is minimised: the error of the target, or of several, see :mod:`experiments.qm9.evaluation`.

    Raises:
        UsageError: --task_weights are not as many as the targets.
    """
    if TARGETS[config.tasks[0]].kind == "tensor":
        return loss_of_tensors
    if len(config.tasks) == 1 and not config.has_own_readouts:
        return batch_loss
    weights = weights_of(config.task_weights) if config.task_weights else [1.0 for _ in config.tasks]
    if len(weights) != len(config.tasks):
        raise UsageError(f"--task_weights: expected {len(config.tasks)}, one of each target, got {len(weights)}")
    return partial(loss_together, tasks=config.tasks, weights=weights)


def whole(dataset: Dataset) -> MoleculeDataset:
    """All molecules of a dataset, whatever its epochs."""
    return dataset.dataset if isinstance(dataset, ShorterEpochs) else dataset


# -------------------------------------------------------------------------------------------------------- report


def report(config: Config, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """A table of the best weights' errors beside those of baselines, predictions.csv and plots."""
    fabric, model = trainer.fabric, trainer.model.eval()
    train, epoch_size = whole(loaders["train"].dataset), len(loaders["train"].dataset)
    results = {
        split: predict(fabric, model, loaders[split], config.task, train)
        for split in ("valid", "test")
        if split in loaders
    }
    judged = [*results][-1]
    errors = relative_equivariance_error(fabric, model, loaders[judged], config.task)
    metrics = {
        **{split: predictions.metrics for split, predictions in results.items()},
        "unit": results[judged].unit,
        "equivariance_error": errors,
        "train_molecules": len(train),
        "molecules_seen": trainer.epoch * epoch_size,
    }
    write(results[judged], folder)
    if trainer.epochs:
        x = {"over": "thousands of molecules seen", "per_epoch": epoch_size / 1000}
        learning_curves(trainer.epochs, ["mae"], folder / "learning_curves.png", **x)
    source = config.resolved_source()
    return metrics, [
        f"{judged}: {metrics[judged]['molecules']} molecules ({source}{NOTES.get(source, '')})",
        results[judged].table(),
        f"molecules seen        {metrics['molecules_seen']:,}",
    ]


EXPERIMENT = Experiment(
    command_line=COMMAND_LINE,
    model=Model,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=make_loss,
    report=report,
    pad=pad,
    fit_model=fit_model,
    adapt=adapted,
    adapts=frozenset({"edge_features", "readouts"}),
    unit="molecules",
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
