"""Programs whose errors need no traceback, and whose help waits for nothing."""

from __future__ import annotations

import io
import re
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class UsageError(ValueError):
    """What was asked for cannot be done; the message says all there is to know."""


class Parser(ArgumentParser):
    """A parser that knows no abbreviations, and refuses a command line by a :class:`UsageError` of one line.

    Args:
        description: first lines of the help, as they are.
        options: other arguments of ``ArgumentParser``.
    """

    def __init__(self, description: str, **options: Any) -> None:
        options = {"formatter_class": RawDescriptionHelpFormatter, "allow_abbrev": False, **options}
        super().__init__(description=description, **options)

    def error(self, message: str) -> NoReturn:
        """Refuse a command line, without the usage, which would bury the reason under dozens of flags.

        Args:
            message: the reason.
        """
        raise UsageError(message.removeprefix("argument "))


def answer_help(build_parser: Callable[[], ArgumentParser]) -> None:
    """Print the help and exit, if this process is asked for it; for programs, before they import what takes seconds.

    Args:
        build_parser: makes the parser of the program.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        build_parser().parse_args(["--help"])


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
        **arguments: the flags behind arguments of functions, whose messages read 'argument: expected ...' or
            'argument must ...'.

    Raises:
        UsageError: the block raised one of these.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        message = reason(error)
        for argument, its_flag in arguments.items():
            message = re.sub(rf"(?<!\S){argument}(?=: | must )", its_flag, message)
        raise UsageError(message if message.startswith("--") else f"{flag}: {message}") from error


def run(main: Callable[[], object]) -> NoReturn:
    """Call a program and exit: with 0, or with a message in place of a traceback where that says enough.

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
