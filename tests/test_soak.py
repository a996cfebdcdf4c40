"""Two thousand training steps take as much memory and time at the end as at the beginning."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from tests.soak import SOAKS

ROOT = Path(__file__).parents[1]
STEPS, BEGUN = 2000, 200


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is not told here")
@pytest.mark.parametrize("name", SOAKS)
def test_memory_and_speed_are_flat(name):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.soak", name, str(STEPS)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    found = json.loads(done.stdout)
    memory, seconds = found["memory"], found["seconds"]
    highest, first, last = max(memory[BEGUN:]), median(seconds[BEGUN : 4 * BEGUN]), median(seconds[-3 * BEGUN :])
    print(
        f"{name}: MiB after {BEGUN}, {2 * BEGUN} ... steps:", *(round(m / 2**20, 1) for m in memory[BEGUN - 1 :: BEGUN])
    )
    print(f"{name}: {1000 * first:.2f} ms a step, {1000 * last:.2f} at the end")
    assert highest < 1.02 * memory[BEGUN - 1]
    assert last < 1.15 * first
