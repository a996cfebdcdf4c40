"""Trains an SE(3)-Transformer on the forces in Morse clusters, and lets a cluster move by the forces it has learnt.

python experiments/forces/run.py
"""

from __future__ import annotations

import copy
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.forces.data import Batch, Clusters, clusters, collate
from experiments.forces.dynamics import conservation, moving_atoms
from experiments.forces.models import SE3Transformer, energy_and_forces
from utils import runs
from utils.cli import blame, count, make_parser, parse, positive, run
from utils.files import write_json
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.training import Trainer, cosine_schedule, evaluate, make_fabric

NOISE = 0.05  # displacements of the atoms from the relaxed clusters
TEMPERATURE = 500  # kelvin; with a well of 1 eV, atoms then move about as far as NOISE

QUICK = {
    "num_layers": 2, "num_degrees": 3, "num_channels": 8, "div": 2, "head": 2, "xij": "none", "cutoff": 2.5,
    "num_epochs": 8, "batch_size": 16, "lr": 5e-3, "clip_norm": 1.0, "seed": 0,
    "atoms": 8, "num_train": 768, "num_valid": 64, "num_test": 128,
    "md_steps": 500, "md_timestep": 1.0,
    "device": "auto", "save_dir": "runs/forces", "name": "quick",
}  # fmt: skip
PRESETS = {"quick": QUICK}


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = make_parser(__doc__, PRESETS)
    add = parser.add_argument
    add("--num_layers", type=count(1), help="attention layers")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--div", type=positive, help="what channels are divided by for keys and values")
    add("--head", type=count(1), help="attention heads")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions")
    add("--cutoff", type=positive, help="how far edges reach; they end smoothly")
    add("--num_epochs", type=count(1), help="passes over the training clusters")
    add("--batch_size", type=count(1), help="clusters in a batch")
    add("--lr", type=positive, help="learning rate of Adam at the start; falls to a tenth of it along a cosine")
    add("--clip_norm", type=positive, help="largest norm of a gradient")
    add("--seed", type=count(0), help="of clusters, initial weights, batches and velocities")
    add("--atoms", type=count(2), help="atoms in a cluster")
    add("--num_train", type=count(1), help="clusters to train on")
    add("--num_valid", type=count(1), help="clusters that choose the best weights")
    add("--num_test", type=count(1), help="clusters to test on")
    add("--md_steps", type=count(1), help="steps of molecular dynamics after the training")
    add("--md_timestep", type=positive, help="of the dynamics, in femtoseconds")
    add("--device", help="auto, cpu, cuda or cuda:N")
    add("--save_dir", metavar="FOLDER", help="a run's folder is SAVE_DIR/NAME, or SAVE_DIR/NAME-2, ... if it exists")
    add("--name", help="of the run")
    return parser


def batch_loss(model: Callable[[Any], Tensor], batch: Batch, cutoff: float) -> tuple[dict[str, Tensor], int]:
    """Mean squared error of the forces per coordinate; and how many clusters there are."""
    _, forces = energy_and_forces(model, batch.x, batch.z, batch.cluster, cutoff)
    return {"loss": (forces - batch.forces).square().mean()}, len(batch.energy)


def zero(G: Any) -> Tensor:
    """The energy of atoms that exert no forces."""
    return (0 * G.ndata["x"]).sum().expand(G.batch_size)


def make_trainer(flags: Namespace, folder: Path, steps_per_epoch: int) -> Trainer:
    """The training at its beginning."""
    with blame("--device", device="--device"):
        fabric = make_fabric(flags.device, "32-true")
    fabric.seed_everything(flags.seed, verbose=False)
    x_ij = None if flags.xij == "none" else flags.xij
    with blame("--head"):
        model = SE3Transformer(
            flags.num_layers, flags.num_channels, flags.num_degrees, div=flags.div, n_heads=flags.head, x_ij=x_ij
        )
    optimizer = torch.optim.Adam(model.parameters(), lr=flags.lr)
    schedule = cosine_schedule(optimizer, flags.num_epochs * steps_per_epoch)
    loss = partial(batch_loss, cutoff=flags.cutoff)
    return Trainer(fabric, model, optimizer, schedule, loss, folder, clip_norm=flags.clip_norm)


def report(trainer: Trainer, test: EpochLoader, flags: Namespace) -> dict[str, Any]:
    """Test the best weights, let a test cluster move by them, write metrics.json and a plot, print the figures."""
    trainer.use_best()
    model = trainer.model
    with torch.no_grad():
        batch = trainer.fabric.to_device(collate([test.dataset[i] for i in range(len(test.dataset))]))
        energy, _ = energy_and_forces(model, batch.x, batch.z, batch.cluster, flags.cutoff)
    exact = copy.deepcopy(model).cpu().double()
    atoms = moving_atoms(exact, test.dataset.x[0].double().numpy(), flags.cutoff, TEMPERATURE, flags.seed)
    losses = {
        name: evaluate(trainer.fabric, function, trainer.batch_loss, test)
        for name, function in (("zero", zero), ("model", model))
    }
    metrics = {
        **{f"force_error_of_{name}": row["loss"] ** 0.5 for name, row in losses.items()},
        "energy_deviation": float(batch.energy.std()),
        "energy_deviation_from_model": float((batch.energy - energy).std()),
        "dynamics": conservation(atoms, flags.md_timestep, flags.md_steps),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    write_json(trainer.folder / "metrics.json", metrics)
    learning_curves(trainer.epochs, ["loss"], trainer.folder / "learning_curves.png", {"zero": losses["zero"]})
    print(f"""
error of forces     {metrics["force_error_of_model"]:.3f} (root mean square; of predicting zero: {metrics["force_error_of_zero"]:.3f})
energies            deviate by {metrics["energy_deviation"]:.3f}, from the model's by {metrics["energy_deviation_from_model"]:.3f}, which saw none
dynamics            {flags.md_steps} steps of {flags.md_timestep} fs at {TEMPERATURE} K; largest changes:
  energy            {metrics["dynamics"]["energy"]:.1e} eV (mean kinetic energy: {metrics["dynamics"]["kinetic_energy"]:.2f} eV)
  momentum          {metrics["dynamics"]["momentum"]:.1e} (relative)
  angular momentum  {metrics["dynamics"]["angular_momentum"]:.1e} (relative)
everything is in    {trainer.folder}""")  # noqa: E501
    return metrics


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        what metrics.json holds.

    Raises:
        UsageError: flags ask for what cannot be done.
        NonFiniteError: the training diverged.
    """
    flags, _ = parse(build_parser(), PRESETS, arguments)
    with runs.create(vars(flags), None, flags.save_dir, flags.name) as folder:
        sizes = [flags.num_train, flags.num_valid, flags.num_test]
        x = clusters(sum(sizes), flags.atoms, NOISE, torch.Generator().manual_seed(flags.seed))
        train, valid, test = (
            EpochLoader(Clusters(part), flags.batch_size, collate, shuffle=i == 0, seed=flags.seed)
            for i, part in enumerate(x.split(sizes))
        )
        try:
            trainer = make_trainer(flags, folder.path, len(train))
        except Exception:
            folder.discard_if_new()
            raise
        trainer.fit(train, valid, flags.num_epochs, log_interval=10, print_interval=5)
        return report(trainer, test, flags)


if __name__ == "__main__":
    run(main)
