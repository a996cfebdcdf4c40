"""Evaluates a trained model on molecules whose target is known, from any source.

python experiments/qm9/eval.py --checkpoint RUN/checkpoints/best.pt                         on the data of its training
python experiments/qm9/eval.py --checkpoint best.pt --data_address molecules.npz --split valid --output FOLDER
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.qm9.config import Source
from utils.cli import UsageError, answer_help, blame, run
from utils.config import Machine
from utils.flags import make_parser


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = make_parser(__doc__, Machine, Source)
    its = "best.pt of a run, or the name of weights of the project; repeated, the mean of their predictions is judged"
    parser.add_argument("--checkpoint", metavar="FILE", action="append", required=True, help=its)
    parser.add_argument("--split", choices=("train", "valid", "test", "all"), default="test")
    parser.add_argument("--output", metavar="FOLDER", default=None,
        help="gets metrics.json, predictions.csv and parity.png (None: figures are only printed)")  # fmt: skip
    return parser


if __name__ == "__main__":
    answer_help(build_parser)  # PyTorch takes seconds to import

from experiments.qm9.data import with_target
from experiments.qm9.evaluation import write
from experiments.qm9.run import load_molecules
from experiments.qm9.trained import from_pretrained
from utils.experiment import equivariance_line, refuse_idle
from utils.files import make_folder, write_json
from utils.runs import CONFIG


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        what metrics.json holds.

    Raises:
        UsageError: flags ask for what cannot be done.
    """
    given = vars(build_parser().parse_args(arguments))
    names, split, output = (given.pop(name) for name in ("checkpoint", "split", "output"))
    typed = dict(given)
    if {"source", "data_address"} & given.keys():  # one of the two means another source, not half of the old one
        given = {"source": "auto", "data_address": None, "test_ids": None, **given}
    if output is not None:
        with blame("--output"):
            if (make_folder(output) / CONFIG).exists():
                raise UsageError(f"{output} holds a run, whose files would be lost; name another folder")
    trained = from_pretrained(*names, **given)
    refuse_idle(trained.config, typed)
    task = trained.config.task
    molecules = load_molecules(trained.config)
    with blame("--checkpoint", task="--data_address: the model's task"):
        molecules = with_target(molecules, task)
    molecules = molecules if split == "all" else molecules.part(split)
    if not len(molecules):
        raise UsageError(f"--split: no molecules with a known {task} in {split}")
    predictions, errors = trained.predict(molecules), trained.equivariance_error(molecules)
    metrics = {split: predictions.metrics, "unit": predictions.unit, "equivariance_error": errors}
    print(f"\n{split}: {len(molecules):,} molecules")
    print(predictions.table())
    print(equivariance_line(errors))
    if output is not None:
        with blame("--output"):
            write_json(Path(output) / "metrics.json", metrics)
            write(predictions, Path(output))
    return metrics


if __name__ == "__main__":
    run(main)
