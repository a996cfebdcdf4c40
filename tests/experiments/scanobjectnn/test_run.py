import csv

import pytest

from experiments.scanobjectnn import run
from experiments.scanobjectnn.files import CLASSES, FILES
from tests.experiments.runs import TINY
from utils.cli import UsageError
from utils.files import read_json


def without(*flags):
    """The words of a small run's command line, but for some flags."""
    pairs = zip(TINY["scanobjectnn"][::2], TINY["scanobjectnn"][1::2], strict=True)
    return [word for flag, value in pairs if flag not in flags for word in (flag, value)]


@pytest.fixture
def train(tmp_path):
    return lambda *words: run.main([*TINY["scanobjectnn"], "--output", str(tmp_path / "run"), *words])


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("words", "group"), [([], "z"), (["--no-height"], "so3")])
def test_a_transformer_says_the_same_of_what_its_symmetry_turns(train, tmp_path, capsys, words, group):
    metrics = train(*words)
    assert metrics["equivariance_error"].keys() == {f"rotation ({group})"}
    assert metrics["equivariance_error"][f"rotation ({group})"] < 1e-5
    for name in ("test_z", "test_so3")[: 1 + (group == "so3")]:
        assert metrics[name]["loss"] == pytest.approx(metrics["test"]["loss"], rel=1e-4)
        assert metrics[name]["accuracy"] == metrics["test"]["accuracy"]
    assert read_json(tmp_path / "run" / "metrics.json") == metrics
    assert "of 4 test objects as they stand" in capsys.readouterr().out


def test_the_table_counts_every_test_object(train, tmp_path):
    metrics = train("--num_test", "24", "--no-background")
    rows = table(tmp_path / "run" / "confusion.csv")
    names = [row.pop("class") for row in rows]
    assert [sum(map(int, row.values())) for row in rows] == [2] * len(names)
    right = sum(int(row[name]) for name, row in zip(names, rows, strict=True))
    assert metrics["test"]["accuracy"] == pytest.approx(right / metrics["test_objects"], abs=1e-9)


@pytest.mark.parametrize("model", ["TFN", "PointNet", "HeightSet"])
def test_others_are_trained_alike(tmp_path, model):
    words = without("--head") if model == "TFN" else without("--head", "--num_degrees")
    words += ["--model", model, "--num_layers", "2", "--rotations", "so3"]
    metrics = run.main([*words, "--output", str(tmp_path / "run")])
    assert ("equivariance_error" in metrics) == (model == "TFN")
    assert 0 <= metrics["test_so3"]["accuracy"] <= 1
    if model == "HeightSet":
        assert metrics["test_z"]["loss"] == pytest.approx(metrics["test"]["loss"], rel=1e-5)


def test_the_files_of_scanobjectnn(tmp_path):
    pytest.importorskip("h5py")
    from tests.experiments.scanobjectnn.test_files import arrays, write

    for name in FILES:
        write(tmp_path / name, **arrays(8))
    words = [
        *without("--num_train", "--num_test"),
        "--data",
        str(tmp_path),
        "--no-background",
        "--output",
        str(tmp_path / "run"),
    ]
    metrics = run.main(words)
    assert metrics["test_objects"] == 8
    assert [row["class"] for row in table(tmp_path / "run" / "confusion.csv")] == [*CLASSES]
    with pytest.raises(UsageError, match=r"^--num_valid: expected fewer than the 8 of the file, got 8$"):
        run.main([*words, "--output", str(tmp_path / "other"), "--num_valid", "8"])


def test_files_without_a_mask_have_no_background_to_leave_out(tmp_path):
    pytest.importorskip("h5py")
    from tests.experiments.scanobjectnn.test_files import arrays, write

    for name in FILES:
        write(tmp_path / name, **{**arrays(8), "mask": None})
    words = [*without("--num_train", "--num_test"), "--data", str(tmp_path), "--output", str(tmp_path / "run")]
    with pytest.raises(UsageError, match=r"^--no-background: expected scans with points that are marked as background"):
        run.main([*words, "--no-background"])


@pytest.mark.slow
def test_objects_are_told_better_than_by_chance_and_tilted_ones_worse(tmp_path):
    words = ["--num_train", "360", "--num_valid", "60", "--num_test", "120", "--num_epochs", "6", "--num_points", "64"]
    metrics = run.main([*words, "--ema", "none", "--device", "cpu", "--output", str(tmp_path / "run")])
    assert metrics["test"]["accuracy"] > 0.25
    assert metrics["test_z"]["accuracy"] == pytest.approx(metrics["test"]["accuracy"], abs=0.02)
    assert metrics["test_so3"]["accuracy"] < metrics["test"]["accuracy"] - 0.1
