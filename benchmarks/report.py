"""Writes docs/measurements.md, and the pictures beside it, from what was measured.

python -m benchmarks.report benchmarks/results/speed/DATE_cpu.json ...

A result of one backend gives every workload its section; of several results, the last that has it. All of them are
judged by the goals. A result of several backends gives a table that compares these with each other, or, where the
oracle is among them, with it. With --launches and --slots, what was counted for a GPU has sections of its own.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from utils.cli import UsageError, answer_help, blame, run

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "measurements.md"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT.json", help="what python -m benchmarks wrote; one or several"
    )
    parser.add_argument(
        "--launches", type=Path, metavar="LAUNCHES.json", help="what python -m benchmarks.launches wrote"
    )
    parser.add_argument("--slots", type=Path, metavar="SLOTS.json", help="what python -m benchmarks.slots wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help="page to write (default: docs/measurements.md)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

from benchmarks.pictures import draw
from benchmarks.tables import (
    describe,
    render,
    render_backends,
    render_goals,
    render_launches,
    render_nvidia,
    render_ratios,
    render_slots,
)
from benchmarks.workloads import WORKLOADS
from utils.files import atomic_write, read_json

ORACLE = "oracle"
MARK = "<!-- written by python -m benchmarks.report: changes by hand are lost -->"
HEADING = f"""# Measurements

{MARK}

[Speed and memory](performance.md#how-it-is-measured) tells how it is measured, `python -m benchmarks` what. This page
is written by"""
GOALS = """## Goals

What a training step is to cost, scaled from 150 GFLOP/s to the rate of the machine, and what it costs."""
NVIDIA = """## Beside NVIDIA's package

What a training step takes, and what one of NVIDIA's package was measured to take on another machine, scaled from 240
GFLOP/s to the rate of this one."""
LAUNCHES = """## On a GPU: counted and predicted

**Nothing here was measured: no GPU was at hand.** `python -m benchmarks.launches` counts what backend 'triton' would
launch in a training step, and the bytes that these launches would read and write; its help says what counts as either.
The time is predicted: what these bytes take at the bandwidth that NVIDIA states, 2.04 TB/s for an A100 (80 GB) and
3.35 TB/s for an H100 (SXM). A real step takes longer."""
SLOTS = """## On a GPU: issue slots, counted

What the kernels that make and use radial weights would take in a training step of `bonded-240` on an H100, if it did
nothing but issue their instructions: read by `python -m benchmarks.slots` from the code that Triton compiles for sm_90.
Its help says what is counted. These are bounds from below, and no measurements."""
BACKENDS = """## Backends

Training steps with each backend, alternating in one process, and how many times the time of the fastest the library's
own choice, `default`, takes: 1.25 at most is wanted. With a backend in PyTorch, attention, norms and linear maps run
there too."""
RATIOS = """## Against the oracle

The library's own choice, and the equation as it is written, alternating in one process."""
PICTURES = {
    "goals": "measured, goal and floor",
    "scale": "time and memory against edges",
    "degree": "time against the largest degree",
}

Result = dict[str, Any]  # what python -m benchmarks writes, which has at least these
KEYS = {"date", "machine", "versions", "flops_per_second", "rows"}


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the files written.

    Raises:
        UsageError: a result is none, or what stands in the page's place was not written by this program.
    """
    flags = _parser().parse_args(arguments)
    results = [_read(path) for path in flags.results]
    launches, slots = _read_counts(flags.launches, "launches"), _read_counts(flags.slots, "slots")
    with blame("--page"):
        if flags.page.exists() and MARK not in flags.page.read_text(encoding="utf-8"):
            raise ValueError(f"expected a page that this program has written, or none, got {flags.page}")
        latest = _latest(results)
        pictures = draw([row for result in latest.values() for row in result["rows"]], flags.page)
        with atomic_write(flags.page, "w") as file:
            sections = [HEADING, _command(flags), *_sections(results, pictures)]
            if launches:
                sections += [LAUNCHES, render_launches(launches)]
            if slots:
                sections += [SLOTS, render_slots(slots)]
            file.write("\n\n".join(sections) + "\n")
    written = [flags.page, *pictures.values()]
    print("written: " + ", ".join(map(str, written)))
    return written


def _read(path: Path) -> Result:
    with blame("RESULT.json"):
        result = read_json(path)
    if not (isinstance(result, dict) and result.keys() >= KEYS and result["rows"]):
        raise UsageError(f"RESULT.json: expected what python -m benchmarks writes, got {path}")
    if unknown := {row["workload"] for row in result["rows"]} - WORKLOADS.keys():
        raise UsageError(f"RESULT.json: expected workloads of {', '.join(WORKLOADS)}; got {min(unknown)} in {path}")
    return result


COUNTED = {"launches": {"launches", "gigabytes"}, "slots": {"launches", "slots", "tensor_cores", "spilled"}}


def _read_counts(path: Path | None, name: str) -> dict[str, Any]:
    """What ``python -m benchmarks.NAME`` wrote; nothing, where no file was named."""
    if path is None:
        return {}
    with blame(f"--{name}"):
        counts = read_json(path)
    rows = [*counts.values()] if isinstance(counts, dict) else []
    if name == "launches":  # of each case, by the part of a step
        rows = [row for case in rows if isinstance(case, dict) for row in case.values()]
    if not rows or not all(isinstance(row, dict) and COUNTED[name] <= row.keys() for row in rows):
        raise UsageError(f"--{name}: expected what python -m benchmarks.{name} writes, got {path}")
    return counts


def _backends(result: Result) -> set[str]:
    return {row["backend"] for row in result["rows"]}


def _latest(results: Sequence[Result]) -> dict[str, Result]:
    """For every workload, in their order, the last result of one backend that has it, with its rows alone."""
    found = {}
    for result in results:
        for name in WORKLOADS:
            rows = [row for row in result["rows"] if row["workload"] == name]
            if rows and len(_backends(result)) == 1:
                found[name] = result | {"rows": rows}
    return {name: found[name] for name in WORKLOADS if name in found}


def _command(flags: argparse.Namespace) -> str:
    """The command that writes the page, as a block of code with a line for every file."""
    files = [_quoted(path) for path in flags.results]
    files += [f"--{name} {_quoted(path)}" for name in COUNTED if (path := getattr(flags, name))]
    return "    " + " \\\n        ".join(["python -m benchmarks.report", *files])


def _quoted(path: Path) -> str:
    path = path.resolve()
    return shlex.quote(str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))


def _sections(results: Sequence[Result], pictures: Mapping[str, Path]) -> Iterator[str]:
    """The paragraphs of the page below its heading."""
    if goals := render_goals([result for result in results if len(_backends(result)) == 1]):
        yield from (GOALS, goals, *_picture("goals", pictures))
    if beside := render_nvidia([*_latest(results).values()]):
        yield from (NVIDIA, beside)
    for name, result in _latest(results).items():
        yield f"## {name}\n\n{WORKLOADS[name].about}."
        yield from (render(result["rows"]), _measured(result), *_picture(name, pictures))
    several = [result for result in results if len(_backends(result)) > 1]
    for heading, table, of_oracle in (
        (BACKENDS, render_backends, False),
        (RATIOS, partial(render_ratios, reference=ORACLE), True),
    ):
        compared = [result for result in several if (ORACLE in _backends(result)) == of_oracle]
        if compared:
            yield heading
        for result in compared:
            yield from (table(result["rows"]), _measured(result))


def _measured(result: Result) -> str:
    return f"Measured on {describe(result)}."


def _picture(name: str, pictures: Mapping[str, Path]) -> list[str]:
    return [f"![{PICTURES[name]}]({pictures[name].name})"] if name in pictures else []


if __name__ == "__main__":
    run(main)
