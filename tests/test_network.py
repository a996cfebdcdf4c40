"""Nothing is asked of the network unless a user asks for a download. (tests/conftest.py forbids it to all tests.)"""

import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from experiments.qm9 import run
from tests.network import NetworkAccessError
from utils.cli import UsageError

ROOT = Path(__file__).parents[1]


def test_tests_reach_nothing():
    with pytest.raises(NetworkAccessError, match=r"tried to reach example\.org"):
        urlopen("http://example.org")
    with socket.socket() as client, pytest.raises(NetworkAccessError, match=r"tried to reach 192\.0\.2\.1"):
        client.connect(("192.0.2.1", 80))


@pytest.mark.slow
def test_importing_every_module_and_training_by_default_reach_nothing():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.network"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_qm9_is_downloaded_only_where_that_is_asked_for(tmp_path):
    pytest.importorskip("torch_geometric")
    for given in (["--preset", "paper"], ["--source", "auto"]):
        arguments = [*given, "--data_address", str(tmp_path / "qm9"), "--output", str(tmp_path / "run")]
        with pytest.raises(UsageError, match=r"^--data_address: .*qm9 does not hold QM9; --source download gets it"):
            run.main(arguments)
    assert not [*tmp_path.iterdir()]
    with pytest.raises(NetworkAccessError):
        run.main([*arguments, "--source", "download"])
