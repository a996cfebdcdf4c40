"""A training step of every experiment on a device without numbers: nothing in it makes the host wait, but the batch."""

import importlib

import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write

from equivariant_attention.contraction import use_backend
from equivariant_attention.kernels import launch
from experiments.forces import own_data, trajectory
from experiments.qm9 import sources
from tests import no_waiting
from tests.experiments.forces.test_md17 import arrays
from tests.experiments.forces.test_md17 import write as write_npz
from tests.experiments.qm9.cases import with_tensors
from tests.experiments.runs import TINY
from tests.rewound import Rewound

OTHERS = {
    "an integrator": ("nbody", ["--model", "SE3Integrator"]),
    "an iterative model that chooses its edges": ("toy_optimisation", ["--k_neighbors", "2", "--num_iter", "2"]),
    "a moving average": ("nbody", ["--ema", "0.9", "--clip_norm", "1"]),
    "an envelope": ("qm9", ["--cutoff", "3", "--envelope", "6"]),
    "a tensor field network": ("qm9", ["--model", "TFN"]),
    "NVIDIA's model": ("qm9", ["--model", "SE3TransformerPooled", "--nonlinearity", "norm"]),
    "a vector": ("qm9", ["--task", "dipole"]),
    "a tensor": ("qm9", ["--task", "polarizability"]),
}
CASES = {**{name: (name, []) for name in TINY}, **OTHERS}


class _Adam(torch.optim.AdamW):
    """Without what only CUDA has."""

    def __init__(self, parameters, fused=None, **options):
        super().__init__(parameters, **options)


class _Descent(_Adam):
    """With a rate on the device, which only a fused Adam takes."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.sub_(parameter.grad * group["lr"])


def training(experiment, words, tmp_path, monkeypatch, optimizer=_Adam):
    """The trainer, and a batch, both on the device."""
    monkeypatch.setattr(torch.optim, "AdamW", optimizer)
    config, _ = experiment.command_line.parse(words)
    fabric = no_waiting.fabric()
    monkeypatch.setattr("utils.experiment.CudaGraphs", lambda device: Rewound(lambda: []))
    train = experiment.make_loader(config, fabric, experiment.load(config)["train"], training=True)
    trainer = experiment._make_trainer(config, fabric, tmp_path, train)
    return trainer, fabric.to_device(next(iter(train)))


@pytest.mark.parametrize("name", ["nbody", "toy_optimisation", "qm9"])
def test_a_step_to_capture_waits_for_nothing(tmp_path, monkeypatch, name):
    pytest.importorskip("triton")
    data = ["--data", str(tmp_path / "data")] if name == "nbody" else []
    experiment = importlib.import_module(f"experiments.{name}.run").EXPERIMENT
    words = [*TINY[name], *data, "--cuda_graphs", "--clip_norm", "1", "--ema", "0.9"]
    trainer, batch = training(experiment, words, tmp_path, monkeypatch, _Descent)
    with launch.recorded() as record:
        trainer.take_step(batch)  # makes constants
        launched = len(record)
        for _ in range(2):
            with no_waiting.NothingMoves():
                trainer.take_step(batch)
    assert len(record) == 4 * launched  # of which the second step was recorded and replayed


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


def test_a_step_on_one_molecule_waits_for_nothing(tmp_path, monkeypatch):
    data = write_npz(tmp_path / "water.npz", arrays(), 0)
    words = ["--data", data, "--num_valid", "4", "--num_channels", "4", "--batch_size", "2"]
    trainer, batch = training(trajectory.EXPERIMENT, words, tmp_path, monkeypatch)
    trainer.take_step(batch)
    with no_waiting.NothingMoves():
        trainer.take_step(batch)


@pytest.mark.parametrize("backend", [None, "frame"])
@pytest.mark.parametrize("case", CASES)
def test_a_step_waits_for_nothing(tmp_path, monkeypatch, case, backend):
    if backend is None:
        pytest.importorskip("triton")
    name, words = CASES[case]
    tensors = with_tensors(sources.embedded())
    monkeypatch.setattr(sources, "embedded", lambda: tensors)
    data = ["--data", str(tmp_path / "data")] if name in ("nbody", "chirality") else []
    experiment = importlib.import_module(f"experiments.{name}.run").EXPERIMENT
    trainer, batch = training(experiment, [*TINY[name], *data, *words], tmp_path, monkeypatch)
    with launch.recorded() as record, use_backend(backend):
        trainer.take_step(batch)  # makes constants
        launched = len(record)
        with no_waiting.NothingMoves():
            trainer.take_step(batch)
    assert (len(record) > launched) == (backend is None)
