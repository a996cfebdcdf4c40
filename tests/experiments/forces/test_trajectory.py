"""From frames of one molecule to a model file, with steps compiled or not."""

from functools import partial

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import write

from equivariant_attention.ase_calculator import ModelCalculator
from equivariant_attention.models import ManyBodyPotential
from experiments.forces import trajectory
from experiments.forces.compiled import CompiledLoss
from tests.experiments.forces.test_frames import labelled
from tests.experiments.forces.test_md17 import arrays
from tests.experiments.forces.test_md17 import write as write_npz
from utils.cli import UsageError
from utils.files import read_json

SMALL = [
    "--num_channels", "4", "--max_degree", "1", "--num_hidden", "8", "--num_radial", "4", "--num_valid", "4",
    "--device", "cpu", "--num_epochs", "2",
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return write_npz(tmp_path / "water.npz", arrays(), 0)


def train(folder, *arguments):
    return trajectory.main([*SMALL, "--output", str(folder), *map(str, arguments)])


def config_of(*arguments):
    return trajectory.COMMAND_LINE.parse([*SMALL, *map(str, arguments)])[0]


def test_a_run_ends_with_a_model_for_ase_and_can_go_on(data, tmp_path, capsys):
    folder = tmp_path / "run"
    metrics = train(folder, "--data", data)
    assert read_json(folder / "metrics.json") == metrics
    assert f"ManyBodyPotential.from_pretrained('{folder / 'model.pt'}')" in capsys.readouterr().out
    model = ManyBodyPotential.from_pretrained(folder / "model.pt").double()
    valid = trajectory.load(config_of("--data", data))["valid"]
    wrong = []
    for x, energy, forces in zip(valid.x, valid.energy, valid.forces, strict=True):
        atoms = molecule("H2O")
        atoms.numbers, atoms.positions = valid.z.numpy(), x.numpy()
        atoms.calc = ModelCalculator(model)
        whole = energy + valid.reference[valid.z].sum()
        wrong.append([abs(atoms.get_potential_energy() - whole), np.abs(atoms.get_forces() - forces.numpy()).mean()])
    energy_error, forces_error = 1e3 * np.mean(wrong, axis=0)
    assert energy_error == pytest.approx(metrics["valid_energy_error"], rel=1e-3)
    assert forces_error == pytest.approx(metrics["valid_forces_error"], rel=1e-3)
    assert trajectory.main(["--resume", str(folder), "--num_epochs", "3"])["epochs"] == 3


def test_frames_are_parted_without_any_twice(data):
    parts = trajectory.load(config_of("--data", data))
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "valid": 4}
    x = torch.cat([part.x for part in parts.values()])
    assert len(x.flatten(1).unique(dim=0)) == 12
    assert parts["train"].energy.mean().abs() < 1e-6


def test_atoms_beyond_the_cutoff_do_not_count(data):
    parts = trajectory.load(config_of("--data", data))
    model = trajectory.make_model(config_of("--cutoff", "1.2"))
    trajectory.fit_model(model.double(), parts["train"])
    x, *_ = parts["valid"].__getitems__([0])
    found = model.predict(parts["valid"].z, x[0])  # of a graph that ends at the cutoff
    batch = x, found.energy.detach(), found.forces.detach()[None]
    assert trajectory.Loss(parts["train"].z, energy_weight=0.1)(model, batch)["loss"] < 1e-20


def test_a_recorded_step_is_the_same(data, monkeypatch):
    """Inductor, which takes a minute, is given what 'aot_eager' runs."""
    train, losses, gradients = trajectory.load(config_of("--data", data))["train"], [], []
    monkeypatch.setattr(trajectory, "CompiledLoss", partial(CompiledLoss, backend="aot_eager"))
    for flags in (["--compile"], []):
        torch.manual_seed(0)
        config = config_of("--num_layers", "1", "--correlation", "2", *flags)
        model, batch_loss = trajectory.make_model(config).double(), trajectory.make_loss(config, train)
        trajectory.fit_model(model, train)
        for frames in ([0, 1], [2, 3], [4]):  # each step of its own numbers and sizes
            means, size = batch_loss(model, train.__getitems__(frames))
            assert size == len(frames)
            (2 * means["loss"]).backward()
            losses.append([means[name].item() for name in ("loss", "energy_error", "forces_error")])
        gradients.append([p.grad for p in model.parameters()])
    assert np.array(losses[:3]) == pytest.approx(np.array(losses[3:]), rel=1e-9)
    assert losses[0] != losses[1]
    for recorded, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(recorded, plain)
        assert plain.any()


def test_frames_of_several_molecules_are_refused_and_too_few(data, tmp_path):
    write(tmp_path / "two.extxyz", [labelled(molecule(name)) for name in ("H2O", "CO2")])
    for arguments, message in (
        (["--data", tmp_path / "two.extxyz"], "^--data: .* structure 2: expected the atoms of the first one"),
        (["--data", data, "--num_valid", 12], "^--num_valid: expected fewer than the 12 frames, got 12"),
    ):
        with pytest.raises(UsageError, match=message):
            train(tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_one_process_compiles(data, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory.distributed, "local_processes", lambda: (2, 1))
    with pytest.raises(UsageError, match=r"^--compile: expected one process"):
        trajectory.load(config_of("--data", data, "--compile"))
