"""The flags of the n-body experiment, and the presets of their defaults."""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from utils.cli import count, none_or_text, positive
from utils.flags import MACHINE, RUN, TRAINING, add_training_flags

QUICK = {
    "model": "SE3Transformer", "num_layers": 2, "num_degrees": 3, "num_channels": 8, "div": 2, "head": 2,
    "simid": "1x1", "siend": "att", "xij": "add", "num_steps": 4,
    **TRAINING, "num_epochs": 30, "batch_size": 64, "lr": 3e-3, "clip_norm": 1.0,
    "ri_data_type": "charged", "n_balls": 5, "walls": True, "stream": "own", "data_seed": None,
    "num_train": 2000, "num_valid": 300, "num_test": 500,
    "ri_delta_t": 5, "ri_burn_in": 0, "ri_start_at": "all", "sample_freq": None, "targets": "both", "mirror": False,
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
INTEGRATOR = {
    "model": "SE3Integrator", "num_layers": 1, "num_degrees": 2, "num_channels": 32, "num_steps": 4,
    "num_epochs": 30, "batch_size": 50, "lr": 5e-3, "warmup": 100, "clip_norm": 1.0, "weight_decay": 0.01,
    "ema": 0.99, "mirror": True,
}  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "paper": PAPER,  # 1000 steps of the simulation, as the published command and Table 1's figures say
    "paper-500": {**PAPER, "ri_delta_t": 5},  # 500 steps, as the paper's text says
    "integrator": {**PAPER, **INTEGRATOR, "data_seed": 42},  # the task of "paper", another model
    "egnn": {  # the variant of EGNN (arXiv 2102.09844): frames 30 to 40 of a simulation without walls
        **PAPER, **INTEGRATOR,
        "walls": False, "stream": "egnn", "data_seed": 43, "ri_burn_in": 30, "targets": "positions",
    },
}  # fmt: skip

FREE = {"data", "evaluate", "evaluate_delta_t", "evaluate_sample_freq"}


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags that are n-body's own."""
    add = parser.add_argument_group("model").add_argument
    add("--model", choices=("SE3Transformer", "TFN", "SE3Integrator"))
    add("--num_layers", type=count(1), help="layers (SE3Transformer: in the middle)")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1 in the middle")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--div", type=positive, help="what channels are divided by for keys and values (SE3Transformer)")
    add("--head", type=count(1), help="attention heads (SE3Transformer)")
    add("--simid", choices=("1x1", "att"), help="self-interaction of the middle layers (SE3Transformer)")
    add("--siend", choices=("1x1", "att"), help="self-interaction of the last layer (SE3Transformer)")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions (SE3Transformer)")
    add("--num_steps", type=count(1), help="steps to the horizon, each with layers of its own (SE3Integrator)")

    add_training_flags(parser, "trajectories")

    add = parser.add_argument_group("data").add_argument
    add("--ri_data_type", choices=("charged", "springs"), help="what is simulated")
    add("--n_balls", type=count(2), help="particles of a simulated system")
    add("--walls", action=BooleanOptionalAction, help="simulate in a box")
    add("--stream", choices=("own", "egnn"), help="random numbers of the simulation: own, or those of EGNN's data")
    add("--data_seed", type=count(0), help="seed of the simulation (None: as --seed)")
    add("--num_train", type=count(1), help="simulated trajectories to train on")
    add("--num_valid", type=count(1), help="simulated trajectories that choose the best weights")
    add("--num_test", type=count(1), help="simulated trajectories to test on")
    add("--ri_delta_t", type=count(1), help="frames between input and target")
    add("--ri_burn_in", type=count(0), help="frames at the beginning never to start from")
    add("--ri_start_at", choices=("zero", "all"), help="start from the first frame, or from any")
    add("--sample_freq", type=count(1), help="simulation steps between frames (None: 100, or what the files say)")
    add("--targets", choices=("both", "positions"), help="learn positions and velocities, or positions alone")
    add("--mirror", action=BooleanOptionalAction, help="train on mirror images as well")
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
        simulated = ("n_balls", "walls", "stream", "data_seed", "num_train", "num_valid", "num_test")
        idle |= dict.fromkeys(simulated, "with --ri_data")
    if flags.model == "SE3Integrator":
        idle |= dict.fromkeys(("div", "head", "simid", "siend", "xij"), "with --model SE3Integrator")
    else:
        idle["num_steps"] = f"with --model {flags.model}"
    if flags.evaluate is None:
        idle |= dict.fromkeys(("evaluate_delta_t", "evaluate_sample_freq"), "without --evaluate")
    return idle
