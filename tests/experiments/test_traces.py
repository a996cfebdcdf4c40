"""What is written outside the folders that a command names: nothing."""

import os
import subprocess
import sys
from pathlib import Path

from tests.experiments.runs import TINY

ROOT = Path(__file__).parents[2]


def test_a_run_leaves_nothing_in_the_home_folder(tmp_path):
    """With DGL, where it is installed, and with pictures: both keep files there, unless told not to."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    hidden = {"DGLBACKEND", "DGLDEFAULTDIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HOME": str(home), "EQUIVARIANT_ATTENTION_COMPILE": "0", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, str(ROOT / "experiments" / "nbody" / "run.py"), *TINY["nbody"], "--data", "data"]
    done = subprocess.run(
        [*words, "--output", "run"], env=environment, cwd=work, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "DGL backend" in done.stderr) == (0, False)
    assert [*work.rglob("*.png")]
    assert [path for path in home.rglob("*") if path.is_file()] == []
