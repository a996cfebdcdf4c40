"""Puts finished runs side by side: their table, their learning curves, and what is worth keeping of each.

python -m experiments.toy_optimisation.collect RUN ... --output FOLDER

FOLDER gets table.md, learning_curves.png, and a folder of the name of each RUN with its configuration, curve, figures
and pictures. Weights stay where they are.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.cli import Parser, UsageError, answer_help, blame, run


def _parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of a finished run")
    parser.add_argument("--output", metavar="FOLDER", required=True, type=Path)
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

from utils.files import atomic_write, read_json, write_json
from utils.plots import Figure, save_figure
from utils.runs import CONFIG, without_places

KEPT = (
    "config.json", "metrics.csv", "metrics.json",
    "pictures/animation.gif", "pictures/energy.png", "pictures/attention.png",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Raises:
        UsageError: a run is not there, not finished, or would be written over.
    """
    flags = _parser().parse_args(arguments)
    for folder in flags.runs:
        if missing := [name for name in KEPT if not (folder / name).is_file()]:
            raise UsageError(f"{folder}: expected a finished run, without {missing[0]}")
    copies = {(flags.output / folder.name).resolve(): folder for folder in flags.runs}
    if len(copies) < len(flags.runs):
        raise UsageError(f"RUN: expected folders of different names, got {' '.join(map(str, flags.runs))}")
    for copy in copies:
        if copy in {folder.resolve() for folder in flags.runs}:
            raise UsageError(f"--output {flags.output}: {copy.name} there is a run, whose files would be lost")
    metrics = {folder.name: read_json(folder / "metrics.json") for folder in flags.runs}
    with blame("--output"):
        with atomic_write(flags.output / "table.md", "w") as file:
            file.write(table(metrics))
        learning_curves({folder.name: folder / "metrics.csv" for folder in flags.runs}, metrics, flags.output)
        for folder in flags.runs:
            for name in KEPT:
                keep(folder / name, flags.output / folder.name / Path(name).name)
    print(table(metrics))


def keep(source: Path, target: Path) -> None:
    """Copy a file of a run; config.json without places on its machine.

    Args:
        source: the file.
        target: where to.
    """
    if source.name == CONFIG:
        config = read_json(source)
        write_json(target, {**config, "flags": without_places(config["flags"])})
    else:
        with atomic_write(target) as file:
            file.write(source.read_bytes())


def table(metrics: dict[str, dict[str, Any]]) -> str:
    """The energies that runs reach, as a table in Markdown.

    Args:
        metrics: of every run, by its name.
    """
    lines = ["| | energy | followed by gradient descent | epochs | seconds per epoch |", "|---|---|---|---|---|"]
    for name, of_run in metrics.items():
        network, both = (_energy(of_run, key) for key in ("network", "network + gradient descent"))
        lines.append(f"| {name} | {network} | {both} | {of_run['epochs']} | {of_run['seconds_per_epoch']:.0f} |")
    first = next(iter(metrics.values()))
    lines.append(f"| gradient descent | {_energy(first, 'gradient descent')} | | | |")
    lines.append(f"| start | {_energy(first, 'start')} | {_energy(first, 'gradient descent')} | | |")
    return "\n".join(lines) + "\n"


def _energy(metrics: dict[str, Any], optimiser: str) -> str:
    row = metrics["test"].get(optimiser)
    return f"{row['energy']:.4f} ± {row['standard_error']:.4f}" if row else ""


def learning_curves(curves: dict[str, Path], metrics: dict[str, dict[str, Any]], folder: Path) -> None:
    """Draw the validation energies of runs over the epochs, next to that of gradient descent.

    Args:
        curves: metrics.csv of every run, by its name.
        metrics: of every run, by its name.
        folder: gets learning_curves.png.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="energy", yscale="log")
    for name, path in curves.items():
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        axes.plot([int(row["epoch"]) for row in rows], [float(row["valid_loss"]) for row in rows], label=name)
    descent = next(iter(metrics.values()))["test"]["gradient descent"]["energy"]
    axes.axhline(descent, linestyle="--", color="grey", label="gradient descent")
    axes.legend()
    save_figure(figure, folder / "learning_curves.png")


if __name__ == "__main__":
    run(main)
