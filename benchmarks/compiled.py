"""Times steps of a model as it is and compiled by torch.compile, in turn in one process.

python -m benchmarks.compiled                          nbody and qm9-bonded
python -m benchmarks.compiled qm9-dense --repeats 40   another workload, with less noise
python -m benchmarks.compiled --compiler aot_eager     without code of the compiler's own

A step is called before it is timed, which compiles it. Where the ratios of single turns lie on both sides of 1, there
is no difference.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median

from benchmarks.selection import by_workload, named_cases
from utils.cli import answer_help, run
from utils.config import Count
from utils.flags import read_as

DEFAULTS = ("nbody", "qm9-bonded")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, names = parser.add_argument, " and ".join(DEFAULTS)
    add("workloads", nargs="*", type=named_cases, metavar="NAME", help=f"NAME:CASE, or all (default: {names})")
    add("--compiler", default="inductor", choices=("inductor", "aot_eager", "eager"), help="(default: %(default)s)")
    add("--repeats", type=read_as(Count), default=20, help="how often a step is timed (default: 20)")
    add("--threads", type=read_as(Count), default=2, help="of the processor (default: 2)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import torch

from benchmarks.measure import take_turns, where_measured
from benchmarks.steps import DEFAULT, Setup, build, make_step
from benchmarks.tables import duration, table
from benchmarks.workloads import FORWARD, TRAINING


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
    setup, lines = Setup(threads=flags.threads, tiny=tiny), []
    for workload, cases in by_workload(flags.workloads or [*map(named_cases, DEFAULTS)]).items():
        for case in cases:
            for mode in (FORWARD, TRAINING):
                model, graph = build(setup, workload, case)
                torch.compiler.reset()
                compiled = torch.compile(model, backend=flags.compiler, fullgraph=True)
                eager, step = (make_step(each, graph, DEFAULT, mode) for each in (model, compiled))
                step()  # which compiles it, and may take minutes
                times = take_turns({"eager": eager, "compiled": step}, "cpu", flags.repeats)
                lines.append({"workload": workload, "case": case, "step": mode} | _compared(**times))
    print(table(lines))
    print(f"\n{where_measured(flags.threads, tiny)}")
    return lines


def _compared(eager: Sequence[float], compiled: Sequence[float]) -> dict[str, str]:
    """The figures of a line: both medians, their ratio, and the least and largest ratio of one turn."""
    ratios = [b / a for a, b in zip(eager, compiled, strict=True)]
    return {
        "eager": duration(median(eager)),
        "compiled": duration(median(compiled)),
        "× time": f"{median(compiled) / median(eager):.3f}",
        "in one turn": f"{min(ratios):.3f} to {max(ratios):.3f}",
    }


if __name__ == "__main__":
    run(main)
