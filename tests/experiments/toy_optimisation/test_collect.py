import json
import shutil

import pytest

from experiments.toy_optimisation import collect
from utils.cli import UsageError
from utils.files import read_json, write_json

FLAGS = {"output": "/home/me/run", "save_dir": "runs", "lr": 0.1}
ROW = {"energy": 0.05, "standard_error": 0.001}
METRICS = {
    "test": {"start": {**ROW, "energy": 0.32}, "network": ROW, "gradient descent": {**ROW, "energy": 0.062}},
    "epochs": 2,
    "seconds_per_epoch": 3.2,
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "iterative"
    for name in collect.KEPT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("content")
    (folder / "metrics.csv").write_text("epoch,valid_loss\n1,0.2\n2,0.1\n")
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    write_json(folder / "config.json", {"id": "1", "flags": FLAGS})
    return folder


@pytest.mark.pictures
def test_runs_side_by_side(folder, tmp_path, capsys):
    output = tmp_path / "results"
    collect.main([str(folder), "--output", str(output)])
    assert "| iterative | 0.0500 ± 0.0010 |  | 2 | 3 |" in (output / "table.md").read_text().splitlines()
    assert "| gradient descent | 0.0620 ± 0.0010 | | | |" in capsys.readouterr().out
    assert (output / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    kept = {"output": None, "save_dir": "runs", "lr": 0.1}
    assert read_json(output / "iterative" / "config.json") == {"id": "1", "flags": kept}
    assert {path.name for path in (output / "iterative").iterdir()} == {name.split("/")[-1] for name in collect.KEPT}


def test_runs_that_are_not_finished_are_refused(folder, tmp_path):
    (folder / "metrics.json").unlink()
    with pytest.raises(UsageError, match=r"iterative: expected a finished run, without metrics\.json"):
        collect.main([str(folder), "--output", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written(folder):
    with pytest.raises(UsageError, match=r"^--output: /proc/results"):
        collect.main([str(folder), "--output", "/proc/results"])


def test_runs_are_not_written_over(folder, tmp_path):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(UsageError, match=r"^--output .*: iterative there is a run, whose files would be lost"):
        collect.main([str(folder), "--output", str(tmp_path)])
    assert (folder / "config.json").read_bytes() == before
    other = shutil.copytree(folder, tmp_path / "other" / "iterative")
    with pytest.raises(UsageError, match=r"^RUN: expected folders of different names"):
        collect.main([str(folder), str(other), "--output", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()
