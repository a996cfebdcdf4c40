"""Trains an SE(3)-Transformer on the forces in Morse clusters, and lets a cluster move by the forces it has learnt.

python experiments/forces/run.py                     in minutes
python experiments/forces/run.py --resume FOLDER     goes on with an interrupted run
python experiments/forces/run.py --data FILE         trains on your own structures; --data FILE --help tells more
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.forces.config import (
    CLUSTERS,
    FRAMES,
    OWN_DATA,
    ClusterConfig,
    ClusterModel,
    check_precision,
    has_own_data,
)
from utils.cli import answer_help, run
from utils.config import none_or_text
from utils.flags import CommandLine

COMMAND_LINE = CommandLine(__doc__, CLUSTERS)
if __name__ == "__main__":  # PyTorch takes seconds to import
    answer_help((CommandLine(OWN_DATA, FRAMES) if has_own_data(sys.argv[1:]) else COMMAND_LINE).parser)

import copy
from functools import partial

import torch
from torch import Tensor

from equivariant_attention.forces import Prediction, forces_on_graph
from experiments.forces import own_data
from experiments.forces.data import Batch, Clusters, clusters, collate
from experiments.forces.dynamics import conservation, moving_atoms
from experiments.forces.models import ENVELOPE, SE3Transformer
from utils.experiment import Experiment, Loaders
from utils.plots import learning_curves
from utils.training import Trainer

NOISE = 0.05  # displacements of the atoms from relaxed clusters
TEMPERATURE = 500  # kelvin; with wells of 1 eV atoms then move about as far as NOISE


def load(config: ClusterConfig) -> dict[str, Clusters]:
    """The datasets ``'train'``, ``'valid'`` and ``'test'``, all drawn together."""
    check_precision(config.precision)
    sizes = {"train": config.num_train, "valid": config.num_valid, "test": config.num_test}
    x = clusters(sum(sizes.values()), config.atoms, NOISE, torch.Generator().manual_seed(config.seed))
    parts = zip(sizes, x.split(list(sizes.values())), strict=True)
    return {split: Clusters(part, config.cutoff) for split, part in parts}


def make_model(config: ClusterConfig) -> SE3Transformer:
    """The untrained model."""
    return SE3Transformer(
        num_layers=config.num_layers,
        num_channels=config.num_channels,
        num_degrees=config.num_degrees,
        div=config.div,
        n_heads=config.head,
        x_ij=none_or_text(config.xij),
        cutoff=config.cutoff,
    )


def predicted(model: SE3Transformer, batch: Batch) -> Prediction:
    """Energies and forces.

    Args:
        model: gives energies.
        batch: from :func:`collate`.
    """
    G, plan, *_ = batch
    return forces_on_graph(partial(model, plan=plan), G, model.cutoff, envelope=ENVELOPE)


def batch_loss(model: SE3Transformer, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Mean squared error of the forces per coordinate, and how many atoms there are.

    Args:
        model: gives energies.
        batch: from :func:`collate`.
    """
    *_, target = batch
    return {"loss": (predicted(model, batch).forces - target).square().mean()}, len(target)


def report(config: ClusterConfig, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Errors of the best weights on the test set, and how a cluster of it moves by them; learning curves."""
    test, zero = loaders["test"], float(loaders["test"].dataset.forces.square().mean())
    metrics = {
        "force_error": trainer.evaluate(test)["loss"] ** 0.5,
        "force_error_of_zero": zero**0.5,
        **energy_errors(trainer, loaders),
        "dynamics": dynamics(config, trainer.model, test.dataset.x[0]),
    }
    if trainer.epochs:
        learning_curves(trainer.epochs, ["loss"], folder / "learning_curves.png", {"zero forces": {"loss": zero}})
    changes = metrics["dynamics"]
    errors = ("force_error", "force_error_of_zero", "energy_error", "energy_error_of_mean")
    force, zero_force, energy, mean_energy = (f"{metrics[name]:.3f}" for name in errors)
    steps = f"{config.md_steps} steps of {config.md_timestep} fs at {TEMPERATURE} K"
    return metrics, [
        f"error of forces     {force} (root mean square; of zero forces: {zero_force})",
        f"error of energies   {energy} (up to a constant; of the mean energy: {mean_energy})",
        f"dynamics            {steps}; largest changes:",
        f"  energy            {changes['energy']:.1e} eV (mean kinetic energy: {changes['kinetic_energy']:.2f} eV)",
        f"  momentum          {changes['momentum']:.1e} (relative)",
        f"  angular momentum  {changes['angular_momentum']:.1e} (relative)",
    ]


def energy_errors(trainer: Trainer, loaders: Loaders) -> dict[str, float]:
    """Root mean square errors of the energies in the test set, which the training has not seen, up to a constant.

    Args:
        trainer: after the training.
        loaders: batches of every split.
    """
    differences, energies = [], []
    with torch.no_grad():
        for batch in loaders["test"]:
            batch = trainer.fabric.to_device(batch)
            _, _, energy, _ = batch
            differences.append(energy - predicted(trainer.model, batch).energy)
            energies.append(energy)
    return {
        name: float(torch.cat(values).std(correction=0))
        for name, values in (("energy_error", differences), ("energy_error_of_mean", energies))
    }


def dynamics(config: ClusterConfig, model: SE3Transformer, x: Tensor) -> dict[str, float]:
    """What :func:`conservation` finds for a cluster that moves by a model in double precision.

    Args:
        config: of the run.
        model: the trained model.
        x: where the atoms start, ``[atoms, 3]``.
    """
    atoms = moving_atoms(copy.deepcopy(model).cpu().double(), x.numpy(), TEMPERATURE, config.seed)
    return conservation(atoms, config.md_timestep, config.md_steps)


EXPERIMENT = Experiment(
    command_line=COMMAND_LINE,
    model=ClusterModel,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=lambda config, dataset: batch_loss,
    report=report,
)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line: of this experiment, or, with --data or the folder of such a run, of :mod:`own_data`.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        what metrics.json holds.

    Raises:
        UsageError, NonFiniteError: as of :meth:`Experiment.main`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    return (own_data.EXPERIMENT if has_own_data(words) else EXPERIMENT).main(words)


if __name__ == "__main__":
    run(main)
