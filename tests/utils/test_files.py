import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.files import locked, make_folder, read_json, read_text, write_json


def test_folders_are_made_and_left_empty(tmp_path):
    for _ in range(2):
        assert list(make_folder(tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    for impossible in ("file", "file/below"):
        with pytest.raises(NotADirectoryError, match="file"):
            make_folder(tmp_path / impossible)


def test_json_round_trip(tmp_path):
    obj = {"epochs": [1, 2], "loss": 0.1 + 0.2, "name": "λ", "best": None}
    write_json(tmp_path / "a.json", obj)
    assert read_json(tmp_path / "a.json") == obj


def test_what_json_cannot_hold_does_not_touch_the_file(tmp_path):
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"loss": object()})
    assert read_json(tmp_path / "a.json") == {"loss": 1.0}


def test_reading_names_a_file_that_is_not_json(tmp_path):
    (tmp_path / "a.json").write_text('{"loss": 1.')
    with pytest.raises(ValueError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")


def test_json_that_is_nested_too_deeply(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200 + "]" * 200)
    with pytest.raises(ValueError, match=r"a\.json: expected a JSON file: .* more than 100 deep"):
        read_json(tmp_path / "a.json")


def test_texts_without_an_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.files.LARGEST_TEXT", 1000)
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="expected a text of at most 1,000 bytes, got more"):
        read_text(tmp_path / "endless")


def test_a_lock_is_free_again_after_the_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert (tmp_path / "lock").exists()


HOLDER = """
import os, sys, time
from utils.files import locked
with locked(sys.argv[1]):
    worker = os.fork()
    if worker == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
def test_a_lock_ends_with_its_process_whatever_that_has_started(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        worker = int(holder.stdout.readline())
        try:
            with pytest.raises(BlockingIOError, match="is in use by another process"), locked(tmp_path):
                pass
            holder.kill()
            holder.wait()
            with locked(tmp_path):
                assert os.getpgid(worker)  # which lives
        finally:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "NaN", "[1e999]", "-Infinity", "1" * 5000, " " * (1 << 25), "", "{'a': 1}"]
)
def test_what_is_no_json_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: expected a JSON file") as caught:
        read_json(tmp_path / "a.json")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_text_in_every_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("1\nmé\n", encoding=encoding)
    assert read_text(tmp_path / "a.txt") == "1\nmé\n"


def test_text_that_only_begins_as_utf_16(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="utf-16"):
        read_text(tmp_path / "a.txt")
