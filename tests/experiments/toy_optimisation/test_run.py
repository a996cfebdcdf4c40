import json
from dataclasses import replace

import pytest
import torch

from experiments.toy_optimisation import run
from tests.experiments.runs import files, rows
from utils.cli import UsageError

SMALL = ["--num_layers", "1", "--num_degrees", "2", "--num_iter", "2", "--n_points", "4", "--batch_size", "8"]
SMALL += ["--device", "cpu", "--log_interval", "1"]
FEW = ["--epoch_size", "24", "--num_valid", "10", "--num_test", "12"]
PICTURES = {f"pictures/{name}" for name in ("animation.gif", "energy.png", "attention.png")}
NUMBERS = {
    "config.json", "metrics.json", "metrics.csv", "steps.csv", "lock", "checkpoints/last.pt", "checkpoints/best.pt",
}  # fmt: skip


@pytest.fixture
def train(tmp_path):
    def call(*arguments, epochs=2, output="run"):
        given = [] if "--resume" in arguments else [*SMALL, *FEW, "--output", str(tmp_path / output)]
        return run.main([*given, "--num_epochs", str(epochs), *arguments])

    return call


def test_presets_are_the_paper_s_ablations():
    best = run.PRESETS["iterative"]
    assert (best.num_layers, best.num_degrees, best.num_channels, best.num_iter) == (4, 3, 4, 3)
    assert (best.xij, best.basis_gradients) == ("add", True)
    assert run.PRESETS["no-basis-gradients"] == replace(best, basis_gradients=False)
    assert run.PRESETS["single-pass"] == replace(best, num_iter=1)


@pytest.mark.pictures
def test_run_makes_every_file_and_the_table(train, tmp_path, capsys):
    metrics = train()
    assert files(tmp_path / "run") == {*NUMBERS, *PICTURES, "pictures/learning_curves.png"}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    by_network = ["network, both images", "network + gradient descent", "network + gradient descent, both images"]
    assert list(metrics["test"]) == ["start", "network", "gradient descent", *by_network]
    assert max(metrics["equivariance_error"].values()) < 1e-5
    printed = capsys.readouterr().out
    for text in ("12 graphs of 4 points", "gradient descent", "animation", "parameters"):
        assert text in printed
    step = rows(tmp_path / "run" / "steps.csv")[0]
    for name in ("update_norm_0", "update_norm_1", "basis_gradient_1", "network_gradient_1"):
        assert float(step[f"step_{name}"]) > 0
    train("--forward", "--restore", str(tmp_path / "run" / "checkpoints" / "best.pt"), output="forward")
    assert files(tmp_path / "forward") == {"config.json", "metrics.json", "lock", *PICTURES}


@pytest.mark.parametrize(
    "options",
    [
        ["--graph", "dgl", "--head", "2", "--div", "2"],
        ["--simid", "att", "--siend", "1x1", "--xij", "cat", "--num_iter", "1"],
        ["--no-basis_gradients", "--no-log_steps", "--no-gd_post_process", "--xij", "none"],
        pytest.param(["--precision", "bf16-mixed", "--k_neighbors", "2"], marks=pytest.mark.pictures),
        ["--num_workers", "1", "--graph", "own"],
        ["--model", "SE3TransformerRelaxation", "--step_loss", "0.1", "--num_channels", "8"],
    ],
)
def test_flags(train, tmp_path, options):
    if "dgl" in options:
        pytest.importorskip("dgl")
    metrics = train(*options, epochs=1)
    assert files(tmp_path / "run") >= {*NUMBERS, *(PICTURES if "bf16-mixed" in options else ())}
    step = rows(tmp_path / "run" / "steps.csv")[0]
    assert ("step_basis_gradient_1" in step) == ("--num_iter" not in options and "--no-log_steps" not in options)
    assert ("network + gradient descent" in metrics["test"]) == ("--no-gd_post_process" not in options)


def test_double_precision_is_equivariant(train):
    assert max(train("--precision", "64-true", epochs=1)["equivariance_error"].values()) < 1e-12


def test_both_graph_classes_train_alike(train, tmp_path):
    pytest.importorskip("dgl")
    losses = []
    for graph in ("own", "dgl"):
        train("--graph", graph, output=graph)
        losses.append([float(row["train_loss"]) for row in rows(tmp_path / graph / "metrics.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_resumed_gives_the_same(train, tmp_path):
    whole = train(output="whole")
    train("--profile", output="parts")
    again = train("--resume", str(tmp_path / "parts"))
    for metrics in (whole, again):
        del metrics["seconds_per_epoch"]
    assert whole == again
    assert rows(tmp_path / "whole" / "steps.csv") == rows(tmp_path / "parts" / "steps.csv")


def test_forward_on_several_test_sets(train, tmp_path):
    trained = train()
    weights = str(tmp_path / "run" / "checkpoints" / "best.pt")
    forward = train("--forward", "--restore", weights, "--num_runs", "2", output="forward")
    assert files(tmp_path / "forward") == {"config.json", "metrics.json", "lock"}
    assert forward["test"]["start"] != trained["test"]["start"]
    with pytest.raises(UsageError, match=r"^--restore: .*best\.pt: .* with --k_neighbors 2, got .* --k_neighbors None"):
        train("--forward", "--restore", weights, "--k_neighbors", "2", output="other")  # which its weights would fit
    rougher = train("--resume", str(tmp_path / "run"), "--forward", "--gd_stepsize", "0.01", "--gd_tolerance", "0.1")
    assert rougher["test"]["network"] == trained["test"]["network"]
    assert rougher["test"]["gradient descent"]["steps"] != trained["test"]["gradient descent"]["steps"]


def test_training_lowers_the_energy(train):
    metrics = train("--epoch_length", "64", "--lr", "0.02", epochs=4)
    assert metrics["test"]["network"]["energy"] < 0.7 * metrics["test"]["start"]["energy"]


@pytest.mark.slow
def test_the_first_epoch_of_the_default_lowers_the_energy(tmp_path):
    metrics = run.main(["--num_epochs", "1", "--num_test", "100", "--output", str(tmp_path / "run")])
    assert metrics["test"]["network"]["energy"] < 0.5 * metrics["test"]["start"]["energy"]
    assert torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["epoch"] > 0
