"""Trains a model to predict a property of molecules.

python experiments/qm9/run.py                                     atomisation energies of the embedded molecules
python experiments/qm9/run.py --task homo                         another property of theirs
python experiments/qm9/run.py --preset homo                       HOMO energies of QM9 (pip install qm9pack)
python experiments/qm9/run.py --preset paper                      the SE(3)-Transformer paper's model and recipe
python experiments/qm9/run.py --preset nvidia --source download   NVIDIA's, on files that are downloaded
python experiments/qm9/run.py --resume FOLDER                     goes on with an interrupted run
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from experiments.qm9.flags import FREE, PRESETS, RECIPES, add_flags, idle_flags, source_of
from experiments.qm9.flags import MODERN as MODERN
from utils.cli import UsageError, answer_help, blame, run
from utils.flags import experiment_parser

if __name__ == "__main__":
    answer_help(lambda: experiment_parser(__doc__, PRESETS, add_flags, RECIPES))  # PyTorch takes seconds to import

import numpy as np
import torch
from torch.utils.data import Dataset

from experiments.qm9 import sources
from experiments.qm9.data import MoleculeDataset, collate, with_target
from experiments.qm9.evaluation import batch_loss, predict, relative_equivariance_error, write
from experiments.qm9.models import Scaled, make_model, neighbours_of
from experiments.qm9.molecules import SPLITS, Molecules
from experiments.qm9.targets import TARGETS
from utils.arrays import as_integers, read_npz
from utils.experiment import Experiment, Loaders, equivariance_line, summary, summary_lines
from utils.files import write_json
from utils.loaders import ShorterEpochs
from utils.plots import learning_curves
from utils.training import Trainer

NOTES = {"embedded": "; labels by GFN2-xTB, real physics but not QM9's"}

# ---------------------------------------------------------------------------------------------------------- data


def load_molecules(flags: Namespace) -> Molecules:
    """The molecules that flags ask for.

    Args:
        flags: with those of :func:`add_source_flags`.

    Raises:
        UsageError: there are none, or they are damaged.
    """
    source = source_of(flags)
    if source not in ("embedded", "qm9pack") and flags.data_address is None:
        raise UsageError(f"--data_address: expected a path with --source {source}")
    if source in ("published", "arrays") and not Path(flags.data_address).is_file():
        raise UsageError(f"--data_address: {flags.data_address}: there is no such file")
    try:
        with blame("--source qm9pack" if source == "qm9pack" else "--data_address"):
            molecules = _read(source, flags)
    except ModuleNotFoundError as error:
        raise UsageError(f"--source {source}: {error}") from error
    if flags.test_ids is not None:
        with blame("--test_ids", ids="--test_ids"):
            molecules = molecules.hold_out(read_ids(flags.test_ids))
    print(f"{source}: {molecules.summary}{NOTES.get(source, '')}")
    return molecules


def _read(source: str, flags: Namespace) -> Molecules:
    if source == "embedded":
        return sources.embedded()
    if source == "arrays":
        return sources.from_arrays(flags.data_address, flags.cache, progress=True)
    if source == "qm9pack":
        return sources.from_qm9pack(flags.cache, progress=True)
    if source == "published":
        return sources.from_published(flags.data_address)
    return sources.from_download(flags.data_address, fetch=flags.source == "download", progress=True)


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


def load(flags: Namespace) -> dict[str, Dataset]:
    """The datasets ``'train'``, ``'valid'`` and ``'test'``: molecules whose target is known.

    Args:
        flags: every flag.

    Raises:
        UsageError: a flag, named, asks for what cannot be done.
    """
    molecules = load_molecules(flags)
    with blame("--task", task="--task"):
        known = with_target(molecules, flags.task)
    if len(known) < len(molecules):
        print(f"{len(known):,} of them with a known {flags.task}")
    parts = {split: known.part(split) for split in SPLITS}
    for split, size in (("train", flags.num_train), ("valid", flags.num_valid)):
        if size is not None:
            parts[split] = draw(parts[split], size, f"--num_{split}")
    if flags.num_valid == 0:
        del parts["valid"]
    if empty := [split for split, part in parts.items() if not len(part)]:
        raise UsageError(f"--data_address: no molecules for {empty[0]} there")
    with blame("--cutoff", cutoff="--cutoff", envelope="--envelope"):
        neighbours = neighbours_of(flags)
    datasets: dict[str, Dataset] = {
        split: MoleculeDataset(part, flags.task, neighbours, rotate=flags.rotate and split == "train", seed=flags.seed)
        for split, part in parts.items()
    }
    if flags.epoch_size is not None:
        datasets["train"] = ShorterEpochs(datasets["train"], flags.epoch_size, flags.seed)
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


def whole(dataset: Dataset) -> MoleculeDataset:
    """All molecules of a dataset, whatever its epochs."""
    return dataset.dataset if isinstance(dataset, ShorterEpochs) else dataset


# -------------------------------------------------------------------------------------------------------- report


def report(flags: Namespace, trainer: Trainer, loaders: Loaders, folder: Path) -> dict[str, Any]:
    """Test the best weights, write metrics.json, predictions.csv and plots, print the figures.

    Args:
        flags: every flag.
        trainer: after the training, with the best weights.
        loaders: batches of every split.
        folder: of the run.

    Returns:
        what metrics.json holds.
    """
    fabric, model = trainer.fabric, trainer.model.eval()
    train, epoch_size = whole(loaders["train"].dataset), len(loaders["train"].dataset)
    results = {
        split: predict(fabric, model, loaders[split], flags.task, train)
        for split in ("valid", "test")
        if split in loaders
    }
    errors = relative_equivariance_error(fabric, model, loaders["test"], flags.task)
    metrics = {
        **{split: predictions.metrics for split, predictions in results.items()},
        "unit": TARGETS[flags.task].report_unit,
        "equivariance_error": errors,
        "train_molecules": len(train),
        "molecules_seen": trainer.epoch * epoch_size,
        **summary(trainer),
    }
    write_json(folder / "metrics.json", metrics)
    write(results["test"], folder)
    if trainer.epochs:
        x = {"over": "thousands of molecules seen", "per_epoch": epoch_size / 1000}
        learning_curves(trainer.epochs, ["mae"], folder / "learning_curves.png", **x)
    source = source_of(flags)
    print(f"\ntest: {metrics['test']['molecules']} molecules ({source}{NOTES.get(source, '')})")
    print(results["test"].table())
    print(equivariance_line(errors))
    print(f"molecules seen        {metrics['molecules_seen']:,}")
    print(summary_lines(metrics, folder))
    return metrics


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
    fit_model=fit_model,
    recipes=RECIPES,
    unit="molecules",
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
