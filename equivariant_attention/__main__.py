"""``python -m equivariant_attention build``: C++ kernels, built before the first call that needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .native import compiler

SOURCES = sorted(Path(__file__).parent.rglob("*.cpp"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors are on stderr.

    Args:
        arguments: in place of those of the process.

    Returns:
        the exit code: 0, or 1 where a kernel could not be built.
    """
    _parser().parse_args(arguments)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [problem for problem in pool.map(_problem, SOURCES) if problem]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if not problems:
        print(f"{len(SOURCES)} C++ kernels are built and can be loaded: {', '.join(path.stem for path in SOURCES)}")
    return 1 if problems else 0


def _problem(source: Path) -> str:
    """Why a kernel is not there after it was built; empty, if it is."""
    try:
        compiler.library(source)
    except compiler.BuildError as error:
        return str(error)
    return ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m equivariant_attention", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "build",
        help="build the C++ kernels now",
        description="Build the C++ kernels that are not built yet, for the processor of this machine, as the first "
        "call of a layer would. A container's image can hold them so.",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
