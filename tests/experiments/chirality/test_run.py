from dataclasses import replace

import pytest

from experiments.chirality import run
from tests.experiments.runs import TINY
from utils.files import read_json


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    return lambda *words: run.main([*TINY["chirality"], "--data", data, "--output", str(tmp_path / "run"), *words])


def test_a_preset_knows_distances_alone():
    assert run.PRESETS["distances"] == replace(run.PRESETS["quick"], num_degrees=1)


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
