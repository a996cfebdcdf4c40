"""``python -m equivariant_attention.published``: weights of programs made with the published code, in files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoints import in_few_lines, read_tensors, write_tensors
from ..origin import last_layers
from . import NAMES, Signs, converted, read_signs, signs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors are one line on stderr.

    Args:
        arguments: in place of those of the process.

    Returns:
        the exit code: 0, or 2 after an error.
    """
    options = _parser().parse_args(arguments)
    try:
        table = read_signs(options.cache) if options.cache else signs(options.signs)
        print(_convert(options.source, options.target, table))
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


def _convert(source: Path, target: Path, table: Signs) -> str:
    names: list[str] = []
    content = _with_converted(read_tensors(source), table, names)
    if not names:
        raise ValueError(f"{source}: expected weights of the published layers, got no kernel_unary.(k,l).rp.net.6")
    write_tensors(target, content)
    return f"{target}: written, with {len(names)} tensors converted and all else as it was"


def _with_converted(content: Any, table: Signs, names: list[str]) -> Any:
    """What a file is to hold; containers are changed in place, so that they keep what they are.

    Args:
        content: of the file, with weights of kernels in it, however deep.
        table: of the signs.
        names: gets those of the tensors that are converted.
    """
    if isinstance(content, dict):
        if found := last_layers(content):
            names += found
            return converted(content, table)
        content.update({key: _with_converted(value, table, names) for key, value in content.items()})
    elif isinstance(content, list):
        content[:] = [_with_converted(part, table, names) for part in content]
    elif type(content) is tuple:
        return tuple(_with_converted(part, table, names) for part in content)
    return content


if __name__ == "__main__":
    sys.exit(main())
