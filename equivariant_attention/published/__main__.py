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
    content = read_tensors(source)
    found = _state_dicts(content)
    if not found:
        raise ValueError(f"{source}: expected weights of the published layers, got no kernel_unary.(k,l).rp.net.6")
    write_tensors(target, _with_converted(content, table))
    number = sum(len(last_layers(weights)) for weights in found)
    return f"{target}: written, with {number} tensors converted and all else as it was"


def _state_dicts(content: Any) -> list[dict[str, Any]]:
    """What in a file has weights of kernels among its values, however deep."""
    if isinstance(content, dict) and last_layers(content):
        return [content]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return [found for part in parts for found in _state_dicts(part)]


def _with_converted(content: Any, table: Signs) -> Any:
    """What a file is to hold; containers are changed in place, so that they keep what they are."""
    if isinstance(content, dict):
        if last_layers(content):
            return converted(content, table)
        content.update({key: _with_converted(value, table) for key, value in content.items()})
    elif isinstance(content, list):
        content[:] = [_with_converted(part, table) for part in content]
    elif type(content) is tuple:
        return tuple(_with_converted(part, table) for part in content)
    return content


if __name__ == "__main__":
    sys.exit(main())
