"""Evaluation and prediction with a trained model."""

import csv
import shutil

import numpy as np
import pytest
import torch

from experiments.qm9 import bonds, eval, predict, run, structures
from experiments.qm9.trained import from_pretrained
from tests.experiments.qm9.cases import arrays_of, table, with_tensors
from tests.experiments.qm9.test_run import HOMO, SMALL, isomers, molecules
from tests.weights import needs_weights
from tests.wrong.checkpoints import WRONG, make_wrong
from utils.cli import UsageError
from utils.files import read_json


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    monkeypatch.setattr(run.sources, "embedded", molecules)
    monkeypatch.setattr(
        bonds, "_in_workers", lambda molecules, *_: map(bonds.perceive_one, *zip(*molecules, strict=True))
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of a run for each task, and what they report."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.sources, "embedded", molecules)
        tasks = {"homo": HOMO, "dipole": ["--task", "dipole"]}
        metrics = {
            task: run.main([*SMALL, *flags, "--num_epochs", "1", "--output", str(folder / task)])
            for task, flags in tasks.items()
        }
    return folder, metrics


def checkpoint(runs, task="homo"):
    return str(runs[0] / task / "checkpoints" / "best.pt")


@pytest.mark.pictures
@pytest.mark.parametrize("task", ["homo", "dipole"])
def test_evaluation_finds_what_the_run_reports(runs, tmp_path, capsys, task):
    metrics = eval.main(["--checkpoint", checkpoint(runs, task), "--output", str(tmp_path / "out")])
    reported = {name: value for name, value in runs[1][task]["test"].items() if name != "mae_of_linear"}
    assert metrics["test"] == pytest.approx(reported)  # all that does not take the training set
    assert read_json(tmp_path / "out" / "metrics.json") == metrics
    assert (tmp_path / "out" / "parity.png").read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "out" / "predictions.csv").read_text()
    assert written == (runs[0] / task / "predictions.csv").read_text()
    assert "test: 6 molecules" in capsys.readouterr().out


def test_evaluation_on_another_source(runs, tmp_path):
    m = table()
    content = {"N": m.num_atoms, "Z": m.numbers, "R": m.positions, "homo": m.targets["homo"] / 27.211386245988}
    np.savez(tmp_path / "some.npz", validation=np.arange(6) < 2, **content)
    arguments = ["--checkpoint", checkpoint(runs), "--data_address", str(tmp_path / "some.npz"), "--split"]
    cache = ["--cache", str(tmp_path)]
    assert eval.main([*arguments, "valid", *cache])["valid"]["molecules"] == 2
    whole = eval.main([*arguments, "all", *cache, "--precision", "64-true"])
    assert whole["all"]["mae"] == pytest.approx(runs[1]["homo"]["test"]["mae"], rel=1e-5)
    assert max(whole["equivariance_error"].values()) < 1e-12


def test_prediction(runs, tmp_path, capsys):
    numbers, positions = arrays_of("CC=O")
    lines = [f"{z} {x} {y} {w}" for z, (x, y, w) in zip(numbers, positions.tolist(), strict=True)]
    bad = "2\n\nCl 0 0 0\nH 0 0 1.27\n"
    (tmp_path / "some.xyz").write_text("\n".join([f"{bad}{len(lines)}", "", *lines]))
    output = tmp_path / "new" / "out.csv"
    [found] = predict.main(
        [str(tmp_path / "some.xyz"), "CCO", "C(", "--checkpoint", checkpoint(runs), "--output", str(output)]
    )
    assert [*found.names] == ["some.xyz:2", "CCO"]
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["some.xyz:2", "CCO"]
    assert [float(row["predicted homo (eV)"]) for row in rows] == found.predicted[:, 0].tolist()
    acetaldehyde = next(
        row
        for row in csv.DictReader((runs[0] / "homo" / "predictions.csv").read_text().splitlines())
        if row["name"] == "CC=O"
    )
    assert found.predicted[0, 0] == pytest.approx(float(acetaldehyde["predicted homo (eV)"]), rel=1e-5)
    printed = capsys.readouterr()
    assert "2 of 4 molecules, 2 skipped" in printed.out
    assert "skipped some.xyz:1: numbers: expected" in printed.err
    assert "skipped C(: neither a file nor a SMILES" in printed.err


@pytest.mark.parametrize(("words", "code"), [(["CCO"], 0), (["CCO", "C("], 3)])
def test_the_exit_code_of_predict_tells_whether_molecules_were_skipped(runs, tmp_path, monkeypatch, words, code):
    flags = ["--checkpoint", checkpoint(runs), "--output", str(tmp_path / "out.csv")]
    monkeypatch.setattr("sys.argv", ["predict.py", *words, *flags])
    assert predict.program() == code


def predicted_still_and_turned(checkpoint, folder):
    """Predictions of a molecule in two orientations, and the rotation from the first to the second."""
    numbers, positions = arrays_of("CC=O")
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)
    for name, x in (("still", positions), ("turned", positions @ rotation.T)):
        lines = [f"{z} {a} {b} {c}" for z, (a, b, c) in zip(numbers, x.tolist(), strict=True)]
        (folder / f"{name}.xyz").write_text("\n".join([str(len(lines)), "", *lines]))
    arguments = ["--checkpoint", checkpoint, "--output", str(folder / "out.csv")]
    [found] = predict.main([str(folder / "still.xyz"), str(folder / "turned.xyz"), *arguments])
    return found.predicted, rotation


def test_predicted_vectors_turn_with_the_molecule(runs, tmp_path):
    found, rotation = predicted_still_and_turned(checkpoint(runs, "dipole"), tmp_path)
    np.testing.assert_allclose(found[1], rotation @ found[0], atol=1e-5 * np.abs(found).max())
    assert np.abs(found[0]).max() > 0


def test_tensors_are_evaluated_as_the_run_reports_and_turn_with_the_molecule(tmp_path, monkeypatch):
    known = with_tensors(molecules())
    monkeypatch.setattr(run.sources, "embedded", lambda: known)
    words = [*SMALL, "--task", "polarizability", "--num_epochs", "20", "--output", str(tmp_path / "run")]
    reported = run.main(words)["test"]
    of_run = str(tmp_path / "run" / "checkpoints" / "best.pt")
    assert eval.main(["--checkpoint", of_run])["test"] == pytest.approx(reported)
    found, rotation = predicted_still_and_turned(of_run, tmp_path)
    still, turned = found.reshape(2, 3, 3)
    np.testing.assert_allclose(turned, rotation @ still @ rotation.T, atol=1e-5 * np.abs(found).max())
    assert np.abs(still - np.trace(still) / 3 * np.eye(3)).max() > 1e-3


@needs_weights
def test_all_weights_of_this_project_predict_unless_others_are_named(tmp_path, capsys):
    molecules = ["CCO", "CF", "Cc1ccccc1"]
    found = predict.main([*molecules, "--device", "cpu", "--output", str(tmp_path / "out.csv")])
    homo, dipole, *others = found
    assert [one.task for one in found] == ["homo", "dipole", "lumo", "gap", "alpha", "cv", "mu"]
    known = {"lumo": (0.12, 0.1), "gap": (6.55, 0.1), "alpha": (69.9, 0.3), "cv": (23.3, 0.2), "mu": (0.33, 0.1)}
    for one in others:  # of toluene in QM9: eV, a0^3, cal/(mol K), D
        assert one.predicted[2, 0] == pytest.approx(known[one.task][0], abs=known[one.task][1])
    assert -8 < homo.predicted[0, 0] < -6  # eV, of ethanol
    assert 1 < np.linalg.norm(dipole.predicted[0]) < 2.5  # D
    with open(tmp_path / "out.csv", newline="") as file:
        assert [*csv.DictReader(file).fieldnames] == [
            "name", "predicted homo (eV)", *(f"predicted dipole {axis} (D)" for axis in "xyz"), "predicted lumo (eV)",
            "predicted gap (eV)", "predicted alpha (a0^3)", "predicted cv (cal/(mol K))", "predicted mu (D)",
        ]  # fmt: skip
    [of_homo] = predict.main([*molecules, "--checkpoint", "qm9-homo", "--output", str(tmp_path / "homo.csv")])
    np.testing.assert_array_equal(homo.predicted, of_homo.predicted)  # not the other model's
    notes = capsys.readouterr().err.splitlines()
    assert [note for note in notes if "never saw" in note] == [
        "note on CF: qm9-dipole never saw some of its elements: do not rely on it"
    ]


@needs_weights
def test_a_model_of_several_targets_is_evaluated_and_predicts_them_all(tmp_path, monkeypatch):
    monkeypatch.setattr(run.sources, "embedded", isomers)
    reported = run.main([*SMALL, "--task", "homo,mu", "--num_epochs", "1", "--output", str(tmp_path / "run")])["test"]
    best, out = str(tmp_path / "run" / "checkpoints" / "best.pt"), tmp_path / "out"
    metrics = eval.main(["--checkpoint", best, "--output", str(out)])
    assert metrics["test"] == pytest.approx(reported)
    assert metrics["unit"] == "meV,D"
    assert {path.name for path in out.iterdir()} == {
        "metrics.json", "predictions.csv", "parity_homo.png", "parity_mu.png",
    }  # fmt: skip
    homo, mu = predict.main(["COC", "--checkpoint", best, "--output", str(tmp_path / "out.csv")])
    assert (homo.task, mu.task) == ("homo", "mu")
    [row] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    expected = {"predicted homo (eV)": homo.predicted[0, 0], "predicted mu (D)": mu.predicted[0, 0]}
    assert {name: float(value) for name, value in row.items() if name != "name"} == expected
    with pytest.raises(UsageError, match="different targets, got homo, homo, mu"):
        predict.main(["COC", "--checkpoint", "qm9-homo", "--checkpoint", best])


@needs_weights
def test_shipped_weights_have_names():
    [ethanol] = structures.read(["CCO"])
    model = from_pretrained("qm9-homo", device="cpu")
    assert model.predict(ethanol.molecule).predicted == model.predict(ethanol.molecule).predicted
    assert -8 < model.predict(ethanol.molecule).predicted < -6  # eV
    with pytest.raises(UsageError, match="checkpoint"):
        from_pretrained("qm9-none")


def test_of_several_runs_the_mean_counts(runs, tmp_path):
    other = [*SMALL, *HOMO, "--edge_features", "extended", "--seed", "2", "--num_epochs", "1"]
    run.main([*other, "--output", str(tmp_path / "run")])
    files = checkpoint(runs), str(tmp_path / "run" / "checkpoints" / "best.pt")
    [ethanol] = structures.read(["CCO"])
    one, two, both = (
        from_pretrained(*names).predict(ethanol.molecule).predicted for names in ([files[0]], [files[1]], files)
    )
    assert one != two
    np.testing.assert_allclose(both, (one + two) / 2)
    words = [word for file in files for word in ("--checkpoint", file)]
    eval.main([*words, "--split", "test", "--output", str(tmp_path / "out")])
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        found = {row["name"]: float(row["predicted homo (eV)"]) for row in csv.DictReader(file)}
    test = molecules().part("test")
    expected = from_pretrained(*files).predict(test).predicted[:, 0]
    np.testing.assert_allclose([found[name] for name in test.names], expected, rtol=1e-6)
    with pytest.raises(UsageError, match=r"^--checkpoint: expected models of the same targets, got dipole and homo"):
        eval.main(["--checkpoint", files[0], "--checkpoint", checkpoint(runs, "dipole")])


@needs_weights
def test_one_model_of_a_target(runs, tmp_path):
    both = ["--checkpoint", "qm9-homo", "--checkpoint", checkpoint(runs)]
    with pytest.raises(UsageError, match="different targets, got homo, homo"):
        predict.main(["CCO", *both, "--output", str(tmp_path / "out.csv")])


def test_what_cannot_be_done_is_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="none of them could be read"):
        predict.main(["C(", "--checkpoint", checkpoint(runs), "--output", str(tmp_path / "out.csv")])
    assert not (tmp_path / "out.csv").exists()


def test_outputs_that_cannot_be_written_are_found_out_at_once(runs, tmp_path):
    for program, more, output in ((eval, [], "/proc/out"), (predict, ["CCO"], "/proc/out/predictions.csv")):
        with pytest.raises(UsageError, match=r"^--output: /proc/out"):
            program.main([*more, "--checkpoint", "not read yet", "--output", output])


def test_evaluation_does_not_write_over_a_run(runs):
    before = (runs[0] / "homo" / "metrics.json").read_bytes()
    with pytest.raises(UsageError, match=r"^--output: .*homo holds a run, whose files would be lost"):
        eval.main(["--checkpoint", checkpoint(runs), "--output", str(runs[0] / "homo")])
    assert (runs[0] / "homo" / "metrics.json").read_bytes() == before


def test_flags_without_effect_are_refused(runs):
    with pytest.raises(UsageError, match=r"^--data_address has no effect with --source embedded"):
        eval.main(["--checkpoint", checkpoint(runs), "--source", "embedded", "--data_address", "mine.npz"])
    for program, more in ((eval, []), (predict, ["CCO"])):
        with pytest.raises(UsageError, match="unrecognized arguments: --cuda_graphs"):
            program.main([*more, "--checkpoint", checkpoint(runs), "--cuda_graphs"])


def test_missing_data(runs, tmp_path):
    for given in (["--data_address", "nowhere.npz"], ["--source", "published", "--data_address", "nowhere.pt"]):
        with pytest.raises(UsageError, match=r"^--data_address: nowhere\.(npz|pt): there is no such file"):
            eval.main(["--checkpoint", checkpoint(runs), *given])


@pytest.mark.parametrize("program", [predict, eval])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_checkpoints_are_named(runs, tmp_path, program, name):
    path = tmp_path / "best.pt"
    shutil.copy(checkpoint(runs), path)
    _, message = make_wrong(name, path)
    with pytest.raises(UsageError, match=f"^--checkpoint: .*{message}"):
        program.main([*(["CCO"] if program is predict else []), "--checkpoint", str(path)])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head": "many"}, r"best\.pt: head: .*'many'"),
        ({"task": "colour"}, r"best\.pt: task: .*'colour'"),
        ({"head": None}, r"best\.pt: of another version, it differs in the flags \['head'\]"),
        ({"device": 5}, r"best\.pt: device: "),
        ({"batch_size": "x"}, r"best\.pt: batch_size: "),
        ({1: 2}, r"best\.pt: of another version, it differs in the flags \['1'\]"),
        ({"depth": 3}, r"best\.pt: of another version, it differs in the flags \['depth'\]"),
        ({"num_channels": 8}, r"best\.pt: the weights do not fit the model"),
        ({"num_layers": 10**8}, "a model that is much larger than the weights"),
        ({"num_channels": 10**8}, "a model that is much larger than the weights"),
        ({"num_layers": 10**20}, r"best\.pt: num_layers: "),
    ],
)
def test_flags_that_are_not_those_of_the_weights(runs, tmp_path, flags, message):
    content = torch.load(checkpoint(runs), weights_only=True)
    changed = {**content["flags"], **flags}
    content["flags"] = {name: value for name, value in changed.items() if not (name in flags and value is None)}
    torch.save(content, tmp_path / "best.pt")
    with pytest.raises(UsageError, match=f"^--checkpoint: .*{message}"):
        predict.main(["CCO", "--checkpoint", str(tmp_path / "best.pt")])


def test_other_checkpoints_of_runs(runs, tmp_path):
    last = str(runs[0] / "homo" / "checkpoints" / "last.pt")
    with pytest.raises(UsageError, match=r"^--checkpoint: .*expected a checkpoint of kind 'weights 1', got 'training"):
        predict.main(["CCO", "--checkpoint", last])
    torch.save({"kind": "weights 1", "model": {}, "flags": {"num_layers": 1}}, tmp_path / "best.pt")
    with pytest.raises(UsageError, match=r"^--checkpoint: .*: expected best\.pt of a run of experiments.qm9"):
        predict.main(["CCO", "--checkpoint", str(tmp_path / "best.pt")])
