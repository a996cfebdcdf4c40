"""Compares two checkouts of this repository, in new processes that take turns: old, new, new, old, old, new, ...

python -m benchmarks.against OLD_FOLDER nbody qm9-bonded        how many times the time and memory of the old one
python -m benchmarks.against OLD_FOLDER all --rounds 10         with less noise
git worktree add OLD_FOLDER COMMIT                              makes a checkout of an older commit

Each process takes workloads and library from its own checkout, warms up by the steps whose memory it measures, and
times some more. What else happens on the machine meets both alike. Where ratios of single rounds lie on both sides of
1, there is no difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.selection import by_workload, named_cases
from utils.cli import UsageError, answer_help, run
from utils.config import Count
from utils.flags import read_as


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("old", type=Path, metavar="OLD_FOLDER", help="root of the old checkout; the new one is that of this program")
    add("workloads", nargs="+", type=named_cases, metavar="NAME", help="what to measure, NAME:CASE, or all")
    add("--rounds", type=read_as(Count), default=5, help="processes of each checkout for a step (default: 5)")
    add("--repeats", type=read_as(Count), default=5, help="how often a process times its step (default: 5)")
    add("--threads", type=read_as(Count), default=2, help="of the processor (default: 2)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

from benchmarks.memory import ROOT
from benchmarks.tables import duration, size, table
from benchmarks.workloads import WORKLOADS

OLD, NEW = "old", "new"
# Not a module: an older checkout has it not. The second step of a training is the first that finds gradients.
MEASURE = """
import json, statistics, sys
import torch
from benchmarks.measure import seconds_of
from benchmarks.memory import peak_memory
from benchmarks.steps import DEFAULT, Setup, build, make_step, warm_up
from benchmarks.workloads import WORKLOADS

spec = json.loads(sys.argv[1])
workload, case, mode = spec["step"]
found = None
if workload in WORKLOADS and case in WORKLOADS[workload].cases and mode in WORKLOADS[workload].modes:
    torch.set_num_threads(spec["threads"])
    setup = Setup(threads=spec["threads"], tiny=spec["tiny"])
    warm_up(setup, workload, case, DEFAULT, mode)
    step = make_step(*build(setup, workload, case), DEFAULT, mode)
    memory = peak_memory(step, "cpu", calls=2)["above"]
    times = [seconds_of(step, "cpu") for _ in range(spec["repeats"])]
    found = {"seconds": statistics.median(times), "bytes": max(memory, 1)}
print(json.dumps(found))
"""


def main(arguments: Sequence[str] | None = None, tiny: bool = False) -> list[dict[str, str]]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.
        tiny: measure workloads of tiny size, as the tests do.

    Returns:
        the lines of the table.

    Raises:
        UsageError: a flag is wrong, or there is no checkout where the old one should be.
    """
    flags = _parser().parse_args(arguments)
    old = flags.old.resolve()
    if not all((old / package / "__init__.py").is_file() for package in ("benchmarks", "equivariant_attention")):
        raise UsageError(f"OLD_FOLDER: expected the root of a checkout of this repository, got {flags.old}")
    spec = {"threads": flags.threads, "repeats": flags.repeats, "tiny": tiny}
    lines = []
    for workload, cases in by_workload(flags.workloads).items():
        for case in cases:
            for mode in WORKLOADS[workload].modes:
                rounds = _take_turns({OLD: old, NEW: ROOT}, spec | {"step": [workload, case, mode]}, flags.rounds)
                lines.append({"workload": workload, "case": case, "step": mode} | _compared(rounds))
                print(", ".join(filter(None, lines[-1].values())), file=sys.stderr, flush=True)
    print(table(lines))
    return lines


def _take_turns(folders: dict[str, Path], spec: dict[str, Any], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What every round has measured in each checkout; nothing in any, where one lacks the step."""
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in folders}
    for number in range(rounds):
        for name in list(folders)[:: 1 if number % 2 == 0 else -1]:
            found = _measure(folders[name], spec)
            if found is None:
                return {name: [] for name in folders}
            measured[name].append(found)
    return measured


def _measure(folder: Path, spec: dict[str, Any]) -> dict[str, Any] | None:
    """What a new process measures in a checkout; None where that lacks the step."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(spec)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    if process.returncode:
        raise RuntimeError(f"measuring {', '.join(spec['step'])} in {folder}:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def _compared(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """The figures of a line: medians over the rounds, their ratio, and the least and largest ratio of one round."""
    columns = ("old", "new", "× time", "in one round", "old memory", "new memory", "× memory")
    if not rounds[OLD]:
        return dict.fromkeys(columns, "") | {"old": "is not there"}
    old, new = (median(found["seconds"] for found in rounds[name]) for name in (OLD, NEW))
    before, after = (median(found["bytes"] for found in rounds[name]) for name in (OLD, NEW))
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(rounds[OLD], rounds[NEW], strict=True)]
    times = (duration(old), duration(new), f"{new / old:.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}")
    return dict(zip(columns, (*times, size(before), size(after), f"{after / before:.2f}"), strict=True))


if __name__ == "__main__":
    run(main)
