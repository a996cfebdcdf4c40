"""What must hold of every experiment's program, whatever it trains: nothing is lost, and messages fit on a line."""

import errno
import importlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from equivariant_attention import files as written
from tests.experiments.runs import TINY, files, lock_held, rows
from utils.cli import UsageError

ROOT = Path(__file__).parents[2]
# For programs in other processes. Threads change the order of sums: as many there as here.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}


CACHES = ("nbody", "chirality")  # keep their data in a folder


@pytest.fixture(params=TINY)
def experiment(request):
    return request.param


@pytest.fixture
def arguments(experiment, tmp_path):
    """The words of a small run's command line, but for its folder."""
    return [*TINY[experiment], *(["--data", str(tmp_path / "data")] if experiment in CACHES else [])]


@pytest.fixture
def main(experiment):
    return importlib.import_module(f"experiments.{experiment}.run").main


def command(experiment, *arguments):
    return [sys.executable, f"experiments/{experiment}/run.py", *map(str, arguments)]


def outcome(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["seconds_per_epoch"]
    return rows(folder / "metrics.csv"), rows(folder / "steps.csv"), metrics


class Disk:
    """Stands for ``open`` where files are written, on a disk with room for so many bytes."""

    def __init__(self, room):
        self.room = room

    def __call__(self, path, mode, **text):
        disk = self

        class File(io.FileIO):
            def write(self, data):
                if len(data) > disk.room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                disk.room -= len(data)
                return super().write(data)

        file = io.BufferedWriter(File(path, "w"))
        return file if mode == "wb" else io.TextIOWrapper(file, **text)


def test_full_disk_ends_a_training_with_a_line_and_loses_nothing(main, arguments, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    main([*arguments, "--output", str(tmp_path / "whole")])
    config, state, best = ((tmp_path / "whole" / name).stat().st_size
                           for name in ("config.json", "checkpoints/last.pt", "checkpoints/best.pt"))  # fmt: skip
    # Full while the first state, the second state, and what repeats parts of it are written.
    for room in (2 * config + state // 2, state + best + state // 2, best // 2):
        with monkeypatch.context() as patch, pytest.raises(UsageError) as caught:  # noqa: PT012
            patch.setattr(written, "open", Disk(room), raising=False)
            resume = folder.exists()
            main(["--resume", str(folder)] if resume else [*arguments, "--output", str(folder)])
        message = str(caught.value)
        assert str(folder) in message
        assert "No space left on device" in message
        assert message.startswith("--resume: ") or message.endswith(f"go on with --resume {folder}")
        assert "\n" not in message
        assert not [*folder.rglob(".*.tmp")]
    main(["--resume", str(folder)])
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_full_disk_before_the_run_has_begun_leaves_no_folder(main, arguments, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(written, "open", Disk(10), raising=False)
        with pytest.raises(UsageError, match=r"^--output: .*config\.json: No space left on device"):
            main([*arguments, "--output", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be_written_to(main, arguments, tmp_path):
    with pytest.raises(UsageError, match=r"^--output: /proc/run: "):
        main([*arguments, "--output", "/proc/run"])
    with pytest.raises(UsageError, match=r"^--save_dir: /proc/runs: "):
        main([*arguments, "--save_dir", "/proc/runs"])
    with pytest.raises(UsageError, match=r"^--restore: .*nowhere\.pt: there is no such file"):
        main([*arguments, "--output", str(tmp_path / "run"), "--restore", str(tmp_path / "nowhere.pt")])
    assert not (tmp_path / "run").exists()


def test_two_runs_in_one_folder(main, arguments, tmp_path):
    folder = tmp_path / "run"
    main([*arguments, "--output", str(folder)])
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    with lock_held(folder):
        for given in (["--resume", str(folder)], [*arguments, "--output", str(folder)]):
            with pytest.raises(UsageError, match=rf"^--(resume|output): {folder} is in use by another process$"):
                main(given)
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("experiment", ["nbody", "qm9"], indirect=True)  # all have the same loop
def test_killed_at_any_moment_and_resumed_gives_the_same(main, experiment, arguments, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    more = [*arguments, "--num_epochs", "6"]
    started = time.monotonic()
    main([*more, "--output", str(whole)])
    seconds = time.monotonic() - started
    words = command(experiment, *more, "--output", killed)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, env=ENVIRONMENT, cwd=ROOT, **quiet) as process:
        while process.poll() is None and not (killed / "config.json").exists():
            time.sleep(0.01)
        time.sleep(random.SystemRandom().uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
    main(["--resume", str(killed)])
    assert outcome(killed) == outcome(whole)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts a file system")
@pytest.mark.parametrize("experiment", ["nbody"], indirect=True)  # of the others the disk is simulated, above
def test_a_real_full_disk(main, experiment, arguments, tmp_path):
    """A file system in memory that has room for two epochs' files, but not for writing them anew."""
    main([*arguments, "--output", str(tmp_path / "whole")])
    disk, folder = tmp_path / "disk", tmp_path / "disk" / "run"
    disk.mkdir()
    size = sum((tmp_path / "whole" / name).stat().st_size for name in ("checkpoints/last.pt", "config.json")) // 1024
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        words = command(experiment, *arguments, "--output", folder)
        done = subprocess.run(words, env=ENVIRONMENT, cwd=ROOT, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"error: {folder}")
        assert "No space left on device" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        main(["--resume", str(folder)])
        assert outcome(folder) == outcome(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
