"""Predicts a property of molecules with a trained model.

python experiments/qm9/predict.py molecules.xyz others.sdf CCO                                        HOMO energies
python experiments/qm9/predict.py molecules.xyz others.sdf CCO --checkpoint RUN/checkpoints/best.pt   what it learnt

A molecule that cannot be read is named, with the reason, and the others are predicted; the exit code is then 3.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from utils.cli import UsageError, answer_help, blame, run
from utils.config import Machine
from utils.flags import make_parser

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "results" / "qm9_homo" / "best.pt"


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = make_parser(__doc__, Machine)
    its = "best.pt of a run (default: the project's own weights, for HOMO energies)"
    parser.add_argument("--checkpoint", metavar="FILE", default=str(SHIPPED), help=its)
    parser.add_argument("molecules", nargs="+", help="files that end in .xyz, .sdf or .mol, or SMILES")
    parser.add_argument("--output", metavar="FILE", default="predictions.csv", help="CSV file to write")
    return parser


if __name__ == "__main__":
    answer_help(build_parser)  # PyTorch takes seconds to import

import numpy as np

from experiments.qm9.data import MoleculeDataset
from experiments.qm9.evaluation import Predictions, predict
from experiments.qm9.models import neighbours_of
from experiments.qm9.molecules import join
from experiments.qm9.structures import read
from experiments.qm9.targets import TARGETS
from experiments.qm9.trained import Trained
from utils.files import make_folder

SKIPPED = 3  # the exit code where not every molecule could be read


def main(arguments: Sequence[str] | None = None) -> Predictions:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the predictions, of molecules that could be read.

    Raises:
        UsageError: none could be read, or flags ask for what cannot be done.
    """
    return _predicted_and_skipped(arguments)[0]


def program() -> int:
    """Run the command line of this process; its exit code, which tells whether molecules were skipped."""
    return SKIPPED if _predicted_and_skipped(None)[1] else 0


def _predicted_and_skipped(arguments: Sequence[str] | None) -> tuple[Predictions, int]:
    """The predictions, and how many molecules could not be read.

    Raises:
        UsageError: none could be read, or flags ask for what cannot be done.
    """
    given = vars(build_parser().parse_args(arguments))
    output, names = given.pop("output"), given.pop("molecules")
    with blame("--output"):
        make_folder(Path(output).parent)
    trained = Trained(given.pop("checkpoint"), given)
    structures = read(names)
    for structure in structures:
        if structure.problem is not None:
            print(f"skipped {structure.name}: {structure.problem}", file=sys.stderr)
    good = [structure.molecule for structure in structures if structure.molecule is not None]
    if not good:
        raise UsageError("molecules: none of them could be read")
    molecules, task = join(good), trained.config.task
    for name in molecules.names[~molecules.perceived]:
        print(f"note on {name}: RDKit finds no bond orders, all bonds count as single", file=sys.stderr)
    loader = trained.loader(MoleculeDataset(molecules, task, neighbours_of(trained.config)))
    predictions = predict(trained.fabric, trained.model, loader, task)
    with blame("--output"):
        predictions.write_csv(output)
    print(table(predictions))
    skipped = len(structures) - len(good)
    print(f"\n{len(good)} of {len(structures)} molecules{f', {skipped} skipped' * bool(skipped)}; also in {output}")
    return predictions, skipped


def table(predictions: Predictions) -> str:
    """Names and predictions as lines of text.

    Args:
        predictions: of any molecules.
    """
    task = predictions.task
    width = max(map(len, predictions.names))
    lines = [f"{'':{width}}  {task} ({TARGETS[task].unit})"]
    for name, values in zip(predictions.names, np.atleast_2d(predictions.predicted), strict=True):
        lines.append(f"{name:{width}}  {'  '.join(f'{value:10.4f}' for value in values)}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(program)
