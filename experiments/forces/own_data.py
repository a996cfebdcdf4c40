"""Trains a potential on structures with energies and forces, and ends with a file that ASE's calculator takes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equivariant_attention.forces import forces_on_graph
from equivariant_attention.models import AtomicEnergies, Potential
from equivariant_attention.models.elements import symbols
from experiments.forces.config import FRAMES, OWN_DATA, FrameConfig, FrameModel, check_precision
from experiments.forces.frames import Batch, Frames, collate, read_frames
from utils.cli import UsageError, blame
from utils.config import none_or_text
from utils.experiment import Experiment, Loaders
from utils.flags import CommandLine
from utils.plots import learning_curves, parity
from utils.training import BatchLoss, Trainer

MODEL = "model.pt"
UNITS = {"energy": ("meV/atom", 1e3), "forces": ("meV/Å", 1e3), "stress": ("meV/Å³", 1e3)}  # and how many to eV, Å


def load(config: FrameConfig) -> dict[str, Frames]:
    """The datasets ``'train'``, ``'valid'`` and ``'test'``."""
    check_precision(config.precision)
    if config.data is None:  # "none" on the command line
        raise UsageError("--data: expected a file, got none")
    with blame("--data"):
        frames = read_frames(config.data)
        if config.valid is None:
            if len(frames) < 2:
                raise ValueError(f"{config.data}: expected at least 2 structures where there is no --valid, got 1")
            order = np.random.default_rng(config.seed).permutation(len(frames))
            tenth = max(1, len(frames) // 10)
            held, frames = [frames[i] for i in order[:tenth]], [frames[i] for i in order[tenth:]]
        train = Frames(frames, config.data, config.cutoff)
        if config.valid is None:
            held_out = Frames(held, config.data, config.cutoff, train.reference)
    if config.valid is not None:
        with blame("--valid"):
            held_out = Frames(read_frames(config.valid), config.valid, config.cutoff, train.reference)
    test = held_out
    if config.test is not None:
        with blame("--test"):
            test = Frames(read_frames(config.test), config.test, config.cutoff, train.reference)
    for name, part in (("--valid", held_out), ("--test", test)):
        if others := {*part.z.tolist()} - {*train.z.tolist()}:
            raise UsageError(f"{name}: expected elements that are trained on, got also {symbols(others)}")
    return {"train": train, "valid": held_out, "test": test}


def make_model(config: FrameConfig) -> Potential:
    """The untrained model."""
    return Potential(
        config.cutoff,
        {degree: int(m) for degree, m in enumerate(config.channels.split(","))},
        config.num_layers,
        n_heads=config.head,
        div=config.div,
        x_ij=none_or_text(config.xij),
        nonlinearity=config.nonlinearity,
        radial_basis=config.radial_basis,
        num_radial=config.num_radial,
        activation=config.activation,
    )


def fit_model(model: AtomicEnergies, dataset: Any) -> None:
    """Give a model its elements and the scale of the forces.

    It learns energies without those of the elements, of which float32 would hold few digits: :func:`report` adds them.

    Args:
        model: untrained.
        dataset: to train on; it has ``z`` and ``forces``.
    """
    spread, z = float(dataset.forces.square().mean().sqrt()), dataset.z
    model.set_references(z, torch.zeros_like(z), torch.zeros(1), spread if spread > 0 else 1.0)


def errors(model: Potential, batch: Batch) -> dict[str, Tensor]:
    """Predicted minus true: energies per atom ``[structures]``, forces ``[atoms, 3]``, stresses ``[structures, 3, 3]``.

    Stresses that are not known count as right.

    Args:
        model: the model.
        batch: from :func:`collate`.
    """
    G, plan, cell, energy, forces, stress, has_stress = batch
    found = forces_on_graph(partial(model, plan=plan), G, model.cutoff, cell, model.envelope)
    wrong = torch.zeros_like(stress) if found.stress is None else found.stress - stress
    return {
        "energy": (found.energy.to(energy) - energy) / G.batch_num_nodes(),
        "forces": found.forces - forces,
        "stress": torch.where(has_stress[:, None, None], wrong, 0),
    }


def batch_loss(model: Potential, batch: Batch, weights: dict[str, float]) -> tuple[dict[str, Tensor], int]:
    """Mean squared errors, weighted and added, and their roots; and how many atoms there are.

    Args:
        model: the model.
        batch: from :func:`collate`.
        weights: of energies, forces and stresses.
    """
    of, (G, _, cell, *_, has_stress) = errors(model, batch), batch
    volumes = torch.zeros_like(of["energy"]) if cell is None else cell.det().abs()
    volume_per_atom = (volumes / G.batch_num_nodes())[:, None, None]
    parts = {
        "energy": of["energy"].square().mean(),
        "forces": of["forces"].square().mean(),
        "stress": (of["stress"] * volume_per_atom).square().sum() / (9 * has_stress.sum()).clamp_min(1),
    }
    loss = sum(weight * parts[name] for name, weight in weights.items())
    return {"loss": loss, **{f"{name}_error": part.detach().sqrt() for name, part in parts.items()}}, G.num_nodes()


def make_loss(config: FrameConfig, dataset: Frames) -> BatchLoss:
    """What is minimised, with the weights of the configuration."""
    return partial(batch_loss, weights={name: getattr(config, f"{name}_weight") for name in UNITS})


def report(config: FrameConfig, trainer: Trainer, loaders: Loaders, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Tables of the best weights' errors, plots, the model as a file, and how to load it."""
    model, metrics = trainer.model, {}
    lines = [f"{'mean absolute error (root mean square)':40} {'train':>20} {'valid':>20} {'test':>20}"]
    found = {split: predictions(trainer, loaders[split]) for split in ("train", "valid", "test")}
    for name, (unit, factor) in UNITS.items():
        cells = []
        for split, (_, of) in found.items():
            error = factor * of[name]
            if error.numel():
                mean, root = float(error.abs().mean()), float(error.square().mean().sqrt())
                metrics[f"{split}_{name}_mae"], metrics[f"{split}_{name}_rmse"] = mean, root
            cells.append(f"{mean:.2f} ({root:.2f})" if error.numel() else "-")
        lines.append(f"{f'{name}, {unit}':40} " + " ".join(f"{cell:>20}" for cell in cells))
    if config.test is None:
        lines.append("(test: the structures that chose the weights; name others by --test)")
    draw(found["test"], trainer, folder)
    model.reference.copy_(loaders["train"].dataset.reference)
    model.cpu().save_pretrained(folder / MODEL)
    return metrics, [
        *lines,
        "\nfrom equivariant_attention.ase_calculator import ModelCalculator",
        "from equivariant_attention.models import Potential",
        f"atoms.calc = ModelCalculator(Potential.from_pretrained({str(folder / MODEL)!r}).double())\n",
    ]


def predictions(trainer: Trainer, loader: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is true of all structures, and the errors, both as :func:`errors` has them, but for stresses not known.

    Args:
        trainer: after the training.
        loader: gives their batches.
    """
    true: dict[str, list[Tensor]] = {name: [] for name in UNITS}
    wrong: dict[str, list[Tensor]] = {name: [] for name in UNITS}
    with torch.no_grad():
        for batch in loader:
            batch = trainer.fabric.to_device(batch)
            G, *_, energy, forces, stress, has_stress = batch
            targets = {"energy": energy / G.batch_num_nodes(), "forces": forces, "stress": stress}
            for name, error in errors(trainer.model, batch).items():
                known = has_stress if name == "stress" else slice(None)
                wrong[name].append(error[known].cpu())
                true[name].append(targets[name][known].cpu())
    together = [{name: torch.cat(parts) for name, parts in values.items()} for values in (true, wrong)]
    return together[0], together[1]


def draw(found: tuple[dict[str, Tensor], dict[str, Tensor]], trainer: Trainer, folder: Path) -> None:
    """Parity plots and learning curves.

    Args:
        found: of :func:`predictions`.
        trainer: after the training.
        folder: for the files.
    """
    true, wrong = found
    for name, (unit, factor) in UNITS.items():
        values = factor * true[name].double().flatten().numpy()
        if len(values):
            predicted = values + factor * wrong[name].double().flatten().numpy()
            parity(values, predicted, f"{name} ({unit})", folder / f"parity_{name}.png")
    if trainer.epochs:
        names = ["loss", *(f"{name}_error" for name in UNITS if len(true[name]))]
        learning_curves(trainer.epochs, names, folder / "learning_curves.png")


EXPERIMENT = Experiment(
    command_line=CommandLine(OWN_DATA, FRAMES),
    model=FrameModel,
    load=load,
    collate=collate,
    make_model=make_model,
    make_loss=make_loss,
    report=report,
    fit_model=fit_model,
    unit="structures",
)
