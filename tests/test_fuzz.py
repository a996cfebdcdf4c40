"""Damaged files, read in a process of its own, so that a crash is seen."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("count", "seed"), [(25, 0), pytest.param(100, 1, marks=pytest.mark.slow)])
def test_damaged_files_are_refused_in_a_line_or_read_right(count, seed):
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz", str(count), str(seed)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout
