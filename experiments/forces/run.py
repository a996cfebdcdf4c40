"""Trains an SE(3)-Transformer on the forces in Morse clusters, and lets a cluster move by the forces it has learnt.

python experiments/forces/run.py                     in minutes
python experiments/forces/run.py --resume FOLDER     goes on with an interrupted run
python experiments/forces/run.py --data FILE         trains on your own structures; --data FILE --help tells more
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.forces.flags import CLUSTERS, FRAMES, OWN_DATA, add_cluster_flags, add_frame_flags, has_own_data
from utils.cli import UsageError, answer_help, none_or_text, run
from utils.flags import experiment_parser

if __name__ == "__main__":  # PyTorch takes seconds to import
    if has_own_data(sys.argv[1:]):
        answer_help(lambda: experiment_parser(OWN_DATA, {"frames": FRAMES}, add_frame_flags))
    answer_help(lambda: experiment_parser(__doc__, {"quick": CLUSTERS}, add_cluster_flags))

import copy
from functools import partial

import torch
from torch import Tensor

from equivariant_attention.forces import Prediction, forces_on_graph
from experiments.forces import own_data
from experiments.forces.data import Batch, Clusters, clusters, collate
from experiments.forces.dynamics import conservation, moving_atoms
from experiments.forces.models import ENVELOPE, SE3Transformer
from utils.experiment import Experiment, Loaders, summary, summary_lines
from utils.files import write_json
from utils.plots import learning_curves
from utils.training import Trainer

NOISE = 0.05  # displacements of the atoms from relaxed clusters
TEMPERATURE = 500  # kelvin; with wells of 1 eV atoms then move about as far as NOISE


def load(flags: Namespace) -> dict[str, Clusters]:
    """The datasets ``'train'``, ``'valid'`` and ``'test'``, all drawn together.

    Args:
        flags: every flag.

    Raises:
        UsageError: the precision is none that forces can be derived in.
    """
    if flags.precision not in ("32-true", "64-true"):
        raise UsageError(f"--precision: forces are derivatives, expected 32-true or 64-true, got {flags.precision}")
    sizes = {"train": flags.num_train, "valid": flags.num_valid, "test": flags.num_test}
    x = clusters(sum(sizes.values()), flags.atoms, NOISE, torch.Generator().manual_seed(flags.seed))
    parts = zip(sizes, x.split(list(sizes.values())), strict=True)
    return {split: Clusters(part, flags.cutoff) for split, part in parts}


def make_model(flags: Namespace) -> SE3Transformer:
    """The untrained model.

    Args:
        flags: every flag.
    """
    return SE3Transformer(
        num_layers=flags.num_layers,
        num_channels=flags.num_channels,
        num_degrees=flags.num_degrees,
        div=flags.div,
        n_heads=flags.head,
        x_ij=none_or_text(flags.xij),
        cutoff=flags.cutoff,
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


def report(flags: Namespace, trainer: Trainer, loaders: Loaders, folder: Path) -> dict[str, Any]:
    """Test the best weights, let a cluster of the test set move by them, write metrics.json and a plot, print figures.

    Args:
        flags: every flag.
        trainer: after the training, with the best weights.
        loaders: batches of every split.
        folder: of the run.

    Returns:
        what metrics.json holds.
    """
    test, zero = loaders["test"], float(loaders["test"].dataset.forces.square().mean())
    metrics = {
        "force_error": trainer.evaluate(test)["loss"] ** 0.5,
        "force_error_of_zero": zero**0.5,
        **energy_errors(trainer, loaders),
        "dynamics": dynamics(flags, trainer.model, test.dataset.x[0]),
        **summary(trainer),
    }
    write_json(folder / "metrics.json", metrics)
    if trainer.epochs:
        learning_curves(trainer.epochs, ["loss"], folder / "learning_curves.png", {"zero forces": {"loss": zero}})
    changes = metrics["dynamics"]
    errors = ("force_error", "force_error_of_zero", "energy_error", "energy_error_of_mean")
    force, zero_force, energy, mean_energy = (f"{metrics[name]:.3f}" for name in errors)
    print(f"\nerror of forces     {force} (root mean square; of zero forces: {zero_force})")
    print(f"error of energies   {energy} (up to a constant; of the mean energy: {mean_energy})")
    print(f"dynamics            {flags.md_steps} steps of {flags.md_timestep} fs at {TEMPERATURE} K; largest changes:")
    print(f"  energy            {changes['energy']:.1e} eV (mean kinetic energy: {changes['kinetic_energy']:.2f} eV)")
    print(f"  momentum          {changes['momentum']:.1e} (relative)")
    print(f"  angular momentum  {changes['angular_momentum']:.1e} (relative)")
    print(summary_lines(metrics, folder))
    return metrics


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


def dynamics(flags: Namespace, model: SE3Transformer, x: Tensor) -> dict[str, float]:
    """What :func:`conservation` finds for a cluster that moves by a model in double precision.

    Args:
        flags: every flag.
        model: the trained model.
        x: where the atoms start, ``[atoms, 3]``.
    """
    atoms = moving_atoms(copy.deepcopy(model).cpu().double(), x.numpy(), TEMPERATURE, flags.seed)
    return conservation(atoms, flags.md_timestep, flags.md_steps)


EXPERIMENT = Experiment(
    description=__doc__,
    presets={"quick": CLUSTERS},
    add_flags=add_cluster_flags,
    load=load,
    collate=collate,
    make_model=make_model,
    batch_loss=batch_loss,
    report=report,
    free={"md_steps", "md_timestep"},
    idle=lambda flags: {"graph": "here: graphs are made of positions, by the library"},
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
