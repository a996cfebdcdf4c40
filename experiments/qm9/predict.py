"""Predicts properties of molecules with trained models.

python experiments/qm9/predict.py molecules.xyz others.sdf CCO                                        all targets
python experiments/qm9/predict.py molecules.xyz others.sdf CCO --checkpoint qm9-homo                  HOMO alone
python experiments/qm9/predict.py molecules.xyz others.sdf CCO --checkpoint RUN/checkpoints/best.pt   what it learnt

A molecule that cannot be read is named, with the reason, and the others are predicted; the exit code is then 3.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from utils.cli import UsageError, answer_help, blame, run
from utils.config import Machine
from utils.flags import make_parser


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = make_parser(__doc__, Machine)
    its = (
        "best.pt of a run, or qm9-homo, qm9-dipole or qm9-multitask; may be repeated (default: the project's own three)"
    )
    parser.add_argument("--checkpoint", metavar="FILE", action="append", default=None, help=its)
    parser.add_argument("molecules", nargs="+", help="files that end in .xyz, .sdf or .mol, or SMILES")
    parser.add_argument("--output", metavar="FILE", default="predictions.csv", help="CSV file to write")
    return parser


if __name__ == "__main__":
    answer_help(build_parser)  # PyTorch takes seconds to import

from experiments.qm9.evaluation import Predictions, write_csv
from experiments.qm9.molecules import join
from experiments.qm9.structures import read
from experiments.qm9.targets import ELEMENTS
from experiments.qm9.trained import SHIPPED, from_pretrained
from utils.files import make_folder

SKIPPED = 3  # the exit code where not every molecule could be read


def main(arguments: Sequence[str] | None = None) -> list[Predictions]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the predictions of each target, of molecules that could be read.

    Raises:
        UsageError: none could be read, or flags ask for what cannot be done.
    """
    return _predicted_and_skipped(arguments)[0]


def program() -> int:
    """Run the command line of this process; its exit code, which tells whether molecules were skipped."""
    return SKIPPED if _predicted_and_skipped(None)[1] else 0


def _predicted_and_skipped(arguments: Sequence[str] | None) -> tuple[list[Predictions], int]:
    """The predictions, and how many molecules could not be read.

    Raises:
        UsageError: none could be read, or flags ask for what cannot be done.
    """
    given = vars(build_parser().parse_args(arguments))
    output, names, named = given.pop("output"), given.pop("molecules"), given.pop("checkpoint")
    with blame("--output"):
        make_folder(Path(output).parent)
    models = {name: from_pretrained(name, **given) for name in named or SHIPPED}
    tasks = [task for model in models.values() for task in model.config.tasks]
    if named and (len({*tasks}) < len(tasks) or len(models) < len(named)):
        raise UsageError(f"--checkpoint: expected models of different targets, got {', '.join(tasks)}")
    structures = read(names)
    for structure in structures:
        if structure.problem is not None:
            print(f"skipped {structure.name}: {structure.problem}", file=sys.stderr)
    good = [structure.molecule for structure in structures if structure.molecule is not None]
    if not good:
        raise UsageError("molecules: none of them could be read")
    molecules = join(good)
    for name in molecules.names[~molecules.perceived]:
        print(f"note on {name}: RDKit finds no bond orders, all bonds count as single", file=sys.stderr)
    for weights_name in SHIPPED.keys() & models.keys():
        unknown = [symbol not in SHIPPED[weights_name].elements for symbol in ELEMENTS.values()]
        for name in molecules.names[molecules.element_counts[:, unknown].any(axis=1)]:
            print(f"note on {name}: {weights_name} never saw some of its elements: do not rely on it", file=sys.stderr)
    found: dict[str, Predictions] = {}
    for model in models.values():
        for one in model.predict(molecules).each:
            found.setdefault(one.task, one)  # of the project's own weights, the first of a target are the best
    predictions = [*found.values()]
    with blame("--output"):
        write_csv(output, *predictions)
    print(table(predictions))
    skipped = len(structures) - len(good)
    print(f"\n{len(good)} of {len(structures)} molecules{f', {skipped} skipped' * bool(skipped)}; also in {output}")
    return predictions, skipped


def table(predictions: Sequence[Predictions]) -> str:
    """Names and predictions as lines of text.

    Args:
        predictions: of the same molecules, each of another target.
    """
    columns = dict(chain.from_iterable(one.columns.items() for one in predictions))
    titles = [title.removeprefix("predicted ") for title in columns]
    names = predictions[0].names
    width = max(map(len, names))
    lines = ["  ".join([" " * width, *titles])]
    for name, *values in zip(names, *columns.values(), strict=True):
        cells = [f"{value:{len(title)}.4f}" for value, title in zip(values, titles, strict=True)]
        lines.append("  ".join([f"{name:{width}}", *cells]))
    return "\n".join(lines)


if __name__ == "__main__":
    run(program)
