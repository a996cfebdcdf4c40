"""The flags of the toy protein optimisation, and the presets of their defaults."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction

from utils.cli import count, positive
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags

QUICK = {
    "model": "SE3TransformerIterative", "num_layers": 1, "num_degrees": 2, "num_channels": 4, "num_iter": 3,
    "div": 2, "head": 1, "simid": "1x1", "siend": "att", "xij": "add", "basis_gradients": True, "k_neighbors": None,
    "edge_features": "potential",
    **TRAINING, "num_epochs": 10, "batch_size": 32, "lr": 1e-2, "warmup": 20, "clip_norm": 1.0, "seed": 54,
    "n_points": 10, "epoch_size": 2000, "num_valid": 500, "num_test": 1000,
    "gd_stepsize": 0.02, "gd_tolerance": 0.01, "gd_post_process": True, "num_runs": 1, "log_steps": True,
    **MACHINE,
    **RUN, "save_dir": "runs/toy_optimisation",
}  # fmt: skip
ITERATIVE = {
    **QUICK,
    "num_layers": 4, "num_degrees": 3,
    "num_epochs": 120, "epoch_size": 1000, "batch_size": 16, "lr": 2e-3, "warmup": 200, "clip_norm": 0.3,
    "ema": 0.99, "seed": 8, "num_valid": 200,
}  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "iterative": ITERATIVE,
    "no-basis-gradients": {**ITERATIVE, "basis_gradients": False},
    "single-pass": {**ITERATIVE, "num_iter": 1},
    "well": {**ITERATIVE, "edge_features": "well"},
    "published": {  # the published recipe: 500,000 graphs
        **ITERATIVE,
        "div": 1, "num_epochs": 100, "epoch_size": 5000, "batch_size": 128, "lr": 1e-3, "warmup": 0, "clip_norm": 1.0,
        "ema": None,
    },
}  # fmt: skip

FREE = {"gd_stepsize", "gd_tolerance", "gd_post_process", "num_runs", "num_test"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are this experiment's own."""
    add = parser.add_argument_group("model").add_argument
    add("--model", choices=("SE3TransformerIterative",), help="with --num_iter 1, an SE(3)-Transformer of one pass")
    add("--num_layers", type=count(1), help="attention layers in each block")
    add("--num_degrees", type=count(2), help="degrees 0 to NUM_DEGREES - 1")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--num_iter", type=count(1), help="blocks: how often the points move")
    add("--div", type=positive, help="what channels are divided by for keys and values")
    add("--head", type=count(1), help="attention heads")
    add("--simid", choices=("1x1", "att"), help="self-interaction of the middle layers")
    add("--siend", choices=("1x1", "att"), help="self-interaction of the last layer")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions")
    add("--basis_gradients", action=BooleanOptionalAction, help="let gradients flow through the equivariant basis")
    add("--k_neighbors", type=count(1), help="edges of largest potential that a point attends to (None: all)")

    add("--edge_features", choices=("potential", "well"),
        help="what layers see of an edge: V, or a, V and its derivatives V' and V''")  # fmt: skip

    add_training_flags(parser, "graphs")

    add = parser.add_argument_group("data").add_argument
    add("--n_points", type=count(2), help="points of a graph")
    add("--epoch_size", "--epoch_length", type=count(1), help="graphs in an epoch; every epoch has new ones")
    add("--num_valid", type=count(1), help="graphs that choose the best weights, always the same")
    add("--num_test", type=count(1), help="graphs to test on, always the same")

    add = parser.add_argument_group("evaluation").add_argument
    add("--gd_stepsize", type=positive, help="step size of gradient descent")
    add("--gd_tolerance", type=positive, help="it ends when no point goes as far as this times the step size")
    add("--gd_post_process", action=BooleanOptionalAction, help="also let it go on from where the model ends")
    add("--num_runs", type=count(1), help="independent test sets to take means over")
    add("--log_steps", action=BooleanOptionalAction, help="record the gradients that flow into every step")
