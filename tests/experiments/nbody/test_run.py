import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.nbody import run
from experiments.nbody.data import load_or_simulate
from experiments.nbody.models import TFN
from experiments.nbody.simulation import Settings
from tests.experiments.runs import files, rows
from utils.cli import UsageError
from utils.training import NonFiniteError

SMALL = ["--num_layers", "1", "--num_degrees", "2", "--num_channels", "4", "--batch_size", "4"]
SMALL += ["--device", "cpu", "--log_interval", "2"]
FEW = ["--num_train", "12", "--num_valid", "6", "--num_test", "5"]
FILES = {
    "config.json", "metrics.json", "metrics.csv", "steps.csv", "lock", "checkpoints/last.pt", "checkpoints/best.pt",
}  # fmt: skip
# For the script in another process. Threads change the order of sums: as many there as here.
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(Path(run.__file__).parents[2])
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Where every run of these tests finds its simulations after the first."""
    return str(tmp_path_factory.mktemp("data"))


@pytest.fixture
def train(data, tmp_path):
    def call(*arguments, epochs=2, output="run"):
        given = [] if "--resume" in arguments else [*SMALL, "--output", str(tmp_path / output)]
        given += [] if {"--resume", "--ri_data"} & {*arguments} else [*FEW, "--data", data]
        return run.main([*given, "--num_epochs", str(epochs), *arguments])

    return call


# ------------------------------------------------------------------------------------------------- command line


def test_presets_state_their_horizon():
    frames = {name: preset.ri_delta_t for name, preset in run.PRESETS.items()}
    assert frames == {"quick": 5, "paper": 10, "paper-500": 5, "integrator": 10, "egnn": 10}
    assert next(iter(run.PRESETS)) == "quick"


def test_published_command_is_the_paper_preset():
    published = "--ri_delta_t 10 --num_degrees 4 --batch_size 128 --num_channels 8 --div 4 --ri_burn_in 0 "
    published += "--siend att --xij add --head 2"
    preset = run.PRESETS["paper"]
    _, given = run.COMMAND_LINE.parse(published.split())
    assert replace(preset, **given) == preset
    assert (preset.num_layers, preset.lr, preset.num_train) == (4, 1e-3, 3000)


def test_script_reports_errors_without_a_traceback(tmp_path):
    command = [sys.executable, run.__file__, "--resume", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 2
    assert done.stderr == f"error: --resume: {tmp_path} holds no run (there is no config.json)\n"


# -------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.pictures
@pytest.mark.parametrize("options", [[], ["--graph", "own", "--model", "TFN"], ["--precision", "bf16-mixed"]])
def test_pictures(train, tmp_path, options):
    train(*options, epochs=1)
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    train(*options, "--forward", "--restore", best, output="forward")
    for output, names in (("run", ("learning_curves", "predictions")), ("forward", ("predictions",))):
        plots = tmp_path / output / "plots"
        assert files(plots) == {f"{name}.png" for name in names}
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.iterdir())


@pytest.mark.parametrize("graph", ["own", "dgl"])
@pytest.mark.parametrize("model", ["SE3Transformer", "TFN"])
def test_run_makes_every_file_and_the_table(train, tmp_path, capsys, graph, model):
    if graph == "dgl":
        pytest.importorskip("dgl")
    metrics = train("--graph", graph, "--model", model)
    folder = tmp_path / "run"
    assert files(folder) == FILES
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert len(rows(folder / "metrics.csv")) == 2
    assert metrics["test"].keys() == {model, "linear motion", "constant"}
    assert max(metrics["equivariance_error"].values()) < 1e-5  # float32
    assert metrics["horizon_steps"] == 500
    printed = capsys.readouterr().out
    for text in ("5 trajectories, 500 steps ahead", "linear motion", "equivariance error", "parameters", "seconds per"):
        assert text in printed


@pytest.mark.parametrize("preset", ["egnn", "integrator"])
def test_presets_of_the_integrator(data, tmp_path, capsys, preset):
    arguments = ["--preset", preset, "--num_steps", "2", "--batch_size", "4", "--num_epochs", "2", "--device", "cpu"]
    metrics = run.main([*arguments, *FEW, "--data", data, "--output", str(tmp_path / "run")])
    errors = {"position"} if preset == "egnn" else {"position", "velocity"}
    assert metrics["test"]["SE3Integrator"].keys() == {"loss", *errors}
    assert ("MSE velocity" in capsys.readouterr().out) == ("velocity" in errors)
    assert (metrics["horizon_steps"], metrics["horizon_time"]) == (1000, pytest.approx(1.0))
    assert max(metrics["equivariance_error"].values()) < 1e-5
    config = run.PRESETS[preset]
    assert (config.num_train, config.num_valid, config.num_test) == (3000, 2000, 2000)


def test_data_may_have_a_seed_of_their_own(train, tmp_path):
    options = ["--data_seed", "7", "--ri_start_at", "zero"]
    tables = [train(*options, "--seed", seed, epochs=1, output=seed)["test"] for seed in "12"]
    assert tables[0]["linear motion"] == tables[1]["linear motion"]
    assert tables[0]["SE3Transformer"] != tables[1]["SE3Transformer"]


def test_both_graph_classes_train_alike(train, tmp_path):
    pytest.importorskip("dgl")
    losses = []
    for graph in ("own", "dgl"):
        train("--graph", graph, output=graph)
        losses.append([float(row["train_loss"]) for row in rows(tmp_path / graph / "metrics.csv")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("model", ["SE3Transformer", "TFN"])
def test_double_precision_is_equivariant(train, model):
    metrics = train("--precision", "64-true", "--model", model, epochs=1)
    assert max(metrics["equivariance_error"].values()) < 1e-12


def test_mixed_precision(train, tmp_path):
    train("--precision", "bf16-mixed", epochs=1)
    weights = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["model"]
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_workers_and_other_flags(train, tmp_path):
    train("--num_workers", "1", "--graph", "own", "--ri_data_type", "springs", "--n_balls", "3", "--xij", "cat",
          "--simid", "att", "--siend", "1x1", "--head", "2", "--div", "1", "--ri_start_at", "zero")  # fmt: skip
    assert files(tmp_path / "run") == FILES


def test_two_particles(train):
    """As many edges as particles."""
    metrics = train("--n_balls", "2", epochs=1)
    assert max(metrics["equivariance_error"].values()) < 1e-5


def test_training_beats_linear_motion_on_its_own_data(train):
    metrics = train("--lr", "0.01", "--num_train", "64", "--batch_size", "16", epochs=12)
    results = metrics["valid"]
    assert results["SE3Transformer"]["loss"] < 0.9 * results["linear motion"]["loss"]


def test_runs_do_not_share_a_folder(data, tmp_path, train):
    with pytest.raises(UsageError, match=r"^--name: "):
        run.main([*SMALL, "--save_dir", str(tmp_path), "--name", ""])
    for _ in range(2):
        run.main([*SMALL, *FEW, "--data", data, "--num_epochs", "1", "--save_dir", str(tmp_path), "--name", "trial"])
    assert {"trial", "trial-2"} <= {path.name for path in tmp_path.iterdir()}
    before = (tmp_path / "trial" / "metrics.csv").read_bytes()
    with pytest.raises(UsageError, match="already holds a run"):
        train(output="trial")
    assert (tmp_path / "trial" / "metrics.csv").read_bytes() == before


def test_profile_stops_before_training_and_can_be_resumed(train, tmp_path, capsys):
    assert train("--profile") == {}
    folder = tmp_path / "run"
    assert files(folder) == {"config.json", "lock", "profile/trace.json", "profile/table.txt"}
    assert "stopped after profiling" in capsys.readouterr().out
    train("--resume", str(folder))
    assert files(folder) > FILES


@pytest.mark.parametrize("graph", ["own", "dgl"])
def test_training_that_diverges_stops_with_the_batch_saved(train, tmp_path, graph):
    if graph == "dgl":
        pytest.importorskip("dgl")
    with pytest.raises(NonFiniteError, match=r"nonfinite\.pt"):
        train("--lr", "1e30", "--graph", graph)
    G, _, target = torch.load(tmp_path / "run" / "nonfinite.pt", weights_only=False)["batch"]
    assert G.ndata["v"].isfinite().all()
    assert len(target) == G.num_nodes()


# -------------------------------------------------------------------------------------------------------- data


def published(trajectories):
    names = ("loc", "vel", "charges", "edges", "sample_freq")
    return {{"loc": "points"}.get(name, name): getattr(trajectories, name) for name in names}


@pytest.mark.parametrize("with_valid", [True, False])
def test_published_data_files(train, tmp_path, data, with_valid):
    for split in ("train", "valid", "test") if with_valid else ("train", "test"):
        content = published(load_or_simulate(data, Settings(length=1000), 6, 0, split))
        with open(tmp_path / f"ds_{split}_mine.pkl", "wb") as file:
            pickle.dump(content, file)
    metrics = train("--ri_data", str(tmp_path), "--data_str", "mine", "--ri_delta_t", "10")
    assert metrics["horizon_steps"] == 1000
    assert ("valid" in metrics) == with_valid
    assert ("valid_loss" in rows(tmp_path / "run" / "metrics.csv")[0]) == with_valid
    assert metrics["epochs"] == 2


def test_data_files_of_different_horizons_are_refused(train, tmp_path, data):
    for split, sample_freq in (("train", 100), ("test", 50)):
        content = published(load_or_simulate(data, Settings(length=1000, sample_freq=sample_freq), 6, 0, split))
        with open(tmp_path / f"ds_{split}_charged5.pkl", "wb") as file:
            pickle.dump(content, file)
    with pytest.raises(UsageError, match=r"^--sample_freq: expected one horizon, got 0\.5 in train and 0\.25 in test"):
        train("--ri_data", str(tmp_path))


def test_extra_evaluation_file(train, tmp_path, data):
    trajectories = load_or_simulate(data, Settings(length=1000, sample_freq=500), 6, 0, "test")
    arrays = {name: getattr(trajectories, name) for name in ("loc", "vel", "charges")}
    np.savez(tmp_path / "extra.npz", **arrays)
    extra = ["--evaluate", str(tmp_path / "extra.npz"), "--evaluate_sample_freq", "500"]
    metrics = train(*extra, epochs=1)
    assert metrics["evaluate"].keys() == metrics["test"].keys()
    with pytest.raises(UsageError, match=r"2 frames of .* are a time of 1, but the model predicts 0\.5 ahead"):
        train(*extra, "--evaluate_delta_t", "2", output="other")
    with pytest.raises(UsageError, match=r"^--evaluate: .*extra\.npz: --evaluate_sample_freq: the file does not hold"):
        train(*extra[:2], output="other")
    again = train("--resume", str(tmp_path / "run"), *extra, epochs=1)  # only evaluates
    assert again == metrics
    assert "evaluate" not in train("--resume", str(tmp_path / "run"), "--evaluate", "none", epochs=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["flags"]["evaluate"] is None


# ------------------------------------------------------------------------------------------- weights, resuming


def test_restore(train, tmp_path):
    train(epochs=1)
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    weights = torch.load(best, weights_only=True)["model"]
    torch.save(weights, tmp_path / "published.pt")
    starts = []
    for number, path in enumerate((best, tmp_path / "published.pt", None)):
        train(*(["--restore", str(path)] if path else []), "--log_interval", "1", epochs=1, output=f"restored{number}")
        starts.append(rows(tmp_path / f"restored{number}" / "steps.csv")[0]["step_loss"])
    assert starts[0] == starts[1] != starts[2]
    with pytest.raises(UsageError, match="the weights do not fit the model"):
        train("--restore", str(tmp_path / "published.pt"), "--num_channels", "8", output="other")
    # With another number of heads they would fit.
    with pytest.raises(UsageError, match=r"best\.pt: expected weights of a model with --head 1, got .* --head 2"):
        train("--restore", str(best), "--head", "1", output="other")


def test_an_integrator_goes_as_far_as_the_data_do(train, tmp_path):
    small = ["--model", "SE3Integrator", "--num_steps", "2", "--ri_delta_t"]
    train(*small, "4", epochs=1)
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    train(*small, "5", "--restore", best, epochs=1, output="further")
    further = torch.load(tmp_path / "further" / "checkpoints" / "best.pt", weights_only=True)["model"]
    assert further["horizon"] == 0.5


def test_forward_evaluates_restored_weights(train, tmp_path):
    trained = train(epochs=1)
    forward = train("--forward", "--restore", str(tmp_path / "run" / "checkpoints" / "best.pt"), output="forward")
    assert forward["test"] == trained["test"]
    assert files(tmp_path / "forward") == {"config.json", "metrics.json", "lock"}


def test_restore_of_a_published_tensor_field_network(train, tmp_path, monkeypatch):
    weights = TFN(1, 4, 2).state_dict()
    repeated = {name.replace("Gblock", "enc"): value for name, value in weights.items()}
    torch.save({**weights, **repeated}, tmp_path / "published.pt")
    monkeypatch.setattr("equivariant_attention.basis_signs._has_warned", False)
    with pytest.warns(UserWarning, match="python -m equivariant_attention.published convert"):
        train("--model", "TFN", "--restore", str(tmp_path / "published.pt"), epochs=1)


def test_resume_refuses_contradictions(train, tmp_path):
    train(epochs=1)
    folder = str(tmp_path / "run")
    with pytest.raises(UsageError, match=r"--lr 0\.5 contradicts the resumed run, which has 0\.003"):
        train("--resume", folder, "--lr", "0.5")
    with pytest.raises(UsageError, match="--preset paper contradicts"):
        train("--resume", folder, "--preset", "paper")
    metrics = train("--resume", folder, "--lr", "0.003", "--print_interval", "1", "--num_workers", "0", epochs=2)
    assert metrics["epochs"] == 2
    assert json.loads((tmp_path / "run" / "config.json").read_text())["flags"]["num_epochs"] == 2


@pytest.mark.parametrize(
    ("arguments", "epochs", "message"),
    [
        (["--evaluate", "nowhere.npz"], 2, "--evaluate: nowhere.npz: there is no such file"),
        (["--device", "tpu"], 2, "--device: "),
        ([], 1, "--num_epochs 1: the resumed run has done 2 epochs already"),
    ],
)
def test_a_failed_resumption_leaves_the_run_as_it_was(train, tmp_path, arguments, epochs, message):
    train()
    config = tmp_path / "run" / "config.json"
    before = config.read_bytes()
    with pytest.raises(UsageError, match=f"^{message}"):
        train("--resume", str(tmp_path / "run"), *arguments, epochs=epochs)
    assert config.read_bytes() == before


@pytest.mark.parametrize("change", [{"lr": "fast"}, {"model": "GCN"}, {"num_layers": None}, {"restore": []}])
def test_resume_refuses_flags_that_are_none(train, tmp_path, change):
    train("--profile")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "flags": {**config["flags"], **change}}))
    with pytest.raises(UsageError, match=rf"^--resume: .*config\.json: {next(iter(change))}: "):
        train("--resume", str(tmp_path / "run"))


def test_resume_from_a_truncated_checkpoint(train, tmp_path):
    train(epochs=1)
    path = tmp_path / "run" / "checkpoints" / "last.pt"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match=r"^--resume: .*last\.pt: expected a whole checkpoint"):
        train("--resume", str(tmp_path / "run"))
    assert (tmp_path / "run" / "config.json").exists()
