import json
import re

import pytest

from benchmarks import runner
from benchmarks.__main__ import main
from benchmarks.workloads import TRAINING, WORKLOADS
from equivariant_attention.contraction import BACKENDS
from utils.cli import UsageError


def test_list(capsys):
    assert main([]) == {}
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == list(WORKLOADS)
    assert any('"degree:degree 6"' in line for line in lines if line.startswith(" "))


def test_one_workload_from_end_to_end(tmp_path, capsys):
    path = tmp_path / "folder" / "result.json"
    result = main(["nbody", "--repeats", "2", "--threads", "1", "--seed", "3", "--output", str(path)], tiny=True)
    assert json.loads(path.read_text()) == result
    assert [(row["mode"], row["backend"]) for row in result["rows"]] == [("forward", "default"), (TRAINING, "default")]
    for row in result["rows"]:
        assert 0 < row["seconds"]["min"] <= row["seconds"]["median"] <= row["seconds"]["max"]
        assert row["seconds"]["count"] == 2
        assert 0 <= row["memory"]["above"] < row["memory"]["absolute"]
        assert (row["nodes"], row["edges"]) == (5, 20)
    assert result["machine"]["threads"] == 1
    assert result["machine"]["name"]
    assert set(result["versions"]) == {"python", "torch", "equivariant_attention", "commit", "modified"}
    assert result["flops_per_second"] > 0
    assert (result["seed"], result["repeats"]) == (3, 2)
    assert re.match(r"\d{4}-\d\d-\d\dT", result["date"])
    output = capsys.readouterr().out
    assert WORKLOADS["nbody"].about in output
    assert str(path) in output


def test_compare_and_profile(session, capsys):
    other = next(name for name in BACKENDS if name != "oracle")
    result, _ = session("nbody", "--backend", other, "--compare", "oracle", "--compare", "default", "--profile")
    training = [row for row in result["rows"] if row["mode"] == TRAINING]
    assert [row["backend"] for row in training] == result["backends"] == [other, "oracle", "default"]
    assert ["to_first" in row for row in training] == [False, True, True]
    assert all(row["profile"]["seconds"] > 0 for row in training)
    assert "profile" not in result["rows"][0]
    output = capsys.readouterr().out
    assert "× time of the first" in output
    assert "matrix products" in output


def test_single_cases_are_of_one_workload(session):
    result, _ = session("degree:degree 3", "nbody", "degree:degree 1", "nbody:128 systems")
    cases = [(row["workload"], row["case"]) for row in result["rows"] if row["mode"] == TRAINING]
    assert cases == [("degree", "degree 3"), ("degree", "degree 1"), ("nbody", "128 systems")]
    assert result["rows"][1]["growth"]["seconds"] > 0


def test_the_limit_is_that_of_the_process_for_memory(session, monkeypatch):
    seen = []
    monkeypatch.setattr(runner, "in_own_process", lambda setup, *step: seen.append(setup.limit) or {"failed": "slow"})
    result, _ = session("nbody", "--limit", "1500")
    assert seen == [1500, 1500]
    assert result["limit"] == 1500
    assert [row["failed"] for row in result["rows"]] == ["slow", "slow"]


def test_what_cannot_run_says_so(session, capsys):
    result, _ = session("cloud", "--compare", "oracle")
    failed = [row for row in result["rows"] if "failed" in row]
    assert [(row["mode"], row["backend"]) for row in failed] == [("forward", "oracle"), (TRAINING, "oracle")]
    assert capsys.readouterr().out.count("| out of memory ") == 2


def test_every_backend_can_be_named():
    assert BACKENDS
    for name in BACKENDS:
        with pytest.raises(UsageError, match="got flags alone"):  # so the name itself is no mistake
            main(["--compare", name])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("NAME", "nbdy"), ("NAME", "degree:degree"), ("NAME", "nbody:"), ("NAME", "nbdy:128"),
        ("--limit", "nbody --limit 0"), ("--compare", "nbody --compare orcale"), ("--backend", "nbody --backend fast"),
        ("--backends", "nbody --backends edge"), ("--rep", "nbody --rep 3"), ("--repeats", "nbody --repeats 0"),
        ("--device", "nbody --device gpu"), ("--device", "nbody --device cpu:0"), ("--device", "nbody --device cuda:"),
        ("--device", "nbody --device cuda:99"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_by_name(capsys, argument, words):
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    assert re.search(rf"error: (argument |unrecognized arguments: ){argument}\b", capsys.readouterr().err)


def test_a_backend_is_not_compared_with_itself():
    with pytest.raises(UsageError, match="--compare: expected backends other than --backend"):
        main(["nbody", "--compare", "default"])


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("mine")
    with pytest.raises(UsageError, match="--output: expected a file that is not there yet"):
        main(["nbody", "--output", str(path)], tiny=True)
    with pytest.raises(UsageError, match=r"--output: .*expected a folder, got a file"):
        main(["nbody", "--output", str(path / "result.json")], tiny=True)
    assert path.read_text() == "mine"
