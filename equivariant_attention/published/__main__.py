"""``python -m equivariant_attention.published``: weights of programs made with the published code, in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .tables import NAMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors are one line on stderr.

    Args:
        arguments: in place of those of the process.

    Returns:
        the exit code: 0, or 2 after an error.
    """
    options = _parser().parse_args(arguments)
    from ..checkpoints import in_few_lines  # here, for it imports PyTorch, which takes seconds
    from .files import convert

    try:
        print(convert(options.source, options.target, options.cache, options.signs))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        print(f"error: {in_few_lines(error, 1)}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m equivariant_attention.published", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    convert = commands.add_parser(
        "convert",
        help="weights of a client for this library, or back",
        description="Turn weights that belong to the signs of a client's basis into weights of this library. The same "
        "command turns them back: weights that were trained here then run there. All else in the file stays as it is.",
    )
    convert.add_argument("source", metavar="IN", type=Path, help="a file of torch.save, read without running code")
    convert.add_argument("target", metavar="OUT", type=Path, help="file to write, whole or not at all")
    origin = convert.add_mutually_exclusive_group(required=True)
    origin.add_argument("--cache", metavar="FOLDER", type=Path, help="the client's cache/trans_Q")
    origin.add_argument("--signs", metavar="NAME", choices=NAMES, help=f"one of {', '.join(NAMES)}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
