"""From a file of structures to a model file that ASE's calculator takes, and dynamics with it."""

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from equivariant_attention.ase_calculator import ModelCalculator
from equivariant_attention.models import Potential
from experiments.forces import run
from tests.experiments.forces.test_frames import labelled, structures
from utils.cli import UsageError
from utils.files import read_json

SMALL = [
    "--channels", "4,4", "--num_layers", "1", "--div", "2", "--num_radial", "4", "--cutoff", "3", "--batch_size", "2",
    "--device", "cpu",
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    write(tmp_path / "data.extxyz", [labelled(atoms * (1, 1, n)) for atoms in (bulk("Cu"), bulk("Al")) for n in (1, 2)])
    write(tmp_path / "molecules.extxyz", structures()[2:])
    return tmp_path / "data.extxyz"


def train(folder, *arguments):
    return run.main([*SMALL, "--output", str(folder), *map(str, arguments)])


@pytest.mark.pictures
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_run_ends_with_a_model_for_ase_and_can_go_on(data, tmp_path, capsys, precision):
    folder = tmp_path / "run"
    metrics = train(folder, "--data", data, "--num_epochs", 2, "--precision", precision)
    assert read_json(folder / "metrics.json") == metrics
    for name in ("energy", "forces", "stress"):
        assert (folder / f"parity_{name}.png").read_bytes().startswith(b"\x89PNG")
        assert metrics[f"test_{name}_rmse"] >= metrics[f"test_{name}_mae"] > 0
    printed = capsys.readouterr().out
    assert "forces, meV/Å" in printed
    assert f"ModelCalculator(Potential.from_pretrained('{folder / 'model.pt'}').double())" in printed
    model = Potential.from_pretrained(folder / "model.pt").double()
    assert model.cutoff == 3
    assert model.known.nonzero().flatten().tolist() == [13, 29]
    energies = []
    for atoms in read(data, ":"):
        energy = atoms.get_potential_energy()
        atoms.calc = ModelCalculator(model)
        energies.append(abs(atoms.get_potential_energy() - energy) / len(atoms))
    told = (3 * metrics["train_energy_mae"] + metrics["valid_energy_mae"]) / 4  # of three structures and of one
    assert 1e3 * np.mean(energies) == pytest.approx(told, rel=1e-3)
    again = run.main(["--resume", str(folder), "--num_epochs", "3"])
    assert again["epochs"] == 3


def test_molecules_have_no_stress_and_files_of_their_own_choose_and_test(tmp_path, data):
    molecules = tmp_path / "molecules.extxyz"
    files = ["--data", molecules, "--valid", molecules, "--test", molecules]
    metrics = train(tmp_path / "run", *files, "--num_epochs", 1)
    assert metrics["train_forces_mae"] == metrics["test_forces_mae"] > 0
    assert "test_stress_mae" not in metrics
    assert not (tmp_path / "run" / "parity_stress.png").exists()


def test_what_cannot_be_trained_on_is_refused(tmp_path, data):
    molecules = tmp_path / "molecules.extxyz"
    for arguments, message in (
        (["--data", tmp_path / "none.xyz"], r"^--data: .*none\.xyz: No such file"),
        (["--data", molecules], "^--data: .* expected at least 2 structures where there is no --valid, got 1"),
        (["--data", data, "--valid", molecules], r"^--valid: expected elements .*, got also H \(1\), O \(8\)"),
    ):
        with pytest.raises(UsageError, match=message):
            train(tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()
