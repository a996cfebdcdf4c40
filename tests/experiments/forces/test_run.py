import pytest

from experiments.forces import run
from utils.cli import UsageError
from utils.files import read_json

SMALL = ["--num_layers", "1", "--num_degrees", "2", "--num_channels", "4", "--head", "1", "--atoms", "4"]
FEW = ["--num_train", "8", "--num_valid", "4", "--num_test", "4", "--md_steps", "3"]


@pytest.fixture
def train(tmp_path):
    return lambda *arguments: run.main([*SMALL, "--device", "cpu", "--output", str(tmp_path / "run"), *arguments])


@pytest.mark.pictures
@pytest.mark.parametrize(("x_ij", "precision"), [("none", "32-true"), ("cat", "64-true")])
def test_run_makes_every_file_and_can_be_evaluated_again(train, tmp_path, capsys, x_ij, precision):
    folder = tmp_path / "run"
    metrics = train(*FEW, "--num_epochs", "1", "--xij", x_ij, "--precision", precision)
    assert read_json(folder / "metrics.json") == metrics
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "error of forces" in capsys.readouterr().out
    again = run.main(["--resume", str(folder), "--forward", "--md_steps", "2"])
    assert again["force_error"] == metrics["force_error"]
    assert again["energy_error"] == metrics["energy_error"]
    restored = ["--restore", str(folder / "checkpoints" / "best.pt"), "--output", str(tmp_path / "other")]
    with pytest.raises(UsageError, match=r"^--restore: .*with --cutoff 2\.0 --xij .*, got .* --cutoff 2\.5 --xij"):
        train(*FEW, *restored, "--cutoff", "2", "--xij", "add")


@pytest.mark.slow
def test_training_on_forces_finds_forces_energies_and_what_is_conserved(train):
    metrics = train("--num_train", "256", "--num_valid", "16", "--num_test", "32", "--num_epochs", "6", "--lr", "1e-2")
    assert metrics["force_error"] < 0.4 * metrics["force_error_of_zero"]
    assert metrics["energy_error"] < 0.7 * metrics["energy_error_of_mean"]
    changes = metrics["dynamics"]
    assert changes["momentum"] < 1e-13
    assert changes["angular_momentum"] < 1e-13
    assert changes["energy"] < 0.1 * changes["kinetic_energy"]
