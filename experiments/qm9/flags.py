"""The flags of QM9's programs, and the presets of their defaults."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path
from typing import Any

from experiments.qm9.targets import TARGETS
from utils.cli import count, positive
from utils.flags import MACHINE, RUN, TRAINING, add_machine_flags, add_training_flags

# What other modules have by these names imports PyTorch, which a help page need not wait for.
MODELS = ("SE3Transformer", "TFN", "SE3TransformerPooled", "SE3TransformerResidual")
NONLINEARITIES = ("norm", "gate")

MODERN = {"ema": 0.999, "warmup": 500, "clip_norm": 1.0, "weight_decay": 1e-5}
PAPER = {
    "model": "SE3Transformer", "num_layers": 7, "num_degrees": 4, "num_channels": 32, "nonlinearity": "norm",
    "num_nlayers": 0, "div": 2,
    "head": 8, "pooling": "max", "fully_connected": False, "cutoff": None, "envelope": None, "per_atom": False,
    **TRAINING, "num_epochs": 100, "batch_size": 32, "lr": 1e-3,
    "task": "homo", "source": "qm9pack", "data_address": "data/qm9", "cache": "data/qm9/bonds", "test_ids": None,
    "num_train": None, "num_valid": None, "epoch_size": None, "rotate": False,
    **MACHINE,
    **RUN, "save_dir": "runs/qm9", "log_interval": 25, "print_interval": 25,
}  # fmt: skip
PRESETS = {
    "quick": {
        **PAPER, **MODERN,
        "num_layers": 3, "num_degrees": 3, "num_channels": 8, "nonlinearity": "gate",
        "head": 2, "pooling": "avg", "per_atom": True,
        "num_epochs": 60, "batch_size": 16, "lr": 3e-3, "ema": 0.99, "warmup": 50,
        "task": "atomisation", "source": "auto", "data_address": None,
    },
    "homo": {
        **PAPER, **MODERN,
        "model": "SE3TransformerResidual", "num_layers": 6, "num_degrees": 2, "num_channels": 96, "head": 4,
        "num_epochs": 900, "batch_size": 64, "lr": 2e-3, "lr_final": 0.02, "beta2": 0.99,
        "epoch_size": 10_000, "num_valid": 2_000,
    },
    "small": {
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


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are QM9's own."""
    add = parser.add_argument_group("model").add_argument
    add("--model", choices=MODELS)
    add("--num_layers", type=count(1), help="layers in the middle")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1 in the middle")
    add("--num_channels", type=count(1),
        help="channels per degree (SE3TransformerResidual: scalars; of other degrees a quarter)")  # fmt: skip
    add("--nonlinearity", choices=NONLINEARITIES, help="between layers: as published, or smooth")
    add("--num_nlayers", type=count(0), help="linear layers in each norm nonlinearity (TFN)")
    add("--div", type=positive, help="what channels are divided by for keys and values (SE3Transformer)")
    add("--head", type=count(1), help="attention heads (not TFN)")
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
    add(
        "--rotate",
        action=BooleanOptionalAction,
        help="turn training molecules at random, of which models here learn nothing: they are equivariant",
    )


class Address(argparse.Action):
    """Where molecules come from, of a source that is told by it unless one is named."""

    def __call__(self, parser: ArgumentParser, namespace: Namespace, values: Any, *_: Any) -> None:
        setattr(namespace, self.dest, values)
        if not hasattr(namespace, "source"):
            namespace.source = "auto"


def add_source_flags(parser: ArgumentParser) -> None:
    """Add the flags that say where molecules come from.

    Args:
        parser: gets them.
    """
    add = parser.add_argument_group("source").add_argument
    add("--source", choices=("auto", "embedded", "qm9pack", "download", "published", "arrays"),
        help="the project's own few molecules; QM9, of the package qm9pack, or downloaded to a folder; the published "
        "QM9_data.pt; an .npz of ragged arrays (auto, also where DATA_ADDRESS alone is given: what that looks like; a "
        "folder has QM9 already)")  # fmt: skip
    add("--data_address", metavar="PATH", action=Address, help="of that file or folder (None: embedded)")
    add("--cache", metavar="FOLDER", help="where qm9pack, once read, and bonds perceived of arrays are kept")
    add("--test_ids", metavar="FILE",
        help="an .npz of numbers in QM9, whose molecules alone are the test split (None: that of SOURCE)")  # fmt: skip


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
    if flags.model == "SE3TransformerResidual":
        idle |= dict.fromkeys(("div", "pooling", "nonlinearity", "per_atom"), f"with --model {flags.model}")
    if flags.nonlinearity == "gate":
        idle["num_nlayers"] = "with --nonlinearity gate"
    if TARGETS[flags.task].vector:
        idle["pooling"] = f"with --task {flags.task}"
    if not TARGETS[flags.task].grows:
        idle["per_atom"] = f"with --task {flags.task}, which does not grow with the molecule"
    source = source_of(flags)
    if source in ("embedded", "qm9pack"):
        idle["data_address"] = f"with --source {source}"
    if source not in ("arrays", "qm9pack"):
        idle["cache"] = "unless bonds are perceived, with --source arrays or qm9pack"
    return idle


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


def trained_parser(description: str) -> ArgumentParser:
    """A parser with --checkpoint and the flags of the machine, which are those of the training unless given.

    Args:
        description: first lines of the help.
    """
    parser = ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="best.pt of a run")
    add_machine_flags(parser)
    return parser
