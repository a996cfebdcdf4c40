import pytest

from experiments.chirality import run
from tests.experiments.runs import TINY, assert_every_flag_has_a_value_in_every_preset
from utils.cli import UsageError
from utils.files import read_json


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    return lambda *words: run.main([*TINY["chirality"], "--data", data, "--output", str(tmp_path / "run"), *words])


def test_every_flag_has_a_value_in_every_preset():
    assert_every_flag_has_a_value_in_every_preset(run)
    best, blind = run.PRESETS["quick"], run.PRESETS["distances"]
    assert {name for name in best if best[name] != blind[name]} == {"num_degrees"}


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_distances_are_right_half_the_time(train, tmp_path, capsys, precision):
    """By construction, whatever was learnt: a molecule and its mirror image get the same answer."""
    metrics = train("--num_degrees", "1", "--precision", precision)
    assert metrics["answers_that_a_mirror_changes"] == 0
    assert metrics["test"]["accuracy"] == pytest.approx(0.5, abs=1e-12)
    assert read_json(tmp_path / "run" / "metrics.json") == metrics
    assert "a mirror changes    0.0000 of the answers" in capsys.readouterr().out


@pytest.mark.slow
def test_vectors_are_better_than_chance(data, tmp_path):
    metrics = run.main(["--device", "cpu", "--data", data, "--output", str(tmp_path / "run")])
    assert metrics["test"]["accuracy"] > 0.7
    assert metrics["answers_that_a_mirror_changes"] > 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--molecules", "nowhere.npz"], "--molecules: .*nowhere"),
        (["--num_molecules", "1"], "--num_molecules: expected some with stereocentres"),
    ],
)
def test_what_cannot_be_trained_is_refused(data, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        run.main([*arguments, "--num_epochs", "1", "--data", data, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
