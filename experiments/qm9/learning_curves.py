"""Trains models of several properties on more and more molecules, each for as long, and compares their errors.

python experiments/qm9/learning_curves.py --data_address molecules.npz --output FOLDER --jobs 2

Every run is one of run.py, with the preset 'quick' and the flags of BUDGET, unless others are given here. No molecules
choose the best weights, so that those of the validation split may serve as a test. What is finished in FOLDER is not
trained again, and what was interrupted is gone on with.
"""

from __future__ import annotations

import itertools
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from experiments.qm9.targets import TARGETS
from utils.cli import Parser, answer_help, blame, run
from utils.config import Count
from utils.flags import read_as

SCALARS = [name for name, target in TARGETS.items() if target.kind == "number"]


def _size(text: str) -> int | None:
    return None if text == "all" else read_as(Count)(text)


_size.__name__ = "number of molecules"


def _parser() -> ArgumentParser:
    parser = Parser(__doc__, epilog="All other flags are those of run.py.")
    add = parser.add_argument
    add("--tasks", nargs="+", choices=SCALARS, default=["mu", "alpha", "gap", "lumo", "cv"])
    add("--models", nargs="+", choices=("SE3Transformer", "TFN"), default=["SE3Transformer", "TFN"])
    add("--sizes", nargs="+", type=_size, default=[500, 1000, 2000, None], help="molecules to train on, or all")
    add("--jobs", type=read_as(Count), default=1, help="runs at a time")
    add("--output", required=True, metavar="FOLDER", help="gets curves.csv, curves.png and the runs")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import torch
from tqdm import tqdm

from experiments.qm9 import run as qm9
from experiments.qm9.evaluation import BASELINES
from utils.files import make_folder, read_json
from utils.flags import free_fields
from utils.history import write_csv
from utils.plots import Figure, save_figure
from utils.runs import CONFIG, reconcile

BUDGET = ["--num_valid", "0", "--batch_size", "32", "--epoch_size", "1000", "--num_epochs", "32"]


class Study(NamedTuple):
    """One run.

    Attributes:
        task: name of the target.
        model: name of the model.
        size: molecules to train on; None for all.
        folder: of the run.
        words: of run.py's command line, without the folder.
    """

    task: str
    model: str
    size: int | None
    folder: Path
    words: list[str]


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the rows of curves.csv.

    Raises:
        UsageError: flags ask for what cannot be done, or contradict those of a run that is there.
    """
    flags, others = _parser().parse_known_args(arguments)
    with blame("--output"):
        folder = make_folder(flags.output)
    studies = list(plan(flags, folder, others))
    for study in studies:
        check(study)
    todo = [study for study in studies if not (study.folder / "metrics.json").exists()]
    for _ in tqdm(train_all(todo, flags.jobs), total=len(todo), unit=" runs", disable=None if todo else True):
        pass
    rows = [row_of(study) for study in studies]
    write_csv(folder / "curves.csv", rows)
    draw(rows, folder / "curves.png")
    print(f"{table(rows)}\n\neverything is in {folder}")
    return rows


def plan(flags: Namespace, folder: Path, others: list[str]) -> Iterator[Study]:
    """The runs, target by target.

    Args:
        flags: of this program.
        folder: gets a folder for each of them.
        others: words of the command line that are run.py's.
    """
    for task, model, size in itertools.product(flags.tasks, flags.models, flags.sizes):
        words = [*BUDGET, *others, "--task", task, "--model", model]
        words += [] if size is None else ["--num_train", str(size)]
        yield Study(task, model, size, folder / f"{task}_{model}_{size or 'all'}", words)


def check(study: Study) -> None:
    """Refuse a run before others are trained.

    Args:
        study: any.

    Raises:
        UsageError: run.py knows no such flags, or there is a run of others in its folder.
    """
    config, given = qm9.COMMAND_LINE.parse(study.words)
    if (study.folder / CONFIG).exists():
        with blame(f"--output: {study.folder}"):
            stored = read_json(study.folder / CONFIG)["flags"]
            reconcile(asdict(config), given, stored, free_fields(type(config)) - {"num_epochs"}, config.before())


def train_all(studies: Sequence[Study], jobs: int) -> Iterator[None]:
    """Do the runs, in any order; with several jobs, in processes of their own.

    Args:
        studies: what to do.
        jobs: how many at a time, which share the cores.
    """
    if jobs == 1 or not studies:
        yield from map(train, studies)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        try:
            yield from pool.map(train, studies)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def train(study: Study) -> None:
    """Do one run, or go on with it; what it prints is in its folder's log.txt.

    Args:
        study: any.
    """
    goes_on = (study.folder / CONFIG).exists()
    make_folder(study.folder)
    with open(study.folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        qm9.main([*study.words, "--resume" if goes_on else "--output", str(study.folder)])


def row_of(study: Study) -> dict[str, Any]:
    """What is told of a run that is finished.

    Args:
        study: any.
    """
    metrics = read_json(study.folder / "metrics.json")
    return {
        "task": study.task,
        "model": study.model,
        "num_train": metrics["train_molecules"],
        "unit": metrics["unit"],
        **metrics["test"],
        **{name: metrics[name] for name in ("molecules_seen", "parameters", "seconds_per_epoch")},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Errors as Markdown: a line per target and model, a column per number of molecules.

    Args:
        rows: of :func:`row_of`.
    """
    sizes = sorted({row["num_train"] for row in rows})
    lines = [["target", "", *(f"{size:,}" for size in sizes)], ["---"] * (2 + len(sizes))]
    for task, of_task in _by(rows, "task").items():
        by_model = _by(of_task, "model")
        of_lines = {model: {row["num_train"]: row["mae"] for row in its} for model, its in by_model.items()}
        for name, label in BASELINES.items():
            of_lines[label] = {row["num_train"]: row[f"mae_of_{name}"] for row in of_task}
        for label, errors in of_lines.items():
            cells = (_three_digits(errors[size]) if size in errors else "" for size in sizes)
            lines.append([f"{task} ({of_task[0]['unit']})", label, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the errors over the number of molecules, a panel per target.

    Args:
        rows: of :func:`row_of`.
        path: PNG file to write.
    """
    by_task = _by(rows, "task")
    figure = Figure(figsize=(3.2 * len(by_task), 3.2), layout="constrained")
    for number, (task, of_task) in enumerate(by_task.items(), start=1):
        title = f"{task} ({of_task[0]['unit']})"
        axes = figure.add_subplot(1, len(by_task), number, title=title, xscale="log", yscale="log")
        axes.set_xlabel("training molecules")
        for model, its_rows in _by(of_task, "model").items():
            axes.plot([row["num_train"] for row in its_rows], [row["mae"] for row in its_rows], "o-", label=model)
        sizes = [row["num_train"] for row in its_rows]  # baselines are the same whatever the model
        for style, (name, label) in zip(("--", ":"), BASELINES.items(), strict=True):
            axes.plot(sizes, [row[f"mae_of_{name}"] for row in its_rows], style, color="grey", label=label)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.set_xticks([], minor=True)
        if number == 1:
            axes.legend(fontsize="small")
    save_figure(figure, path)


def _by(rows: Sequence[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    return {value: [row for row in rows if row[key] == value] for value in dict.fromkeys(row[key] for row in rows)}


if __name__ == "__main__":
    run(main)
