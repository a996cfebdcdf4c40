"""Trains a potential of many-body correlations on frames of one molecule, such as those of revised MD17.

python experiments/forces/trajectory.py --data rmd17/ethanol_train_01.npz      of which 50 choose the weights
python experiments/forces/trajectory.py --resume FOLDER                        goes on with an interrupted run
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from experiments.forces.config import MADE, check_precision
from utils import config
from utils.cli import UsageError, answer_help, blame, run
from utils.config import RULES, Count, CountOrZero, File, Free, Positive
from utils.flags import CommandLine


@dataclass(frozen=True, kw_only=True, config=RULES)
class TrajectoryModel:
    """A ManyBodyPotential."""

    num_channels: Count = 32
    """of every degree"""
    max_degree: CountOrZero = 2
    """of densities and their correlations"""
    max_degree_sent: CountOrZero = 1
    """of the features that atoms send each other"""
    num_layers: Count = 2
    """how many times densities are gathered"""
    correlation: Count = 3
    """how many densities are multiplied"""
    num_hidden: Count = 32
    """width of the radial networks and of those of the energies"""
    num_radial: Count = 8
    """Bessel functions of the distance"""
    cutoff: Positive = 5.0
    """how far atoms see, in Å, smoothly"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class TrajectoryData:
    """Frames of one molecule with energies and forces, of any format that ASE reads, or an .npz as MD17 has them."""

    data: File | None = None
    """to train on"""
    num_valid: Count = 50
    """frames of them, drawn by the seed, that choose the best weights"""
    energy_weight: Positive = 0.1
    """of squared errors of the energy per square root of the number of atoms, forces having 1 per coordinate"""
    compile: Free[bool] = False
    """compile the training step, which takes minutes, and then is about three times as fast"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class TrajectoryConfig(config.Config, TrajectoryData, TrajectoryModel):
    """All there is to say of a run."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        return {"graph": MADE, "cuda_graphs": "here: steps are compiled instead, by --compile"}


PRESETS = {
    # At twice the learning rate and a clip of 10, a training that had reached 60 meV/Å went astray.
    "trajectory": TrajectoryConfig(
        num_epochs=1000, batch_size=5, optimizer="soap", lr=5e-3, lr_final=1e-3, warmup=100, clip_norm=1.0,
        ema=0.995, save_dir="runs/trajectory",
    )
}  # fmt: skip
COMMAND_LINE = CommandLine(__doc__, PRESETS)
if __name__ == "__main__":  # PyTorch takes seconds to import
    answer_help(COMMAND_LINE.parser)

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.forces import forces_on_graph
from equivariant_attention.graphs import Graph, with_edge_fields
from equivariant_attention.models import ManyBodyPotential, reference_energies
from equivariant_attention.neighbors import fully_connected_graph
from equivariant_attention.plan import Plan
from experiments.forces.compiled import CompiledLoss
from experiments.forces.frames import labels, read_frames
from experiments.forces.own_data import fit_model
from utils import distributed
from utils.experiment import Experiment, Loaders
from utils.plots import learning_curves
from utils.training import BatchLoss, Trainer

MODEL = "model.pt"
Batch = tuple[Tensor, Tensor, Tensor]  # positions [frames, atoms, 3], energies [frames], forces [frames, atoms, 3]


class Trajectory(Dataset):
    """Frames of one molecule; energies are counted from the mean of those to train on, for float32.

    Args:
        z: atomic numbers, ``[atoms]``.
        x, energy, forces: float64 ``[frames, atoms, 3]``, ``[frames]``, ``[frames, atoms, 3]``, in eV and Å.
        reference: energies of the elements, ``[119]``, that add up to the mean.
    """

    def __init__(self, z: Tensor, x: Tensor, energy: Tensor, forces: Tensor, reference: Tensor) -> None:
        self.z, self.x, self.forces, self.reference = z, x, forces, reference
        self.energy = energy - reference[z].sum()

    def __len__(self) -> int:
        return len(self.x)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.x[indices], self.energy[indices], self.forces[indices]


def load(config: TrajectoryConfig) -> dict[str, Trajectory]:
    """The datasets ``'train'`` and ``'valid'``."""
    check_precision(config.precision)
    if config.data is None:
        raise UsageError("--data: expected a file, got none")
    if config.compile and math.prod(distributed.local_processes()) > 1:
        raise UsageError("--compile: expected one process, got several")
    with blame("--data"):
        frames = read_frames(config.data)
        z = torch.from_numpy(frames[0].numbers).long()
        for number, atoms in enumerate(frames, 1):
            if atoms.pbc.any() or atoms.numbers.tolist() != z.tolist():
                raise ValueError(f"{config.data}, structure {number}: expected the atoms of the first one, and no cell")
        found = [labels(atoms, f"{config.data}, structure {number}") for number, atoms in enumerate(frames, 1)]
    if config.num_valid >= len(frames):
        raise UsageError(f"--num_valid: expected fewer than the {len(frames)} frames, got {config.num_valid}")
    x = torch.from_numpy(np.stack([atoms.positions for atoms in frames]))
    energy = torch.tensor([label["energy"] for label in found], dtype=torch.float64)
    forces = torch.from_numpy(np.stack([label["forces"] for label in found]))
    order = torch.from_numpy(np.random.default_rng(config.seed).permutation(len(frames)))
    valid, train = order.tensor_split([config.num_valid])
    mean = energy[train].mean()[None]
    reference = reference_energies(z, torch.zeros_like(z), mean)
    return {
        name: Trajectory(z, x[part], energy[part], forces[part], reference)
        for name, part in (("train", train), ("valid", valid))
    }


class Loss:
    r"""What is minimised, in units of the spread of the forces, and mean absolute errors in meV and meV/Å.

    .. math:: L = \frac{1}{\sigma^2} \Big( \langle (F - \hat F)^2 \rangle
              + \frac{w}{n} \langle (E - \hat E)^2 \rangle \Big)

    Args:
        z: atomic numbers, ``[atoms]``.
        energy_weight: w.
    """

    def __init__(self, z: Tensor, energy_weight: float) -> None:
        self.z, self.energy_weight = z, energy_weight
        self.graphs: dict[tuple[int, torch.device], tuple[Graph, Plan]] = {}

    def __call__(self, model: ManyBodyPotential, batch: Batch) -> dict[str, Tensor]:
        """The means of a batch; ``loss`` among them.

        Args:
            model: gives energies.
            batch: of :class:`Trajectory`.
        """
        x, energy, forces = batch
        G, plan = self._graph(len(x), x.device)
        moved = with_edge_fields(G, {})
        moved.ndata.update({**G.ndata, "x": x.reshape(-1, 1, 3)})
        found = forces_on_graph(partial(model, plan=plan), moved, model.cutoff, envelope=model.envelope)
        of_energy, of_forces = found.energy.to(energy) - energy, found.forces.view_as(forces) - forces
        loss = of_forces.square().mean() + self.energy_weight / len(self.z) * of_energy.square().mean()
        errors = {"energy_error": of_energy, "forces_error": of_forces}
        return {"loss": loss / model.scale**2} | {name: 1e3 * v.detach().abs().mean() for name, v in errors.items()}

    def _graph(self, frames: int, device: torch.device) -> tuple[Graph, Plan]:
        """Frames side by side, with an edge between every two atoms: where one is longer than the cutoff, it is 0."""
        if (frames, device) not in self.graphs:
            atoms = len(self.z)
            anywhere = torch.arange(3.0 * atoms).view(-1, 3).repeat(frames, 1)
            G = fully_connected_graph(anywhere, torch.arange(frames).repeat_interleave(atoms))
            G.ndata["z"] = self.z.repeat(frames)
            self.graphs[frames, device] = G.to(device), Plan(G).to(device)
        return self.graphs[frames, device]


def make_model(config: TrajectoryConfig) -> ManyBodyPotential:
    """The untrained model."""
    names = ("num_channels", "max_degree", "max_degree_sent", "num_layers", "correlation", "num_hidden", "num_radial")
    return ManyBodyPotential(config.cutoff, **{name: getattr(config, name) for name in names})


def make_loss(config: TrajectoryConfig, dataset: Trajectory) -> BatchLoss:
    """:class:`Loss` of a batch and how many frames there are; compiled, if at all, where it is to be differentiated."""
    loss = Loss(dataset.z, config.energy_weight)
    to_learn = CompiledLoss(loss) if config.compile else loss

    def batch_loss(model: ManyBodyPotential, batch: Batch) -> tuple[dict[str, Tensor], int]:
        return (to_learn if torch.is_grad_enabled() else loss)(model, batch), len(batch[0])

    return batch_loss


def report(
    config: TrajectoryConfig, trainer: Trainer, loaders: Loaders, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """The best weights' errors, learning curves, the model as a file, and how to load it."""
    model, metrics = trainer.model, {}
    for split in ("train", "valid"):
        metrics |= trainer.evaluate(loaders[split], f"{split}_")
    if trainer.epochs:
        learning_curves(trainer.epochs, ["loss", "energy_error", "forces_error"], folder / "learning_curves.png")
    model.reference.copy_(loaders["train"].dataset.reference)
    model.cpu().save_pretrained(folder / MODEL)
    lines = [f"{'mean absolute error':20} {'train':>10} {'valid':>10}"]
    for name, unit in (("energy", "meV"), ("forces", "meV/Å")):
        of_splits = (metrics[f"{split}_{name}_error"] for split in ("train", "valid"))
        lines.append(f"{f'{name}, {unit}':20} " + " ".join(f"{error:>10.2f}" for error in of_splits))
    return metrics, [
        *lines,
        "(valid: the frames that chose the weights, and no test)",
        "\nfrom equivariant_attention.ase_calculator import ModelCalculator",
        "from equivariant_attention.models import ManyBodyPotential",
        f"atoms.calc = ModelCalculator(ManyBodyPotential.from_pretrained({str(folder / MODEL)!r}).double())\n",
    ]


EXPERIMENT = Experiment(
    command_line=COMMAND_LINE,
    model=TrajectoryModel,
    load=load,
    collate=lambda batch, graph: batch,
    make_model=make_model,
    make_loss=make_loss,
    report=report,
    fit_model=fit_model,
    unit="frames",
)
main = EXPERIMENT.main

if __name__ == "__main__":
    run(main)
