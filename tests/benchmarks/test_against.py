import re
import shutil

import pytest

from benchmarks import against
from benchmarks.memory import ROOT
from utils.cli import UsageError

COLUMNS = ["workload", "case", "step", "old", "new", "× time", "in one round", "old memory", "new memory", "× memory"]


@pytest.fixture
def old(tmp_path):
    """A checkout whose benchmarks have no workload 'protein'."""
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    with (tmp_path / "benchmarks" / "workloads.py").open("a") as file:
        file.write('\ndel WORKLOADS["protein"]\n')
    for package in ("equivariant_attention", "experiments", "utils"):
        (tmp_path / package).symlink_to(ROOT / package)
    return tmp_path


def test_two_checkouts_from_end_to_end(old, capsys):
    words = [str(old), "connected:40 atoms, 8 channels", "protein", "--rounds", "1", "--repeats", "2", "--threads", "1"]
    compared, lacking = against.main(words, tiny=True)
    assert list(compared) == list(lacking) == COLUMNS
    assert compared["case"] == "40 atoms, 8 channels"
    assert 0 < float(compared["× time"]) < 100
    assert all(compared.values())
    assert list(filter(None, lacking.values())) == ["protein", "256 residues", "forward+backward", "is not there"]
    output, progress = capsys.readouterr()
    assert "| protein " in output
    assert progress.splitlines()[1] == "protein, 256 residues, forward+backward, is not there"


def test_checkouts_take_turns_and_medians_are_compared(monkeypatch, old):
    turns, seconds = [], {"old": iter([2.0, 4.0, 2.0]), "new": iter([3.0, 4.0, 1.0])}

    def measure(folder, spec):
        turns.append("new" if folder == ROOT else "old")
        taken = next(seconds[turns[-1]])
        return {"seconds": taken, "bytes": 1000 * taken}

    monkeypatch.setattr(against, "_measure", measure)
    (line,) = against.main([str(old), "connected:40 atoms, 8 channels", "--rounds", "3"])
    assert turns == ["old", "new", "new", "old", "old", "new"]
    assert list(line.values())[3:] == ["2 s", "3 s", "1.500", "0.500 to 1.500", "2 kB", "3 kB", "1.50"]


def test_a_process_that_fails_tells_why(old):
    (old / "benchmarks" / "workloads.py").write_text("raise ImportError('half a checkout')")
    with pytest.raises(RuntimeError, match=r"measuring protein, 256 residues, (.|\n)*half a checkout"):
        against.main([str(old), "protein"], tiny=True)


def test_an_old_folder_that_is_no_checkout_is_refused(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    with pytest.raises(UsageError, match="OLD_FOLDER: expected the root of a checkout of this repository, got /"):
        against.main([str(tmp_path), "nbody"])


@pytest.mark.parametrize(
    ("argument", "words"), [("NAME", []), ("NAME", ["nbdy"]), ("--rounds", ["nbody", "--rounds", "0"])]
)
def test_bad_arguments_are_refused_by_name(argument, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        against.main([str(ROOT), *words])
    assert re.search(rf"error: (argument |the following arguments are required: ){argument}\b", capsys.readouterr().err)
