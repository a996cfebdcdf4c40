"""Sessions of tiny size."""

import pytest

from benchmarks import runner
from benchmarks.__main__ import main


@pytest.fixture
def no_processes(monkeypatch):
    """Memory is made up instead of measured: a process for each figure would take seconds."""

    def memory(setup, workload, case, backend, mode):
        if (workload, backend) == ("cloud", "oracle"):
            return {"failed": "out of memory"}
        return {"above": 5, "absolute": 9}

    monkeypatch.setattr(runner, "in_own_process", memory)


@pytest.fixture
def session(tmp_path, no_processes):
    """Runs the command line at tiny size; gives what it returns and the file it writes."""

    def run(*arguments):
        path = tmp_path / "result.json"
        return main([*arguments, "--threads", "1", "--repeats", "1", "--output", str(path)], tiny=True), path

    return run
