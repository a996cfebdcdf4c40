"""Three hundred training steps take no more memory at the end than at the beginning. Time is for people to read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.soak import SOAKS

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is not told here")
@pytest.mark.parametrize("name", SOAKS)
def test_memory_is_flat(name):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.soak", name, "--steps", "300"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    print(done.stdout)
    memory = json.loads(done.stdout)["memory"]
    assert memory["highest"] < 1.01 * memory["begun"]
