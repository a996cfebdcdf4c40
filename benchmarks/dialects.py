"""Times networks of proteins in both dialects, as published and as NVIDIA's package has them, in turn in one process.

python -m benchmarks.dialects                  protein and protein-full, with every layout of radial networks
python -m benchmarks.dialects --repeats 20     with less noise
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from statistics import median

from utils.cli import answer_help, run
from utils.config import Count
from utils.flags import read_as

# What NVIDIA's package is given, by the layout that this leads to.
LAYOUTS: dict[str, dict[str, bool]] = {
    "NVIDIA's": {},
    "tensor_cores": {"tensor_cores": True},
    "low_memory": {"low_memory": True},
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dialects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--repeats", type=read_as(Count), default=10, help="how often a step is timed (default: 10)")
    parser.add_argument("--threads", type=read_as(Count), default=2, help="of the processor (default: 2)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import torch

from benchmarks.measure import take_turns, where_measured
from benchmarks.steps import DEFAULT, make_step
from benchmarks.tables import duration, table
from benchmarks.workloads import FORWARD, TRAINING, in_nvidias_dialect, protein, protein_full

WORKLOADS = {"protein": protein, "protein-full": protein_full}


def main(arguments: Sequence[str] | None = None, tiny: bool = False) -> list[dict[str, str]]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.
        tiny: measure workloads of tiny size, as the tests do.

    Returns:
        the lines of the table.
    """
    flags = _parser().parse_args(arguments)
    torch.set_num_threads(flags.threads)
    lines = []
    for name, build in WORKLOADS.items():
        builds = {"published": build} | {
            layout: partial(in_nvidias_dialect, build=build, **options) for layout, options in LAYOUTS.items()
        }
        for mode in (FORWARD, TRAINING):
            torch.manual_seed(0)
            steps = {kind: make_step(*made(tiny), DEFAULT, mode) for kind, made in builds.items()}
            times = {kind: median(t) for kind, t in take_turns(steps, "cpu", flags.repeats).items()}
            line = {"workload": name, "step": mode}
            for kind, seconds in times.items():
                line[kind] = duration(seconds)
                if kind != "published":
                    line[f"{kind} ×"] = f"{seconds / times['published']:.2f}"
            lines.append(line)
    print(table(lines))
    print(f"\n{where_measured(flags.threads, tiny)}")
    return lines


if __name__ == "__main__":
    run(main)
