"""Trains a model to predict a property of molecules.

python experiments/qm9/run.py                                     atomisation energies of the embedded molecules
python experiments/qm9/run.py --task homo                         another property of theirs
python experiments/qm9/run.py --preset paper --source download    the SE(3)-Transformer paper's model and recipe on QM9
python experiments/qm9/run.py --preset nvidia --source download   NVIDIA's model and recipe
python experiments/qm9/run.py --resume FOLDER                     goes on with an interrupted run
"""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from equivariant_attention.models import NONLINEARITIES
from experiments.qm9 import sources
from experiments.qm9.data import MoleculeDataset, collate, with_target
from experiments.qm9.evaluation import batch_loss, predict, relative_equivariance_error, write
from experiments.qm9.models import MODELS, Scaled, make_model, neighbours_of
from experiments.qm9.molecules import SPLITS, Molecules
from experiments.qm9.targets import TARGETS
from utils.cli import UsageError, blame, count, positive, run
from utils.experiment import Experiment, Loaders, equivariance_line, summary, summary_lines
from utils.files import write_json
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags
from utils.loaders import ShorterEpochs
from utils.plots import learning_curves
from utils.training import Trainer

# ------------------------------------------------------------------------------------------------------- presets

MODERN = {"ema": 0.999, "warmup": 500, "clip_norm": 1.0, "weight_decay": 1e-5}
PAPER = {
    "model": "SE3Transformer", "num_layers": 7, "num_degrees": 4, "num_channels": 32, "nonlinearity": "norm",
    "num_nlayers": 0, "div": 2,
    "head": 8, "pooling": "max", "fully_connected": False, "cutoff": None, "envelope": None, "per_atom": False,
    **TRAINING, "num_epochs": 100, "batch_size": 32, "lr": 1e-3,
    "task": "homo", "source": "auto", "data_address": "data/qm9", "cache": "data/qm9/bonds",
    "num_train": None, "num_valid": None, "epoch_size": None, "rotate": True,
    **MACHINE,
    **RUN, "save_dir": "runs/qm9", "log_interval": 25, "print_interval": 25,
}  # fmt: skip
PRESETS = {
    "quick": {
        **PAPER, **MODERN,
        "num_layers": 3, "num_degrees": 3, "num_channels": 8, "nonlinearity": "gate",
        "head": 2, "pooling": "avg", "per_atom": True,
        "num_epochs": 60, "batch_size": 16, "lr": 3e-3, "ema": 0.99, "warmup": 50,
        "task": "atomisation", "data_address": None,
    },
    "homo": {
        **PAPER, **MODERN,
        "num_layers": 4, "num_degrees": 3, "num_channels": 16, "nonlinearity": "gate",
        "num_epochs": 20, "lr": 2e-3, "epoch_size": 10_000, "num_valid": 2_000,
    },
    "paper": PAPER,
    "nvidia": {
        **PAPER, "model": "SE3TransformerPooled",
        "batch_size": 240, "lr": 2e-3, "precision": "bf16-mixed",
    },
}  # fmt: skip
RECIPES = {"paper": {name: PAPER[name] for name in MODERN}, "modern": MODERN}

FREE = {"cache"}
NOTES = {"embedded": "; labels by GFN2-xTB, real physics but not QM9's"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are QM9's own."""
    add = parser.add_argument_group("model").add_argument
    add("--model", choices=tuple(MODELS))
    add("--num_layers", type=count(1), help="layers in the middle")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1 in the middle")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--nonlinearity", choices=NONLINEARITIES, help="between layers: as published, or smooth")
    add("--num_nlayers", type=count(0), help="linear layers in each norm nonlinearity (TFN)")
    add("--div", type=positive, help="what channels are divided by for keys and values (SE3Transformer)")
    add("--head", type=count(1), help="attention heads (SE3Transformer)")
    add("--pooling", choices=("avg", "max"), help="over the atoms (SE3Transformer; TFN: max)")
    add("--per_atom", action=BooleanOptionalAction, help="predict N times what is pooled, for targets that grow with N")
    add("--fully_connected", action=BooleanOptionalAction, help="edges between all atoms, not the bonded ones alone")
    add("--cutoff", type=positive, help="edges between atoms within so many Å instead")
    add("--envelope", type=count(1), help="let these end smoothly: the p of DimeNet's envelope (None: they just end)")

    add_training_flags(parser, "molecules")

    add = parser.add_argument_group("data").add_argument
    add("--task", choices=TARGETS, help="what is predicted")
    add_source_flags(parser)
    add("--num_train", type=count(1), help="molecules to train on, drawn once for all (None: all)")
    add("--num_valid", type=count(0),
        help="molecules that choose the best weights, drawn likewise (None: all; 0: the last win)")  # fmt: skip
    add("--epoch_size", type=count(1), help="molecules between validations and checkpoints (None: all)")
    add("--rotate", action=BooleanOptionalAction, help="turn training molecules at random")


def add_source_flags(parser: ArgumentParser) -> None:
    """Add the flags that say where molecules come from.

    Args:
        parser: gets them.
    """
    add = parser.add_argument_group("source").add_argument
    add("--source", choices=("auto", "embedded", "download", "published", "arrays"),
        help="the project's own few molecules; QM9, downloaded to a folder; the published QM9_data.pt; an .npz of "
        "ragged arrays (auto: what DATA_ADDRESS looks like; a folder has QM9 already)")  # fmt: skip
    add("--data_address", metavar="PATH", help="of that file or folder (None: embedded)")
    add("--cache", metavar="FOLDER", help="where perceived bonds of arrays are kept")


def idle_flags(flags: Namespace) -> dict[str, str]:
    """The flags that have no effect, and why.

    Args:
        flags: every flag.
    """
    idle = {}
    if flags.model == "TFN":
        idle |= dict.fromkeys(("div", "head", "pooling"), "with --model TFN")
    else:
        idle["num_nlayers"] = f"with --model {flags.model}"
    if flags.nonlinearity == "gate":
        idle["num_nlayers"] = "with --nonlinearity gate"
    if TARGETS[flags.task].vector:
        idle["pooling"] = f"with --task {flags.task}"
    if not TARGETS[flags.task].grows:
        idle["per_atom"] = f"with --task {flags.task}, which does not grow with the molecule"
    if source_of(flags) == "embedded":
        idle["data_address"] = "with --source embedded"
    if source_of(flags) != "arrays":
        idle["cache"] = "unless bonds are perceived, with --source arrays"
    return idle


# ---------------------------------------------------------------------------------------------------------- data


def source_of(flags: Namespace) -> str:
    """What --source means, where it is 'auto' by what the address looks like.

    Args:
        flags: with those of :func:`add_source_flags`.
    """
    if flags.source != "auto":
        return flags.source
    if flags.data_address is None:
        return "embedded"
    return {".pt": "published", ".npz": "arrays"}.get(Path(flags.data_address).suffix, "download")


def load_molecules(flags: Namespace) -> Molecules:
    """The molecules that flags ask for.

    Args:
        flags: with those of :func:`add_source_flags`.

    Raises:
        UsageError: there are none, or they are damaged.
    """
    source = source_of(flags)
    if source != "embedded" and flags.data_address is None:
        raise UsageError(f"--data_address: expected a path with --source {source}")
    if source in ("published", "arrays") and not Path(flags.data_address).is_file():
        raise UsageError(f"--data_address: {flags.data_address}: there is no such file")
    with blame("--data_address"):
        molecules = _read(source, flags)
    print(f"{source}: {molecules.summary}{NOTES.get(source, '')}")
    return molecules


def _read(source: str, flags: Namespace) -> Molecules:
    if source == "embedded":
        return sources.embedded()
    if source == "arrays":
        return sources.from_arrays(flags.data_address, flags.cache, progress=True)
    if source == "published":
        return sources.from_published(flags.data_address)
    return sources.from_download(flags.data_address, fetch=flags.source == "download", progress=True)


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
        model.fit(torch.from_numpy(dataset.targets), torch.from_numpy(dataset.molecules.num_atoms))


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
