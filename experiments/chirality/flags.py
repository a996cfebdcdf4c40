"""The flags of the chirality experiment, and the presets of their defaults."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from utils.cli import count, positive
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags

QUICK = {
    "num_layers": 3, "num_degrees": 2, "num_channels": 16, "div": 2, "head": 4,
    **TRAINING, "num_epochs": 20, "batch_size": 64, "lr": 5e-3, "warmup": 20, "clip_norm": 1.0, "ema": 0.98,
    "molecules": None, "num_molecules": None, "conformers": 8, "data": "data/chirality",
    **MACHINE,
    **RUN, "save_dir": "runs/chirality",
}  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "distances": {**QUICK, "num_degrees": 1},  # all that it knows of space
}

FREE = {"data"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are this experiment's own."""
    add = parser.add_argument_group("model").add_argument
    add("--num_layers", type=count(1), help="attention layers")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1; 1: distances alone")
    add("--num_channels", type=count(2), help="channels per degree")
    add("--div", type=positive, help="what channels are divided by for keys and values")
    add("--head", type=count(1), help="attention heads")

    add_training_flags(parser, "molecules")

    add = parser.add_argument_group("data").add_argument
    add("--molecules", metavar="FILE",
        help="an .npz with N, Z, R and maybe validation (None: molecules that RDKit puts into space)")  # fmt: skip
    add("--num_molecules", type=count(1), help="how many to look at (None: all)")
    add("--conformers", type=count(1), help="of each molecule that RDKit puts into space")
    add("--data", metavar="FOLDER", help="where labels are kept")


def idle_flags(flags: Namespace) -> dict[str, str]:
    """The flags that have no effect, and why.

    Args:
        flags: every flag.
    """
    return {} if flags.molecules is None else {"conformers": "with --molecules"}
