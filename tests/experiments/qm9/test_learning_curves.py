import numpy as np
import pytest

from experiments.qm9 import bonds, learning_curves
from tests.experiments.qm9.cases import table
from tests.experiments.qm9.test_run import SMALL
from tests.experiments.runs import rows
from utils.cli import UsageError

TINY = [*SMALL, "--epoch_size", "4", "--num_epochs", "1", "--tasks", "mu", "--sizes", "2", "all"]


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Learning curves of six molecules, two of which are for validation."""
    monkeypatch.setattr(
        bonds, "_in_workers", lambda molecules, *_: map(bonds.perceive_one, *zip(*molecules, strict=True))
    )
    m = table()
    content = {"N": m.num_atoms, "Z": m.numbers, "R": m.positions, "mu": np.linspace(1.0, 2.0, 6)}
    np.savez(tmp_path / "some.npz", validation=np.arange(6) < 2, **content)
    files = ["--data_address", str(tmp_path / "some.npz"), "--cache", str(tmp_path), "--output", str(tmp_path / "out")]
    return lambda *words: learning_curves.main([*TINY, *files, *words])


@pytest.mark.pictures
def test_every_size_and_model_is_trained_once_and_told(study, tmp_path, monkeypatch, capsys):
    found = study()
    assert [(row["task"], row["model"], row["num_train"]) for row in found] == [
        ("mu", model, size) for model in ("SE3Transformer", "TFN") for size in (2, 4)
    ]
    assert {row["molecules"] for row in found} == {2}  # the validation rows, which chose nothing
    assert {row["molecules_seen"] for row in found} == {4}
    written = rows(tmp_path / "out" / "curves.csv")
    assert [float(row["mae"]) for row in written] == [row["mae"] for row in found]
    assert (tmp_path / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "| target | | 2 | 4 |".replace("| |", "|  |") in printed
    assert f"| mu (D) | TFN | {found[2]['mae']:.3g} | {found[3]['mae']:.3g} |" in printed
    assert printed.count("linear in the atoms") == 1

    unfinished = tmp_path / "out" / "mu_TFN_2"
    (unfinished / "metrics.json").unlink()
    trained = []
    monkeypatch.setattr(
        learning_curves,
        "train",
        lambda study, train=learning_curves.train: (trained.append(study.folder), train(study)),
    )
    again = study()
    assert trained == [unfinished]
    assert [row["mae"] for row in again] == [row["mae"] for row in found]
    with pytest.raises(UsageError, match=r"^--num_epochs 2 contradicts"):
        study("--num_epochs", "2")


@pytest.mark.parametrize("words", [["--num_layers", "0"], ["--nowhere", "1"]])
def test_what_run_py_refuses_is_refused_before_anything_is_trained(study, tmp_path, words):
    with pytest.raises(UsageError):
        study(*words)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_jobs_share_the_work(study, tmp_path):
    words = "--sizes", "2"
    one, two = study(*words), study(*words, "--jobs", "2", "--output", str(tmp_path / "other"))
    assert [row["mae"] for row in one] == [row["mae"] for row in two]
