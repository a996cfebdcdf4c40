"""Measures how long the models take and how much memory they need.

python -m benchmarks                                  lists the workloads
python -m benchmarks qm9-bonded nbody                 measures two of them
python -m benchmarks nbody "degree:degree 3"          of the second, one case alone
python -m benchmarks all --compare oracle --profile   all, against another backend, by operators
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.selection import BACKENDS, DEFAULT, LIMIT, by_workload, named_cases
from utils.cli import UsageError, answer_help, blame, run
from utils.config import Count, CountOrZero, Positive
from utils.flags import read_as

FOLDER = Path("runs/benchmarks")


def _device(text: str) -> str:
    kind, _, index = text.partition(":")
    import torch

    if kind not in ("cpu", "cuda") or (":" in text and not (kind == "cuda" and index.isdecimal())):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {text!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(f"{text} is not there, PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, backends = parser.add_argument, [DEFAULT, *BACKENDS]
    what = "what to measure, NAME:CASE for one of its cases, or all; without it, the list"
    add("workloads", nargs="*", type=named_cases, metavar="NAME", help=what)
    add("--backend", choices=backends, default=DEFAULT, help="backend (default: the library chooses)")
    add("--compare", choices=backends, action="append", default=[], help="another one, in turn; may be repeated")
    add("--device", type=_device, default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=read_as(Count), default=2, help="of the processor (default: 2)")
    add("--repeats", type=read_as(Count), default=10, help="how often a step is timed (default: 10)")
    add(
        "--limit", type=read_as(Positive), default=LIMIT, help="seconds until a step is given up (default: %(default)g)"
    )
    add("--seed", type=read_as(CountOrZero), default=0, help="of everything random (default: 0)")
    add("--profile", action="store_true", help="tell also where the time of a training step goes")
    add("--output", type=Path, metavar="PATH.json", help=f"file to write (default: {FOLDER}/DATE.json)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import torch

from benchmarks.figures import derive
from benchmarks.machine import describe_machine, versions
from benchmarks.measure import matrix_product_rate
from benchmarks.runner import run_workload
from benchmarks.steps import Setup
from benchmarks.tables import describe, render
from benchmarks.workloads import WORKLOADS
from utils.files import make_folder, write_json


def main(arguments: Sequence[str] | None = None, tiny: bool = False) -> dict[str, Any]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.
        tiny: measure workloads of tiny size, as the tests do.

    Returns:
        what the JSON file holds; nothing where the workloads were only listed.

    Raises:
        UsageError: a flag, named, asks for what cannot be done.
    """
    parser = _parser()
    flags = parser.parse_args(arguments)
    if not flags.workloads:
        if flags != parser.parse_args([]):
            raise UsageError("NAME: expected what to measure, got flags alone; without flags, there is a list")
        print("\n".join(_lines()))
        return {}
    backends = [flags.backend, *flags.compare]
    if len(set(backends)) < len(backends):
        raise UsageError(f"--compare: expected backends other than --backend and each other, got {backends}")
    setup = Setup(flags.device, flags.threads, flags.seed, tiny, flags.limit)
    torch.set_num_threads(setup.threads)
    result = _heading(setup, backends, flags.repeats)
    path = _new_file(flags.output, result["date"])
    print(describe(result))
    for name, cases in by_workload(flags.workloads).items():
        rows = run_workload(setup, name, cases, backends, flags.repeats, flags.profile)
        derive(rows, result["flops_per_second"], on_cpu=setup.device == "cpu")
        result["rows"] += rows
        write_json(path, result)
        print(f"\n{name}: {WORKLOADS[name].about}\n\n{render(rows)}", flush=True)
    print(f"\nwritten to {path}")
    return result


def _heading(setup: Setup, backends: Sequence[str], repeats: int) -> dict[str, Any]:
    """The result before any row."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(setup.device),
        "versions": versions(),
        "flops_per_second": matrix_product_rate(setup.device, 256 if setup.tiny else 2048),
        "backends": list(backends),
        "repeats": repeats,
        "seed": setup.seed,
        "limit": setup.limit,
        "rows": [],
    }


def _new_file(output: Path | None, date: str) -> Path:
    path = output or FOLDER / f"{date.replace(':', '-')}.json"
    with blame("--output"):
        make_folder(path.parent)
        if path.exists():
            raise UsageError(f"--output: expected a file that is not there yet, got {path}")
    return path


def _lines() -> Iterator[str]:
    """The list of workloads, and of their cases where there are several."""
    for name, workload in WORKLOADS.items():
        yield f"{name:14}{workload.about}"
        if len(workload.cases) > 1:
            yield " " * 14 + ", ".join(f'"{name}:{case}"' for case in workload.cases)


if __name__ == "__main__":
    run(main)
