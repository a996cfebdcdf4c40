"""Writes simulated training, validation and test sets in the published format.

    python -m experiments.nbody.generate_dataset --simulation charged --num-train 3000 --n-balls 5

Each of ds_train_NAME.pkl, ds_valid_NAME.pkl and ds_test_NAME.pkl is a pickled dict of NumPy arrays and numbers:
'points' and 'vel' [simulations, frames, dim, n], 'edges' (also under the name 'E') [simulations, n, n],
'charges' [simulations, n, 1], 'sample_freq' and 'delta_T'.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.nbody.simulation import SPREAD
from utils.cli import Parser, UsageError, answer_help, blame, run


def _parser() -> Parser:
    parser = Parser(
        "Simulate charged particles or springs and write training, validation and test sets.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--simulation", choices=sorted(SPREAD), default="charged", help="what acts between the particles")
    add("--num_train", "--num-train", type=int, default=3000, help="trajectories for training")
    add("--num_valid", "--num-valid", type=int, default=1000, help="trajectories for validation")
    add("--num_test", "--num-test", type=int, default=1000, help="trajectories for testing")
    add("--length", type=int, default=5000, help="steps of a trajectory")
    add("--length_test", "--length-test", type=int, default=None, help="steps of a test trajectory (None: as --length)")
    add(
        "--sample_freq",
        "--sample-freq",
        type=int,
        default=100,
        help="steps from one frame to the next; divides the lengths",
    )
    add("--n_balls", "--n-balls", type=int, default=5, help="particles")
    add("--seed", type=int, default=42, help="random seed; each split has its own numbers")
    add("--dim", type=int, default=3, help="dimensions, 2 or 3")
    add("--boxsize", type=float, default=5.0, help="half-width of the box; 0 for none")
    add("--name", default=None, help="ending of the file names (None: simulation and particles, as in charged5)")
    add("--output", type=Path, default=Path("."), help="folder to write to")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

from experiments.nbody.simulation import SPLITS, Settings, Trajectories, check_count, seed_of, simulate
from utils.files import atomic_write, make_folder


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the paths of the three files written.

    Raises:
        UsageError: a flag, named, is out of range, or the files cannot be written.
        FloatingPointError: as in :func:`simulate`.
    """
    flags = _parser().parse_args(arguments)
    name = f"{flags.simulation}{flags.n_balls}" if flags.name is None else flags.name
    sizes = {"train": flags.num_train, "valid": flags.num_valid, "test": flags.num_test}
    # All that can be wrong is found out before the first simulation.
    if not name or Path(name).name != name:
        raise UsageError(f"--name: expected part of a file name, got {name!r}")
    with blame("--seed", seed="--seed", **{f"num_{split}": f"--num-{split}" for split in SPLITS}):
        check_count("seed", flags.seed, least=0)
        for split in SPLITS:
            check_count(f"num_{split}", sizes[split])
    settings = {split: _settings(flags, split) for split in SPLITS}
    paths = {split: flags.output / f"ds_{split}_{name}.pkl" for split in SPLITS}
    with blame("--output"):
        make_folder(flags.output)
        if taken := [str(path) for path in paths.values() if path.is_dir()]:
            raise UsageError(f"expected places for files, got the folders {taken}")

    sets = {
        split: simulate(settings[split], sizes[split], seed_of(flags.seed, split), progress=sys.stderr.isatty())
        for split in SPLITS
    }
    with blame("--output"):  # together, so that an interruption leaves no mixture of new and old sets
        for split, trajectories in sets.items():
            write_published(paths[split], trajectories)
    print("Wrote " + ", ".join(map(str, paths.values())))
    return list(paths.values())


def _settings(flags: argparse.Namespace, split: str) -> Settings:
    for_test = split == "test" and flags.length_test is not None
    names = {"n_balls": "--n-balls", "dim": "--dim", "box_size": "--boxsize", "sample_freq": "--sample-freq"}
    with blame("--simulation", length="--length-test" if for_test else "--length", **names):
        length = flags.length_test if for_test else flags.length
        return Settings(flags.simulation, flags.n_balls, flags.dim, flags.boxsize, length, flags.sample_freq)


def write_published(path: Path, trajectories: Trajectories) -> None:
    """Write trajectories as a pickled dict in the published layout, atomically.

    Args:
        path: file to write.
        trajectories: what to write.
    """
    content = {
        "points": trajectories.loc,
        "vel": trajectories.vel,
        "E": trajectories.edges,
        "edges": trajectories.edges,
        "charges": trajectories.charges,
        "sample_freq": trajectories.sample_freq,
        "delta_T": trajectories.dt,
    }
    with atomic_write(path) as file:
        pickle.dump(content, file, protocol=4)


if __name__ == "__main__":
    run(main)
