import sys
from types import SimpleNamespace

import pytest

from utils.cli import UsageError
from utils.trackers import WandB, tensorboard


def not_installed(*arguments, **options):
    raise ModuleNotFoundError


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.trackers.TensorBoardLogger", not_installed)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        tensorboard(tmp_path, 0)
    with pytest.raises(UsageError, match="pip install wandb"):
        WandB(tmp_path, {"id": "1234"})


def test_tensorboard_writes_events(tmp_path):
    pytest.importorskip("tensorboard")
    tracker = tensorboard(tmp_path, 0)
    tracker.log_metrics({"loss": 0.5}, 3)
    tracker.finalize("success")
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_wandb_is_told_which_run_goes_on(tmp_path, monkeypatch):
    calls = []
    started = SimpleNamespace(
        log=lambda values, step: calls.append((values, step)), finish=lambda: calls.append("finished")
    )
    fake = SimpleNamespace(init=lambda **options: calls.append(options) or started)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tracker = WandB(tmp_path, {"id": "1234"})
    tracker.log_metrics({"loss": 0.5}, 3)
    tracker.finalize("success")
    assert (calls[0]["id"], calls[0]["resume"], calls[0]["dir"]) == ("1234", "allow", str(tmp_path))
    assert calls[1:] == [({"loss": 0.5}, 3), "finished"]
