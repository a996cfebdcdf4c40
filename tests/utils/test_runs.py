import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils import runs
from utils.cli import UsageError

NO_FLAGS = '{"id": "0", "environment": {}, "flags": []}'
FLAGS = {"rate": 0.1, "epochs": 3, "output": None}


@pytest.fixture
def create(tmp_path):
    opened = []

    def make(output=None, name="trial"):
        opened.append(runs.create(FLAGS, output and str(output), str(tmp_path), name))
        return opened[-1]

    yield make
    for run in opened:
        run.close()


def test_configuration_comes_back(create):
    with create() as run:
        stored = run.config
        assert stored["flags"] == FLAGS
        assert {"python", "torch", "threads"} <= stored["environment"].keys()
    with runs.reopen(str(run.path)) as again:
        assert again.config == stored


def test_changed_flags_keep_the_identity(create):
    with create() as run:
        identity = run.config["id"]
    with runs.reopen(str(run.path)) as again:
        again.write_config({**FLAGS, "epochs": 4})
    with runs.reopen(str(run.path)) as last:
        assert last.config["flags"]["epochs"] == 4
        assert last.config["id"] == identity


def test_default_folders_are_unique(create, tmp_path):
    assert [create().path for _ in range(3)] == [tmp_path / name for name in ("trial", "trial-2", "trial-3")]


@pytest.mark.parametrize("name", ["", "a/b", "..", "/"])
def test_bad_names(create, name):
    with pytest.raises(UsageError, match="--name"):
        create(name=name)


def test_output_must_not_hold_a_run(create, tmp_path):
    create(output=tmp_path / "x").close()
    before = (tmp_path / "x" / "config.json").read_bytes()
    with pytest.raises(UsageError, match=r"already holds a run.*--resume"):
        create(output=tmp_path / "x")
    assert (tmp_path / "x" / "config.json").read_bytes() == before
    runs.reopen(str(tmp_path / "x")).close()  # the refused one does not hold the lock


def test_output_may_be_a_folder_without_a_run(create, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "notes.txt").write_text("mine")
    create(output=tmp_path / "x")
    assert (tmp_path / "x" / "notes.txt").read_text() == "mine"


def test_output_must_not_be_a_file(create, tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UsageError, match="expected a folder"):
        create(output=tmp_path / "x")


def test_impossible_folders_are_errors_of_the_flag(create, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "deep")
    for path in ("file", "file/x", "dangling", "x" * 300):
        with pytest.raises(UsageError, match=r"^--output: "):
            create(output=tmp_path / path)
        with pytest.raises(UsageError, match=r"^--save_dir: "):
            runs.create(FLAGS, None, str(tmp_path / path), "trial")
        with pytest.raises(UsageError, match=r"^--resume: "):
            runs.reopen(str(tmp_path / path))


def test_a_run_that_could_not_start_is_forgotten(create, tmp_path):
    create(output=tmp_path / "x").discard_if_new()
    assert not (tmp_path / "x").exists()
    run = create(output=tmp_path / "y")
    (run.path / "notes.txt").write_text("mine")
    run.discard_if_new()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


def test_a_resumed_run_is_not_forgotten(create):
    create().close()
    with runs.reopen(str(create().path.with_name("trial"))) as run:
        run.discard_if_new()
        assert (run.path / "config.json").exists()


def test_folder_in_use_by_another_process(create):
    run = create()
    code = "import sys; from utils import runs; runs.reopen(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[1])}
    command = [sys.executable, "-c", code, run.path]
    other = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "in use by another process" in other.stderr


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"flags": {}}', NO_FLAGS])
def test_folders_that_cannot_be_resumed(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="--resume"):
        runs.reopen(str(tmp_path))


def test_leftovers_of_a_kill_are_removed(create):
    with create() as run:
        leftover = run.path / "checkpoints" / ".0123.tmp"
        leftover.parent.mkdir()
        leftover.touch()
    runs.reopen(str(run.path)).close()
    assert not leftover.exists()


def test_reconcile_lets_only_free_flags_differ():
    flags = {**FLAGS, "epochs": 9}
    assert runs.reconcile(flags, {"epochs": 9, "rate": 0.1}, FLAGS, {"epochs"}, {}) == {**FLAGS, "epochs": 9}
    with pytest.raises(UsageError, match=r"--rate 0\.2 contradicts the resumed run, which has 0\.1"):
        runs.reconcile(flags, {"rate": 0.2}, FLAGS, {"epochs"}, {})


def test_reconcile_knows_flags_that_earlier_versions_lack():
    flags, before = {**FLAGS, "width": 3}, {"width": 2}
    assert runs.reconcile(flags, {}, FLAGS, {"width"}, before) == {**FLAGS, "width": 2}
    assert runs.reconcile(flags, {"width": 3}, FLAGS, {"width"}, before) == flags


def test_reconcile_refuses_another_version():
    with pytest.raises(UsageError, match=r"another version.*\['width'\]"):
        runs.reconcile({**FLAGS, "width": 3}, {}, FLAGS, set(), {})


def test_environment_is_json_and_names_no_place():
    json.dumps(runs.environment())
    assert not any("/" in str(value) for value in runs.environment().values())
