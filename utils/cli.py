"""Command lines whose defaults come from a named preset, and errors that need no traceback."""

from __future__ import annotations

import argparse
import io
import math
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from textwrap import shorten
from types import MappingProxyType
from typing import Any, NoReturn

Presets = Mapping[str, Mapping[str, Any]]
NO_RECIPES: Presets = MappingProxyType({})
LONGEST = 200  # characters of a message about what a file holds
MOST = 2**31 - 1  # of any integer on a command line


class UsageError(ValueError):
    """What was asked for cannot be done; the message says all there is to know."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)  # without the usage, which would bury it under dozens of flags


def make_parser(description: str, presets: Presets, recipes: Presets = NO_RECIPES) -> ArgumentParser:
    """A parser with the flag --preset, to which a program adds its own; for :func:`parse`.

    Args:
        description: first lines of the help.
        presets: a default of every flag, for every preset; shown in the help.
        recipes: other defaults of a few flags, chosen by --recipe, whatever the preset; none, and no such flag.

    Returns:
        the parser, which raises :class:`UsageError` for a command line that it does not understand.
    """
    parser = _Parser(
        description=description,
        epilog="defaults:\n" + _table(presets) + (f"\n\nrecipes:\n{_table(recipes)}" if recipes else ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--preset", choices=presets, help="where the defaults come from, see the end of this page")
    if recipes:
        parser.add_argument("--recipe", choices=recipes, help="how to train, in place of the preset's way")
    return parser


def parse(
    parser: ArgumentParser,
    presets: Presets,
    arguments: Sequence[str] | None = None,
    recipes: Presets = NO_RECIPES,
) -> tuple[Namespace, dict[str, Any]]:
    """Parse a command line.

    Args:
        parser: from :func:`make_parser`.
        presets: as the parser got them.
        arguments: words of the command line; None for those of this process.
        recipes: as the parser got them.

    Returns:
        every flag, those not on the command line from the recipe, if one is named, else from the preset (the first one
        unless another is named); and only those on the command line.

    Raises:
        UsageError: a flag is unknown, or its value is not one of its own.
    """
    given = vars(parser.parse_args(arguments))
    preset = given.get("preset", next(iter(presets)))
    recipe = {"recipe": None, **recipes.get(given.get("recipe"), {})} if recipes else {}
    return Namespace(**{"preset": preset, **presets[preset], **recipe, **given}), given


def check(parser: ArgumentParser, presets: Presets, flags: Mapping[str, Any], recipes: Presets = NO_RECIPES) -> None:
    """Refuse flags, read from a file, that :func:`parse` cannot have returned.

    Args:
        parser: from :func:`make_parser`; its switches are of ``BooleanOptionalAction``.
        presets: as the parser got them.
        flags: every flag.
        recipes: as the parser got them.

    Raises:
        UsageError: a flag has a value that no command line gives it.
    """
    words = []
    for name, value in flags.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words.append(f"--{name}={value}")
    try:
        parsed = vars(parse(parser, presets, words, recipes)[0])
    except UsageError as error:
        raise UsageError(shorten(str(error), LONGEST, placeholder=" ...")) from error
    if wrong := [name for name in flags if parsed[name] != flags[name]]:
        raise UsageError(shorten(f"no command line gives --{wrong[0]} the value {flags[wrong[0]]!r}", LONGEST))


def answer_help(build_parser: Callable[[], ArgumentParser]) -> None:
    """Print the help and exit, if this process is asked for it; for programs, before they import what takes seconds.

    Args:
        build_parser: makes the parser of the program.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        build_parser().parse_args(["--help"])


def names_in_group(parser: ArgumentParser, title: str) -> set[str]:
    """The names of the flags in a group of a parser.

    Args:
        parser: any.
        title: of the group.
    """
    groups = [group for group in parser._action_groups if group.title == title]  # argparse has no public way
    return {action.dest for group in groups for action in group._group_actions}


def _table(presets: Presets) -> str:
    names = list(next(iter(presets.values())))
    cells = [["", *presets], *([f"--{name}", *(str(p[name]) for p in presets.values())] for name in names)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def count(least: int, most: int = MOST) -> Callable[[str], int]:
    """A converter to integers, for argparse's ``type``.

    Args:
        least, most: the smallest and the largest integer that it accepts.
    """

    def convert(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text}")
        if value > most:
            raise argparse.ArgumentTypeError(f"expected an integer of at most {most}, got a larger one")
        return value

    convert.__name__ = "integer"  # what argparse calls it where int(text) fails
    return convert


def positive(text: str) -> float:
    """Convert to a finite number above zero, for argparse's ``type``.

    Args:
        text: the word of the command line.

    Raises:
        ValueError, argparse.ArgumentTypeError: it is no such number.
    """
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text}")
    return value


def fraction(text: str) -> float:
    """Convert to a number above 0 and below 1, for argparse's ``type``.

    Args:
        text: the word of the command line.

    Raises:
        ValueError, argparse.ArgumentTypeError: it is no such number.
    """
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, got {text}")
    return value


positive.__name__ = fraction.__name__ = "number"


def none_or_text(text: str) -> str | None:
    """Convert 'none' to None, and leave any other word, for argparse's ``type``.

    Args:
        text: the word of the command line.
    """
    return None if text == "none" else text


def reason(error: BaseException) -> str:
    """What an error says; where the file system raised it, the file and what is wrong with it.

    Args:
        error: any.
    """
    of_file = isinstance(error, OSError) and error.strerror and error.filename is not None
    return f"{error.filename}: {error.strerror}" if of_file else str(error)


@contextmanager
def blame(flag: str, **arguments: str) -> Iterator[None]:
    """Turn a ValueError or OSError of the ``with`` block into a UsageError that begins with the flag to mend.

    Args:
        flag: what to blame, unless the message begins with a flag already.
        **arguments: the flags behind arguments of functions, whose messages read 'argument: expected ...'.

    Raises:
        UsageError: the block raised one of these.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        message = reason(error)
        for argument, its_flag in arguments.items():
            message = re.sub(rf"(?<!\S){argument}: ", f"{its_flag}: ", message)
        raise UsageError(message if message.startswith("--") else f"{flag}: {message}") from error


def run(main: Callable[[], object]) -> NoReturn:
    """Call a program and exit: with 0, or with a message instead of a traceback where the error needs none.

    Args:
        main: the program; what it returns is the exit code, if it is an integer. After a :class:`UsageError` that is
            2, after a FloatingPointError (a simulation or a training went out of bounds), an OSError (no space left,
            say) or a MemoryError 1, after Ctrl-C 130.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # so that a file or a pipe has every line at once
    try:
        returned = main()
    except (UsageError, FloatingPointError, MemoryError, OSError) as error:
        print(f"error: {reason(error) or type(error).__name__}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(returned if isinstance(returned, int) else 0)
