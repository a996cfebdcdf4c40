import signal
import subprocess
from dataclasses import replace

import pytest
import torch

from benchmarks import memory
from benchmarks.steps import Setup
from benchmarks.workloads import TRAINING

TINY = Setup(threads=1, tiny=True)
STEP = ("nbody", "128 systems", "default", TRAINING)
MIB = 2**20


def allocate(mebibytes):
    return torch.ones(mebibytes, MIB // 4)


def test_a_known_allocation_is_seen():
    allocate(160)  # an earlier peak, which is to be forgotten
    peak = memory.peak_memory(lambda: allocate(80), "cpu")
    assert 76 * MIB < peak["above"] < 100 * MIB
    assert peak["absolute"] > peak["above"] + 50 * MIB  # Python and PyTorch themselves


def test_what_is_kept_from_call_to_call_adds_up():
    kept = []
    peak = memory.peak_memory(lambda: kept.append(allocate(40)), "cpu", calls=2)
    assert 76 * MIB < peak["above"] < 100 * MIB


def test_a_slow_step_is_called_once(monkeypatch):
    monkeypatch.setattr(memory, "SLOW", 0.0)
    calls = []
    memory.peak_memory(lambda: calls.append(1), "cpu", calls=2)
    assert calls == [1]


def test_without_permission_growth_beyond_the_earlier_peak_is_seen(monkeypatch):
    def forbidden(*arguments):
        raise PermissionError

    monkeypatch.setattr(memory.Path, "write_text", forbidden)
    allocate(160)
    peak = memory.peak_memory(lambda: allocate(80), "cpu")
    assert peak["above"] < 20 * MIB


def test_in_a_process_of_its_own():
    peak = memory.in_own_process(TINY, *STEP)
    assert 0 <= peak["above"] < peak["absolute"]
    assert peak["absolute"] > 50 * MIB


def test_a_process_that_takes_too_long_is_stopped():
    assert memory.in_own_process(replace(TINY, limit=0.01), *STEP) == {"failed": "not done in 0.01 s"}


@pytest.mark.parametrize("code", [-signal.SIGKILL, 1])
def test_a_process_that_ends_badly(monkeypatch, code):
    ended = subprocess.CompletedProcess([], code, "", "Traceback: why")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: ended)
    if code == 1:
        with pytest.raises(RuntimeError, match="Traceback: why"):
            memory.in_own_process(TINY, *STEP)
    else:
        assert memory.in_own_process(TINY, *STEP) == {"failed": "out of memory"}


@pytest.mark.parametrize(
    ("error", "failed"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (ValueError("the graph is directed"), "refused: the graph is directed"),
        (RuntimeError("shapes differ"), None),
    ],
)
def test_why_a_step_cannot_run(monkeypatch, error, failed):
    def peak_memory(*arguments, **options):
        raise error

    monkeypatch.setattr(memory, "peak_memory", peak_memory)
    if failed:
        assert memory._measure(TINY, *STEP) == {"failed": failed}
    else:
        with pytest.raises(RuntimeError, match="shapes differ"):
            memory._measure(TINY, *STEP)
