"""A training step of every experiment on a device without numbers: nothing in it makes the host wait, but the batch."""

import importlib
from functools import partial

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write

from equivariant_attention.contraction import use_backend
from equivariant_attention.kernels import launch
from experiments.forces import own_data
from tests import no_waiting
from tests.experiments.runs import TINY

OTHERS = {
    "an integrator": ("nbody", ["--model", "SE3Integrator"]),
    "an iterative model that chooses its edges": ("toy_optimisation", ["--k_neighbors", "2", "--num_iter", "2"]),
    "a moving average": ("nbody", ["--ema", "0.9", "--clip_norm", "1"]),
    "an envelope": ("qm9", ["--cutoff", "3", "--envelope", "6"]),
    "a vector": ("qm9", ["--task", "dipole"]),
}
CASES = {**{name: (name, []) for name in TINY}, **OTHERS}


def training(experiment, words, tmp_path, monkeypatch):
    """The trainer, and a batch, both on the device."""
    monkeypatch.setattr(torch.optim, "AdamW", partial(_adam, torch.optim.AdamW))
    config, _ = experiment.command_line.parse(words)
    fabric = no_waiting.fabric()
    train = experiment.make_loader(config, fabric, experiment.load(config)["train"])
    trainer = experiment._make_trainer(config, fabric, tmp_path, train)
    return trainer, fabric.to_device(next(iter(train)))


def _adam(adam, parameters, fused=None, **options):
    return adam(parameters, **options)  # the fused one knows no such device


@pytest.mark.parametrize("num_layers", ["0", "1"])
@pytest.mark.parametrize("periodic", [True, False])
def test_a_step_on_structures_of_ones_own_waits_for_nothing(tmp_path, monkeypatch, num_layers, periodic):
    frames = [bulk("Cu", cubic=True) if periodic else molecule("H2O") for _ in range(4)]
    for frame in frames:
        frame.rattle(0.1)
        frame.calc = EMT()
        frame.get_forces()
    write(tmp_path / "frames.extxyz", frames)
    words = ["--data", str(tmp_path / "frames.extxyz"), "--num_layers", num_layers, "--batch_size", "2"]
    trainer, batch = training(own_data.EXPERIMENT, words, tmp_path, monkeypatch)
    trainer.take_step(batch)
    with no_waiting.NothingMoves():
        trainer.take_step(batch)


@pytest.mark.parametrize("backend", [None, "frame"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing(tmp_path, monkeypatch, case, backend):
    if backend is None:
        pytest.importorskip("triton")
    name, words = CASES[case]
    data = ["--data", str(tmp_path / "data")] if name in ("nbody", "chirality") else []
    experiment = importlib.import_module(f"experiments.{name}.run").EXPERIMENT
    trainer, batch = training(experiment, [*TINY[name], *data, *words], tmp_path, monkeypatch)
    with launch.recorded() as record, use_backend(backend):
        trainer.take_step(batch)  # makes constants
        launched = len(record)
        with no_waiting.NothingMoves():
            trainer.take_step(batch)
    assert (len(record) > launched) == (backend is None)
