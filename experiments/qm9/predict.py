"""Predicts a property of molecules with a trained model.

python experiments/qm9/predict.py molecules.xyz others.sdf CCO --checkpoint RUN/checkpoints/best.pt

A molecule that cannot be read is named, with the reason, and the others are predicted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.qm9.data import MoleculeDataset
from experiments.qm9.evaluation import Predictions, predict
from experiments.qm9.models import neighbours_of
from experiments.qm9.molecules import join
from experiments.qm9.structures import read
from experiments.qm9.targets import TARGETS
from experiments.qm9.trained import Trained, make_parser
from utils.cli import UsageError, blame, run
from utils.files import make_folder


def main(arguments: Sequence[str] | None = None) -> Predictions:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the predictions, of molecules that could be read.

    Raises:
        UsageError: none could be read, or flags ask for what cannot be done.
    """
    parser = make_parser(__doc__)
    parser.add_argument("molecules", nargs="+", help="files that end in .xyz, .sdf or .mol, or SMILES")
    parser.add_argument("--output", metavar="FILE", default="predictions.csv", help="CSV file to write")
    given = parser.parse_args(arguments)
    with blame("--output"):
        make_folder(Path(given.output).parent)
    trained = Trained(given)
    structures = read(given.molecules)
    for structure in structures:
        if structure.problem is not None:
            print(f"skipped {structure.name}: {structure.problem}", file=sys.stderr)
    good = [structure.molecule for structure in structures if structure.molecule is not None]
    if not good:
        raise UsageError("molecules: none of them could be read")
    molecules, task = join(good), trained.flags.task
    for name in molecules.names[~molecules.perceived]:
        print(f"note on {name}: RDKit finds no bond orders, all bonds count as single", file=sys.stderr)
    loader = trained.loader(MoleculeDataset(molecules, task, neighbours_of(trained.flags)))
    predictions = predict(trained.fabric, trained.model, loader, task)
    with blame("--output"):
        predictions.write_csv(given.output)
    print(table(predictions))
    skipped = len(structures) - len(good)
    print(
        f"\n{len(good)} of {len(structures)} molecules{f', {skipped} skipped' * bool(skipped)}; also in {given.output}"
    )
    return predictions


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
    run(main)
