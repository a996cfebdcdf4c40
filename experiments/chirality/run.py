"""Tells R from S: the handedness of a molecule's stereocentres, from where its atoms are.

python experiments/chirality/run.py                       an SE(3)-Transformer, in minutes
python experiments/chirality/run.py --preset distances    a network of distances alone, which is right half the time
python experiments/chirality/run.py --resume FOLDER       goes on with an interrupted run
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.chirality.config import PRESETS, Config, Model
from utils.cli import answer_help, blame, run
from utils.flags import CommandLine

COMMAND_LINE = CommandLine(__doc__, PRESETS)
if __name__ == "__main__":
    answer_help(COMMAND_LINE.parser)  # PyTorch takes seconds to import

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from equivariant_attention.testing import equivariance_error
from experiments.chirality.data import SPLITS, Batch, Handed, collate, embedded, from_arrays
from experiments.chirality.models import SE3Transformer
from utils.experiment import Experiment, Loaders
from utils.plots import learning_curves
from utils.training import Trainer

METRICS = ("loss", "accuracy")
CHANCE = {"chance": {"loss": math.log(2), "accuracy": 0.5}}


def load(config: Config) -> dict[str, Handed]:
    """The datasets ``'train'``, ``'valid'`` and ``'test'``."""
    source = "--data" if config.molecules is None else "--molecules"
    with blame(source, molecules="--num_molecules"):
        if config.molecules is None:
            molecules = embedded(config.conformers, config.num_molecules, config.seed, config.data)
        else:
            molecules = from_arrays(config.molecules, config.num_molecules, config.seed, config.data)
        return {split: Handed(molecules, split, config.seed) for split in SPLITS}


def make_model(config: Config) -> SE3Transformer:
    """The untrained model."""
    return SE3Transformer(config.num_layers, config.num_channels, config.num_degrees, config.div, config.head)


def batch_loss(model: Callable[..., Tensor], batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Cross entropy, and the share of stereocentres that are told right.

    Args:
        model: maps G and its plan to log-odds ``[nodes]``.
        batch: (G, plan, centres, target) from :func:`collate`.

    Returns:
        ``'loss'`` and ``'accuracy'``; and the number of centres.
    """
    G, plan, centres, target = batch
    logits = model(G, plan=plan)[centres]
    right = (logits > 0) == (target > 0.5)
    return {"loss": binary_cross_entropy_with_logits(logits, target), "accuracy": right.float().mean()}, len(target)


def report(config: Config, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Accuracy of the best weights on the test set, also in a mirror, and learning curves."""
    test = loaders["test"]
    G, *_ = test.first(100)
    errors = equivariance_error(trainer.model.eval(), trainer.fabric.to_device(G), output_on="nodes")
    metrics = {
        "test": trainer.evaluate(test),
        "test_centres": sum(len(target) for *_, target in test),
        "answers_that_a_mirror_changes": mirrored(trainer, test),
        "equivariance_error": errors,
    }
    if trainer.epochs:
        learning_curves(trainer.epochs, METRICS, folder / "learning_curves.png", CHANCE)
    return metrics, [
        f"accuracy            {metrics['test']['accuracy']:.4f} of {metrics['test_centres']} stereocentres,",
        "                    those of the test molecules and of their mirror images",
        f"a mirror changes    {metrics['answers_that_a_mirror_changes']:.4f} of the answers",
    ]


def mirrored(trainer: Trainer, loader: Any) -> float:
    """The share of stereocentres of which the model says another hand in the mirror.

    Args:
        trainer: with the model.
        loader: of a dataset whose molecules and mirror images follow each other.
    """
    changed = total = 0
    with torch.no_grad(), trainer.fabric.autocast():
        for first in range(0, len(loader.dataset), 256):
            samples = [loader.dataset[i] for i in range(first, min(first + 256, len(loader.dataset)))]
            answers = []
            for hand in (samples[::2], samples[1::2]):
                G, plan, centres, _ = trainer.fabric.to_device(loader.collate_fn(hand))
                answers.append(trainer.model(G, plan=plan)[centres] > 0)
            changed += int((answers[0] != answers[1]).sum())
            total += len(answers[0])
    return changed / total


EXPERIMENT = Experiment(
    command_line=COMMAND_LINE,
    model=Model,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=lambda config, dataset: batch_loss,
    report=report,
    unit="molecules",
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
