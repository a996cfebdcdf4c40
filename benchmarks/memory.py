"""Peak memory of a step. On a CPU that is the process's own, so every measurement has a fresh process.

``python -m benchmarks.memory SPEC`` is that process, started by :func:`in_own_process`.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import SLOW, seconds_of
from benchmarks.steps import Setup, Step, build, make_step, warm_up
from benchmarks.workloads import FORCES_TRAINED, TRAINING

ROOT = Path(__file__).parents[1]
OUT_OF_MEMORY = "out of memory"


def in_own_process(setup: Setup, workload: str, case: str, backend: str, mode: str) -> dict[str, Any]:
    """Measure the peak memory of a step in a process of its own.

    Args:
        setup: of the session.
        workload: its name.
        case: the case's name.
        backend: as for :func:`benchmarks.steps.make_step`.
        mode: as for :func:`benchmarks.steps.make_step`.

    Returns:
        what :func:`peak_memory` does; or ``'failed'`` alone, and why: it is out of memory or time, or is refused.

    Raises:
        RuntimeError: the process failed for another reason.
    """
    spec = {"setup": asdict(setup), "workload": workload, "case": case, "backend": backend, "mode": mode}
    command = [sys.executable, "-m", "benchmarks.memory", json.dumps(spec)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=setup.limit, cwd=ROOT)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {setup.limit:g} s"}
    if process.returncode == -signal.SIGKILL:  # by the system, whose memory was used up
        return {"failed": OUT_OF_MEMORY}
    if process.returncode:
        raise RuntimeError(f"measuring the memory of {workload}, {case}, {backend}, {mode}:\n{process.stderr}")
    return json.loads(process.stdout.splitlines()[-1])


def peak_memory(step: Step, device: str, calls: int = 1) -> dict[str, int]:
    """Peak memory of this process while it calls a step; of PyTorch's allocator, on a GPU.

    Args:
        step: what to call.
        device: where it computes.
        calls: how often; once, where the first call takes more than 20 seconds.

    Returns:
        bytes: ``'above'`` what was resident before, and ``'absolute'``. Where the system does not let a process forget
        earlier peaks, ``'above'`` is above the highest of these.
    """
    on_gpu = torch.device(device).type == "cuda"
    before = _gpu_memory(device) if on_gpu else _memory()
    for _ in range(calls):
        if seconds_of(step, device) > SLOW:
            break
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else _peak()
    return {"above": peak - before, "absolute": peak}


def _measure(setup: Setup, workload: str, case: str, backend: str, mode: str) -> dict[str, Any]:
    torch.set_num_threads(setup.threads)
    try:
        warm_up(setup, workload, case, backend, mode)
        step = make_step(*build(setup, workload, case), backend, mode)
        # From the second step of a training on, gradients of the step before are there.
        return peak_memory(step, setup.device, calls=2 if mode in (TRAINING, FORCES_TRAINED) else 1)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
            return {"failed": OUT_OF_MEMORY}
        raise
    except ValueError as error:
        return {"failed": f"refused: {error}"}


def _gpu_memory(device: str) -> int:
    """What is allocated now, earlier peaks forgotten."""
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _memory() -> int:
    """What is resident now, once earlier peaks are forgotten; the highest peak, where they cannot be forgotten."""
    with suppress(OSError, AttributeError):  # glibc alone has it
        # What is free already must not hide what the step takes.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _peak()
    return _entry("/proc/self/status", "VmRSS")


def _peak() -> int:
    if Path("/proc/self/status").exists():
        return _entry("/proc/self/status", "VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _limit_memory() -> None:
    """Let a step fail that takes more memory than there is, before the system ends a process for it."""
    if Path("/proc/meminfo").exists():
        limit = _entry("/proc/self/status", "VmData") + _entry("/proc/meminfo", "MemAvailable")
        with suppress(ValueError):  # there is a lower limit already
            resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _entry(path: str, name: str) -> int:
    """The bytes that a file of the system gives in kB, behind a name."""
    lines = Path(path).read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("spec", type=json.loads, help="what to measure, as JSON")
    spec = parser.parse_args().spec
    setup = Setup(**spec.pop("setup"))
    if setup.device == "cpu":  # CUDA reserves far more than it takes
        _limit_memory()
    print(json.dumps(_measure(setup, **spec)))
