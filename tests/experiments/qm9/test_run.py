import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments.qm9 import packaged, run
from experiments.qm9.adapted import adapted
from experiments.qm9.config import MODERN
from experiments.qm9.data import target_values
from experiments.qm9.models import SE3Transformer
from experiments.qm9.molecules import join
from tests.experiments.qm9.cases import SMILES, table, with_tensors
from tests.experiments.runs import rows
from tests.rewound import Rewound
from utils.cli import UsageError

SMALL = ["--num_layers", "1", "--num_degrees", "2", "--num_channels", "4", "--batch_size", "4"]
SMALL += ["--device", "cpu", "--log_interval", "1", "--graph", "own"]
HOMO = ["--task", "homo"]
TENSORS = 15  # of molecules, three times six without the linear one
FILES = {
    "config.json", "metrics.json", "metrics.csv", "steps.csv", "lock", "checkpoints/last.pt", "checkpoints/best.pt",
    "predictions.csv", "parity.png", "learning_curves.png",
}  # fmt: skip


def molecules():
    """Six molecules, which are the same in each split."""
    of_split = table()
    return join([replace(of_split, split=np.full(6, s, np.int8)) for s in range(3)])


def isomers():
    """More molecules, isomers among them, and another number that is known of them."""
    known = table((*SMILES, "CCO", "COC", "C=CO", "CCN"))
    targets = {**known.targets, "mu": np.array([0.5, 3.0, 1.0, 2.0, 4.0, 1.5, 1.8, 0.9, 2.2, 0.1])}
    return join([replace(known, targets=targets, split=np.full(len(known), split, np.int8)) for split in range(3)])


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A training on these in place of the embedded ones."""
    monkeypatch.setattr(run.sources, "embedded", molecules)

    def call(*arguments, epochs=1, output="run"):
        given = [] if "--resume" in arguments else [*SMALL, "--output", str(tmp_path / output)]
        return run.main([*given, "--num_epochs", str(epochs), *arguments])

    return call


FAST = "--lr", "0.01", "--warmup", "0", "--ema", "0.5"


@pytest.fixture
def several(monkeypatch):
    """Molecules of which two targets are known, in place of the embedded ones."""
    monkeypatch.setattr(run.sources, "embedded", isomers)


@pytest.fixture
def tensors(monkeypatch):
    """Molecules of which tensors are known, but for one that is linear, in place of the embedded ones."""
    known = with_tensors(table())
    of_splits = join([replace(known, split=np.full(6, split, np.int8)) for split in range(3)])
    monkeypatch.setattr(run.sources, "embedded", lambda: of_splits)


def config_of(*words):
    return run.COMMAND_LINE.parse(words)[0]


# ------------------------------------------------------------------------------------------------- command line


def test_paper_preset_is_the_published_recipe():
    published = "--num_degrees 4 --num_channels 32 --num_layers 7 --div 2 --head 8 --pooling max --batch_size 32"
    preset = run.PRESETS["paper"]
    _, given = run.COMMAND_LINE.parse([*published.split(), "--lr", "0.001", "--num_epochs", "100"])
    assert replace(preset, **given) == preset
    assert all(getattr(preset, name) in (None, 0) for name in MODERN)


def test_nvidia_preset_is_nvidias_recipe(train):
    recipe = "--num_degrees 4 --num_channels 32 --num_layers 7 --div 2 --head 8 --pooling max --batch_size 240"
    recipe += " --lr 0.002 --num_epochs 100 --nonlinearity norm --precision bf16-mixed --model SE3TransformerPooled"
    _, given = run.COMMAND_LINE.parse(recipe.split())
    assert replace(run.PRESETS["nvidia"], **given) == run.PRESETS["nvidia"]
    small = ["--num_layers", "1", "--num_degrees", "2", "--num_channels", "4", "--head", "2"]
    assert train("--preset", "nvidia", *small, "--source", "embedded")["molecules_seen"] == 6


def test_recipes_change_how_any_preset_trains_and_flags_win():
    assert config_of("--preset", "paper", "--recipe", "modern").ema == MODERN["ema"]
    assert config_of("--recipe", "paper").clip_norm is None
    assert config_of("--recipe", "modern", "--ema", "0.5").ema == 0.5
    assert config_of().warmup == run.PRESETS["quick"].warmup


def test_an_address_alone_tells_the_source_whatever_the_preset():
    assert config_of("--preset", "paper").source == "qm9pack"
    assert config_of("--preset", "paper", "--data_address", "a.npz").resolved_source() == "arrays"
    for words in (["--source", "download", "--data_address", "x"], ["--data_address", "x", "--source", "download"]):
        assert config_of("--preset", "paper", *words).source == "download"


@pytest.mark.parametrize("preset", ["homo", "paper", "nvidia"])
def test_qm9_without_the_package(preset, monkeypatch, tmp_path):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    words = ["--preset", preset, "--cache", str(tmp_path), "--output", str(tmp_path / "run")]
    with pytest.raises(UsageError, match="--source qm9pack: qm9pack is not installed: pip install qm9pack"):
        run.main(words)


def test_molecules_of_test_ids_are_trained_and_chosen_on_by_nobody(tmp_path, monkeypatch):
    names = np.array([f"gdb_{number}" for number in range(18)])
    monkeypatch.setattr(run.sources, "embedded", lambda: replace(molecules(), names=names))
    np.savez(tmp_path / "ids.npz", homo=np.array([2, 3], np.int32), more=np.array([3, 17]))
    config = config_of("--task", "homo", "--test_ids", str(tmp_path / "ids.npz"))
    found = {split: {*dataset.molecules.names} for split, dataset in run.load(config).items()}
    assert found["test"] == {"gdb_2", "gdb_3", "gdb_17"}
    assert found["train"] | found["valid"] == {*names} - found["test"]
    assert len(found["train"]) == 6
    for content, message in (({}, "expected arrays of whole numbers, got none"), ({"x": np.array([0.5])}, "whole")):
        np.savez(tmp_path / "ids.npz", **content)
        with pytest.raises(UsageError, match=f"^--test_ids: .*{message}"):
            run.load(config)
    np.savez(tmp_path / "ids.npz", x=np.array([99]))
    with pytest.raises(UsageError, match=r"^--test_ids: expected numbers of some of the molecules"):
        run.load(config)


@pytest.mark.parametrize(
    ("address", "source"),
    [(None, "embedded"), ("QM9_data.pt", "published"), ("a/b.npz", "arrays"), ("data/qm9", "download")],
)
def test_sources_are_known_by_their_address(address, source):
    given = [] if address is None else ["--data_address", address]
    assert config_of(*given).resolved_source() == source
    assert config_of(*given, "--source", "arrays").resolved_source() == "arrays"


# -------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(
    "options",
    [
        HOMO,
        [*HOMO, "--model", "TFN", "--fully_connected", "--graph", "dgl"],
        [*HOMO, "--cutoff", "2", "--envelope", "6", "--num_workers", "1", "--pooling", "max"],
        ["--task", "dipole"],
        [*HOMO, "--model", "SE3TransformerPooled", "--nonlinearity", "norm"],
    ],
    ids=["bonded", "TFN fully connected", "smooth cutoff", "vectors", "NVIDIA's model"],
)
def test_run_makes_every_file_and_the_table(train, tmp_path, capsys, options):
    if "dgl" in options:
        pytest.importorskip("dgl")
    metrics = train(*options)
    folder = tmp_path / "run"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == FILES
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert max(metrics["equivariance_error"].values()) < 1e-4  # float32
    predicted = [line.split(",")[-1] for line in (folder / "predictions.csv").read_text().splitlines()[1:]]
    assert len(set(predicted)) > 1  # as of a model that gives the same for all it would be 0
    assert metrics["test"]["molecules"] == len(rows(folder / "predictions.csv")) == 6
    assert ("mae_norm" in metrics["test"]) == ("mae_of_linear" not in metrics["test"]) == ("dipole" in options)
    printed = capsys.readouterr().out
    for text in ("embedded: 18 molecules", "mean absolute error", "predicting the mean", "molecules seen        6"):
        assert text in printed


@pytest.mark.parametrize("degrees", ["1", "3"])
def test_tensors_are_learnt_and_degree_0_alone_learns_no_anisotropy(train, tensors, tmp_path, capsys, degrees):
    metrics = train("--task", "polarizability", "--num_degrees", degrees, "--epoch_size", "4", epochs=4)
    printed = capsys.readouterr().out
    assert f"{TENSORS} of them with a known polarizability" in printed
    assert "with --task polarizability" not in printed  # flags have an effect
    assert "isotropic part" in printed
    assert max(metrics["equivariance_error"].values()) < 1e-4
    lines = rows(tmp_path / "run" / "predictions.csv")
    assert len(lines) == metrics["test"]["molecules"] == TENSORS / 3
    off_diagonal = max(abs(float(line["predicted polarizability xy (a0^3)"])) for line in lines)
    assert (off_diagonal < 1e-5) == (degrees == "1")
    possible = target_values(with_tensors(table()), "polarizability").reshape(6, 4, 9)[:, :, [0, 1, 2, 4, 5, 8]]
    for line in lines:
        true = [float(value) for name, value in line.items() if name.startswith("true")]
        assert np.abs(possible[SMILES.index(line["name"])] - true).max(axis=1).min() < 1e-5
    if degrees == "3":
        assert metrics["valid"]["mae"] < 2 * metrics["valid"]["mae_of_linear"]


def test_a_training_on_tensors_interrupted_and_resumed_ends_the_same(train, tensors, tmp_path):
    options = ["--task", "polarizability", "--num_degrees", "3", "--rotate"]
    train(*options, epochs=3, output="whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Trainer, "evaluate", stop_after(2, run.Trainer.evaluate))
        with pytest.raises(KeyboardInterrupt):
            train(*options, epochs=3, output="stopped")
    train("--resume", str(tmp_path / "stopped"), epochs=3)
    assert rows(tmp_path / "stopped" / "metrics.csv") == rows(tmp_path / "whole" / "metrics.csv")


@pytest.mark.parametrize("model", ["TFN", "SE3TransformerPooled"])
def test_tensors_have_one_model(train, tensors, model):
    with pytest.raises(UsageError, match="--task polarizability: expected --model SE3Transformer, tensors have no oth"):
        train("--task", "polarizability", "--model", model, "--nonlinearity", "norm")


def test_figures_are_those_of_the_predictions(train, tmp_path):
    metrics = train(*HOMO)["test"]
    lines = rows(tmp_path / "run" / "predictions.csv")
    true, predicted = (np.array([float(row[f"{name} homo (eV)"]) for row in lines]) for name in ("true", "predicted"))
    np.testing.assert_array_equal(true, table().targets["homo"])
    assert metrics["mae"] == pytest.approx(1000 * np.abs(predicted - true).mean())  # meV
    assert metrics["mae_of_mean"] == pytest.approx(1000 * np.abs(true.mean() - true).mean(), rel=1e-5)


def test_one_mean_and_standard_deviation_of_the_training_set_for_all(train, tmp_path):
    train(*HOMO, "--num_train", "5")
    weights = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["model"]
    known = run.draw(table(), 5, "").targets["homo"]
    assert weights["mean"].item() == pytest.approx(known.mean())
    assert weights["std"].item() == pytest.approx(known.std())


def test_without_validation_the_last_weights_are_kept(train, tmp_path):
    metrics = train(*HOMO, "--num_valid", "0", "--ema", "0.5", epochs=2)
    assert "valid" not in metrics
    assert metrics["best_epoch"] == 2
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)["model"]
    kept = torch.cat([value.flatten() for name, value in best.items() if name.startswith("net.")])
    average, weights = state["average"]["module.0"], state["model"]["net.FCblock.2.weight"]
    torch.testing.assert_close(kept.sum(), average.sum())  # in which there are zeros between them
    assert not torch.equal(weights, best["net.FCblock.2.weight"])


def test_without_a_test_the_report_is_of_the_validation_split(train, tmp_path, capsys):
    metrics = train(*HOMO, "--num_test", "0")
    assert "test" not in metrics
    assert metrics["valid"]["molecules"] == len(rows(tmp_path / "run" / "predictions.csv"))
    assert f"valid: {metrics['valid']['molecules']} molecules" in capsys.readouterr().out


def test_a_report_is_of_some_molecules(train):
    with pytest.raises(UsageError, match="--num_test: expected some molecules with --num_valid 0"):
        train(*HOMO, "--num_valid", "0", "--num_test", "0")


def test_training_learns(train):
    metrics = train(*HOMO, "--lr", "0.01", "--warmup", "0", "--ema", "0.5", epochs=40)
    assert metrics["valid"]["mae"] < 0.5 * metrics["valid"]["mae_of_mean"]


def test_shorter_epochs_interrupted_and_resumed_end_the_same(train, tmp_path):
    options = [*HOMO, "--epoch_size", "4"]
    whole = train(*options, epochs=4, output="whole")
    assert whole["molecules_seen"] == 16
    stopped = tmp_path / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Trainer, "evaluate", stop_after(2, run.Trainer.evaluate))
        with pytest.raises(KeyboardInterrupt):
            train(*options, epochs=4, output="stopped")
    assert len(rows(stopped / "metrics.csv")) == 2
    train("--resume", str(stopped), epochs=4)
    for name in ("metrics.csv", "steps.csv"):
        assert rows(stopped / name) == rows(tmp_path / "whole" / name)


def stop_after(epochs, evaluate):
    calls = []

    def stopping(*arguments):
        calls.append(1)
        if len(calls) > epochs:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    return stopping


def test_published_weights_are_restored(train, tmp_path):
    flags = [*HOMO, "--nonlinearity", "norm"]
    net = SE3Transformer(1, 6, 4, num_degrees=2, edge_dim=4, div=2, n_heads=2)
    torch.save(net.state_dict(), tmp_path / "published.pt")
    losses = [
        train(*flags, "--forward", "--restore", str(path), output=f"{number}")["test"]
        for number, path in enumerate([tmp_path / "published.pt"] * 2)
    ]
    assert losses[0] == losses[1]
    with pytest.raises(UsageError, match="the weights do not fit the model"):
        train(*flags, "--restore", str(tmp_path / "published.pt"), "--num_channels", "8", output="other")


@pytest.mark.parametrize("readouts", ["shared", "own"])
def test_several_targets_are_learnt_together(train, several, tmp_path, capsys, readouts):
    words = "--task", "homo,mu", "--readouts", readouts
    metrics = train(*words, *FAST, epochs=40)
    folder = tmp_path / "run"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == FILES - {"parity.png"} | {"parity_homo.png", "parity_mu.png"}
    assert metrics["unit"] == "meV,D"
    assert metrics["valid"]["mae"] < 0.5 * metrics["valid"]["mae_of_linear"]
    last = rows(folder / "metrics.csv")[-1]
    assert float(last["valid_mae_mu"]) < float(rows(folder / "metrics.csv")[0]["valid_mae_mu"])
    lines = rows(folder / "predictions.csv")
    true, predicted = (np.array([float(row[f"{name} mu (D)"]) for row in lines]) for name in ("true", "predicted"))
    assert metrics["test"]["mae_mu"] == pytest.approx(np.abs(predicted - true).mean())
    assert "linear in the atoms\nhomo (meV) " in capsys.readouterr().out
    goes_on = train("--forward", *words, "--restore", str(folder / "checkpoints" / "best.pt"), output="on")
    assert goes_on["test"] == metrics["test"]


def test_one_target_has_a_readout_of_its_own(train, several, tmp_path):
    words = "--task", "mu", "--readouts", "own"
    metrics = train(*words, *FAST, epochs=40)
    assert float(rows(tmp_path / "run" / "metrics.csv")[0]["valid_mae"]) > 2 * metrics["valid"]["mae"]
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    assert "net.of_atoms.2.weight" in torch.load(best, weights_only=True)["model"]
    assert train("--forward", *words, "--restore", str(best), output="on")["test"] == metrics["test"]
    together = train("--task", "homo,mu", "--readouts", "own", output="together")
    both = str(tmp_path / "together" / "checkpoints" / "best.pt")
    alone = train("--forward", *words, "--restore", both, output="alone")
    assert alone["test"]["mae"] == pytest.approx(together["test"]["mae_mu"])
    with pytest.raises(UsageError, match=r"^--restore: .*the weights do not fit the model"):
        train(*words, "--readouts", "shared", "--restore", both, output="back")


def test_targets_count_as_much_as_their_weights(train, several, tmp_path):
    errors = [
        train("--task", "homo,mu", "--task_weights", words, *FAST, output=words, epochs=20)["valid"]
        for words in ("1,1e-6", "1e-6,1")
    ]
    assert errors[0]["mae"] < errors[1]["mae"]
    assert errors[0]["mae_mu"] > errors[1]["mae_mu"]


def test_weights_begin_a_model_that_sees_more_of_edges(train, tmp_path):
    before = train(*HOMO)
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    words = [*HOMO, "--edge_features", "extended", "--restore"]
    assert train("--forward", *words, best, output="wider")["test"] == pytest.approx(before["test"])
    train(*words, best, output="on")
    wider = str(tmp_path / "on" / "checkpoints" / "best.pt")
    train(*words, wider, output="again")
    with pytest.raises(UsageError, match=r"^--restore: .*the weights do not fit the model"):
        train(*HOMO, "--restore", wider, output="back")


def test_weights_of_one_target_begin_several_but_for_their_head(train, several, tmp_path):
    train(*HOMO, "--pooling", "max")
    best, words = tmp_path / "run" / "checkpoints" / "best.pt", ["--task", "homo,mu", "--restore"]
    weights = torch.load(best, weights_only=True)["model"]
    for readouts in ("own", "shared"):
        config = config_of("--task", "homo,mu", "--readouts", readouts, *SMALL)
        model = run.make_model(config)
        own, found = model.state_dict(), adapted(config, model, weights, {})
        assert found.keys() == own.keys()
        for name, value in found.items():
            is_own = "FCblock" in name or "of_atoms" in name or "net" not in name
            assert torch.equal(value, own[name] if is_own else weights[name])
    assert any("Gblock" in name and not torch.equal(value, own[name]) for name, value in found.items())
    train(*words, str(best), output="other")
    with pytest.raises(UsageError, match=r"^--restore: expected weights of --task homo,mu with --forward, got those"):
        train("--forward", *words, str(best), output="forward")
    with pytest.raises(UsageError, match=r"^--restore: .*the weights do not fit the model"):
        train(*HOMO, "--restore", str(tmp_path / "other" / "checkpoints" / "best.pt"), output="back")
    with pytest.raises(UsageError, match=r"^--restore: .* --num_channels 8, got those of one with --num_channels 4"):
        train(*words, str(best), "--num_channels", "8", output="wide")


def test_weights_of_another_target_begin_one_but_for_its_scale(train, several, tmp_path):
    small = ["--nonlinearity", "norm", "--pooling", "max", "--task"]
    train(*small, "homo")
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    config = config_of(*small, "mu", *SMALL)
    model, weights = run.make_model(config), torch.load(best, weights_only=True)["model"]
    model.mean.fill_(3)
    found = adapted(config, model, weights, {"task": "homo"})
    assert (found["mean"], found["std"]) == (3, 1)
    assert all(value is weights[name] for name, value in found.items() if name.startswith("net."))
    train(*small, "mu", "--restore", best, output="on")
    with pytest.raises(UsageError, match=r"^--restore: expected weights of --task mu with --forward, got"):
        train(*small, "mu", "--forward", "--restore", best, output="forward")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "homo,dipole"], r"--task: expected numbers alone to be learnt together, got dipole"),
        (["--task", "homo,colour"], r"--task: expected targets among mu, .*'homo,colour'"),
        (["--task", "homo,cv"], r"--task: expected one of .* got homo,cv"),
        (["--task", "homo,mu", "--per_atom"], "--per_atom has no effect with several targets"),
        (["--task", "homo,mu", "--pooling", "max"], "--pooling has no effect with several targets"),
        (["--task", "dipole", "--readouts", "own"], "--readouts has no effect unless --task names numbers"),
        (["--task", "mu", "--readouts", "own", "--pooling", "avg"], "--pooling has no effect with --readouts own"),
        (["--task", "mu", "--task_weights", "1"], "--task_weights has no effect unless --task names several targets"),
        (["--task", "homo,mu", "--task_weights", "1"], "--task_weights: expected 2, one of each target, got 1"),
        (["--task", "homo,mu", "--task_weights", "1,-1"], "--task_weights: expected numbers above 0 with commas"),
        (["--task", "homo,mu", "--task_weights", "1,x"], "--task_weights: expected numbers above 0 with commas"),
    ],
)
def test_what_several_targets_are_not_for(train, several, words, message):
    with pytest.raises(UsageError, match=message):
        train(*words)


def test_a_checkpoint_says_what_it_is_made_of(train, tmp_path):
    train(*HOMO)
    content = torch.load(tmp_path / "run" / "checkpoints" / "best.pt", weights_only=True)
    assert content["flags"]["task"] == "homo"
    assert content["flags"]["num_channels"] == 4


@pytest.mark.parametrize("model", ["SE3Transformer", "TFN", "SE3TransformerPooled"])
def test_a_training_of_padded_batches_and_recorded_steps_is_the_training(train, tmp_path, monkeypatch, model):
    words = [*HOMO, "--model", model, "--nonlinearity", "norm", "--ema", "0.9", "--clip_norm", "1"]
    train(*words, epochs=4, output="plain")
    monkeypatch.setattr("utils.experiment._check_machine", lambda config, fabric: None)
    monkeypatch.setattr("utils.experiment.CudaGraphs", lambda device: recorder)
    recorder = Rewound(lambda: [])  # it would rewind tensors of an optimizer, which it does not know
    recorder.record = lambda function: recorder.calls.append("record") or function
    train(*words, "--cuda_graphs", epochs=4)
    assert "record" in recorder.calls
    for name in ("metrics.csv", "steps.csv"):
        plain, recorded = rows(tmp_path / "plain" / name), rows(tmp_path / "run" / name)
        for one, other in zip(plain, recorded, strict=True):
            values, found = ({k: float(v) for k, v in row.items()} for row in (one, other))
            assert found == pytest.approx(values, rel=1e-3)
