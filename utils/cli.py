"""Command lines whose defaults come from a named preset, and errors that need no traceback."""

from __future__ import annotations

import argparse
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

Presets = Mapping[str, Mapping[str, Any]]


class UsageError(ValueError):
    """What was asked for cannot be done; the message says all there is to know."""


def make_parser(description: str, presets: Presets) -> ArgumentParser:
    """Returns a parser with the flag --preset, to which a program adds its own; for `parse`.

    Args:
        description: first lines of the help.
        presets: a default of every flag, for every preset; shown in the help.
    """
    parser = ArgumentParser(
        description=description,
        epilog="defaults:\n" + _table(presets),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", choices=presets, help="where the defaults come from, see the end of this page")
    return parser


def parse(
    parser: ArgumentParser, presets: Presets, arguments: Sequence[str] | None = None
) -> tuple[Namespace, dict[str, Any]]:
    """Parses a command line (`sys.argv` without `arguments`).

    Returns (flags, given): every flag, those not on the command line from the preset (the first one unless another is
    named); and only those on the command line.
    """
    given = vars(parser.parse_args(arguments))
    preset = given.get("preset", next(iter(presets)))
    return Namespace(**{"preset": preset, **presets[preset], **given}), given


def _table(presets: Presets) -> str:
    names = list(next(iter(presets.values())))
    cells = [["", *presets], *([f"--{name}", *(str(p[name]) for p in presets.values())] for name in names)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def count(least: int) -> Callable[[str], int]:
    """Returns a converter to integers of at least `least`, for argparse's `type`."""

    def convert(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text}")
        return value

    convert.__name__ = "integer"  # what argparse calls it where int(text) fails
    return convert


def positive(text: str) -> float:
    """Converts to a finite number above zero, for argparse's `type`."""
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return value


positive.__name__ = "number"


def run(main: Callable[[], object]) -> NoReturn:
    """Calls a program's `main` and exits: 0, 2 with its message after a UsageError, 130 after Ctrl-C."""
    try:
        main()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)
