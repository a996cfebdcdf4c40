"""Flags that every experiment has, and what they are unless a preset says otherwise."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.cli import NO_RECIPES, Presets, count, fraction, make_parser, positive

MOST_WORKERS = 256  # flags may come from a file of another, and each is a process

TRAINING: dict[str, Any] = {
    "num_epochs": 100, "batch_size": 64, "lr": 1e-3, "lr_final": 0.1, "warmup": 0, "beta2": 0.999, "clip_norm": None,
    "weight_decay": None, "ema": None, "seed": 42, "restore": None,
}  # fmt: skip
MACHINE: dict[str, Any] = {"device": "auto", "graph": "auto", "precision": "32-true", "num_workers": 0}
RUN: dict[str, Any] = {
    "name": None, "save_dir": "runs", "output": None, "resume": None, "forward": False, "profile": False,
    "log_interval": 10, "print_interval": 5, "tensorboard": False, "wandb": False,
}  # fmt: skip

# What may differ when a run is resumed: it changes how, how long or how visibly, but not what is trained.
FREE = {
    "resume", "num_epochs", "device", "num_workers", "log_interval", "print_interval", "forward", "profile",
    "tensorboard", "wandb",
}  # fmt: skip


def experiment_parser(
    description: str, presets: Presets, add_flags: Callable[[ArgumentParser], None], recipes: Presets = NO_RECIPES
) -> ArgumentParser:
    """The parser of an experiment's command line, for :func:`utils.cli.parse`.

    Args:
        description, presets, recipes: see :func:`utils.cli.make_parser`.
        add_flags: adds the experiment's own flags.
    """
    parser = make_parser(description, presets, recipes)
    add_flags(parser)
    add_machine_flags(parser)
    add_run_flags(parser)
    return parser


def add_training_flags(parser: ArgumentParser, samples: str) -> None:
    """Add the flags of ``TRAINING``.

    Args:
        parser: gets them.
        samples: what the data consist of, in the plural, for the help.
    """
    add = parser.add_argument_group("training").add_argument
    add("--num_epochs", type=count(1), help=f"passes over the training {samples}")
    add("--batch_size", type=count(1), help=f"{samples} in a batch (of each process, where torchrun starts several)")
    add("--lr", type=positive, help="learning rate of Adam at the start, from where it falls along a cosine")
    add("--lr_final", type=fraction, help="where it ends, as a fraction of the start")
    add("--warmup", type=count(0), help="steps before that in which the learning rate rises linearly")
    add("--beta2", type=fraction, help="decay per step of Adam's average of squared gradients")
    add("--clip_norm", type=positive, help="largest norm of a gradient (None: any)")
    add("--weight_decay", type=positive, help="decoupled decay of the weights, as in AdamW (None: none)")
    add("--ema", type=fraction, help="evaluate and keep a moving average of the weights, with this decay (None: none)")
    add("--seed", type=count(0), help="of data, initial weights and batches")
    add("--restore", metavar="FILE", help="weights to start from: a checkpoint, published ones included")


def add_machine_flags(parser: ArgumentParser) -> None:
    """Add the flags of ``MACHINE``.

    Args:
        parser: gets them.
    """
    add = parser.add_argument_group("machine").add_argument
    add("--device", help="auto, cpu, cuda or cuda:N")
    add("--graph", choices=("auto", "dgl", "own"), help="graph class (auto: DGL on a CPU where it is installed)")
    add("--precision", choices=("32-true", "tf32", "bf16-mixed", "64-true"))
    add("--num_workers", type=count(0, MOST_WORKERS), help="processes that prepare batches")


def add_run_flags(parser: ArgumentParser) -> None:
    """Add the flags of ``RUN``.

    Args:
        parser: gets them.
    """
    add = parser.add_argument_group("run").add_argument
    add("--name", help="of the run (None: the preset's)")
    add("--save_dir", metavar="FOLDER", help="a run's folder is SAVE_DIR/NAME, or SAVE_DIR/NAME-2, ... if it exists")
    add("--output", metavar="FOLDER", help="the run's folder itself, without a run in it so far")
    add("--resume", metavar="FOLDER", help="go on with the run in this folder, with its own flags")
    add(
        "--forward",
        action=BooleanOptionalAction,
        help="evaluate without training: the weights of --restore, or the best ones of --resume",
    )
    add(
        "--profile",
        action=BooleanOptionalAction,
        help="write a profile of a few training steps, then stop without training",
    )
    add("--log_interval", type=count(1), help="steps between rows of steps.csv")
    add("--print_interval", type=count(1), help="steps between refreshings of the progress bar")
    add("--tensorboard", action=BooleanOptionalAction, help="also log to TensorBoard")
    add("--wandb", action=BooleanOptionalAction, help="also log to Weights & Biases")


def without_places(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of a run for others, to whom it says nothing where on its machine files were: absolute paths become None.

    Args:
        flags: of the run.
    """
    return {
        name: None if isinstance(value, str) and Path(value).is_absolute() else value for name, value in flags.items()
    }
