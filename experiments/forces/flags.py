"""The flags of the forces experiment, on clusters and on structures of one's own, and their defaults."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from utils.cli import count, positive
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags

# What the library has by these names imports PyTorch, which a help page need not wait for.
NONLINEARITIES = ("norm", "gate")
RADIAL_BASES = ("bessel", "gaussian")

CLUSTERS = {
    "num_layers": 2, "num_degrees": 3, "num_channels": 8, "div": 2, "head": 2, "xij": "none", "cutoff": 2.5,
    **TRAINING, "num_epochs": 8, "batch_size": 16, "lr": 5e-3, "clip_norm": 1.0,
    "data": None, "atoms": 8, "num_train": 768, "num_valid": 64, "num_test": 128, "md_steps": 500, "md_timestep": 0.5,
    **MACHINE,
    **RUN, "save_dir": "runs/forces",
}  # fmt: skip
FRAMES = {
    "channels": "16,8,8", "num_layers": 0, "div": 4, "head": 1, "xij": "none", "cutoff": 5.0, "radial_basis": "bessel",
    "num_radial": 8, "activation": "relu", "nonlinearity": "gate",
    **TRAINING, "num_epochs": 100, "batch_size": 5, "lr": 2e-2, "warmup": 20, "clip_norm": 5.0, "ema": 0.99,
    "data": None, "valid": None, "test": None, "energy_weight": 10.0, "forces_weight": 1.0, "stress_weight": 10.0,
    **MACHINE,
    **RUN, "save_dir": "runs/forces",
}  # fmt: skip
OWN_DATA = """Trains a potential on structures with energies and forces, and ends with a file for ASE's calculator.

python experiments/forces/run.py --data my.extxyz                      a tenth of the structures choose the weights
python experiments/forces/run.py --data my.extxyz --valid other.extxyz --test third.extxyz --cutoff 6
python experiments/forces/run.py --resume FOLDER                       goes on with an interrupted run
"""


def add_cluster_flags(parser: ArgumentParser) -> None:
    """Add the flags of training on Morse clusters."""
    add = parser.add_argument_group("model").add_argument
    add("--num_layers", type=count(1), help="attention layers")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--div", type=positive, help="what channels are divided by for keys and values")
    add("--head", type=count(1), help="attention heads")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions")
    add("--cutoff", type=positive, help="how far edges reach; they end smoothly")

    add_training_flags(parser, "clusters")

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="FILE", help="train on these structures instead; --data FILE --help lists the flags for that")
    add("--atoms", type=count(2), help="atoms in a cluster")
    add("--num_train", type=count(1), help="clusters to train on")
    add("--num_valid", type=count(1), help="clusters that choose the best weights")
    add("--num_test", type=count(1), help="clusters to test on")
    add("--md_steps", type=count(1), help="steps of molecular dynamics after the training")
    add("--md_timestep", type=positive, help="of the dynamics, in femtoseconds")


def add_frame_flags(parser: ArgumentParser) -> None:
    """Add the flags of training on structures of one's own."""
    add = parser.add_argument_group("model").add_argument
    add("--channels", type=channels, help="of degrees 0, 1, ..., between the layers")
    add("--num_layers", type=count(0), help="attention layers upon the densities; with some, several times slower")
    add("--div", type=positive, help="what channels are divided by for keys and values")
    add("--head", type=count(1), help="attention heads")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions")
    add("--cutoff", type=positive, help="how far edges reach, in Å; they end smoothly")
    add("--radial_basis", choices=RADIAL_BASES, help="what radial networks see beside the distance")
    add("--num_radial", type=count(2), help="functions in it")
    add("--activation", choices=("relu", "silu"), help="of the radial networks (silu: smooth, and many times slower)")
    add("--nonlinearity", choices=NONLINEARITIES, help="between the layers")

    add_training_flags(parser, "structures")
    add = parser.add_argument_group("loss, of errors in eV and Å, squared").add_argument
    add("--energy_weight", type=positive, help="of energies, per atom")
    add("--forces_weight", type=positive, help="of forces, per coordinate")
    add("--stress_weight", type=positive, help="of stresses times the volume, per atom and component")

    add = parser.add_argument_group("data").add_argument
    add("--data", metavar="FILE", help="structures to train on, of any format that ASE reads, such as extxyz")
    add("--valid", metavar="FILE", help="structures that choose the best weights (None: a tenth of DATA, drawn)")
    add("--test", metavar="FILE", help="structures to test on (None: those of --valid, which then are no test)")


def channels(text: str) -> str:
    """Check channels of degrees 0, 1, ..., such as '16,8,4', for argparse's ``type``.

    Args:
        text: the word of the command line.

    Raises:
        argparse.ArgumentTypeError: they are not whole numbers of at least 2.
    """
    if not all(part.isascii() and part.isdecimal() and int(part) >= 2 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected channels of degrees 0, 1, ..., such as 16,8,4, got {text}")
    return text


def has_own_data(words: Sequence[str]) -> bool:
    """Whether a command line is for structures of one's own: it names them, or a run that does.

    Args:
        words: of the command line.
    """
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name, _, given = word.partition("=")
        if name == "--data":
            return True
        if name == "--resume":
            from utils.files import read_json  # and PyTorch with it
            from utils.runs import CONFIG

            try:
                return read_json(Path(given or value) / CONFIG)["flags"].get("data") is not None
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                return False  # what is wrong with it, says whoever resumes it
    return False
