"""Where the time of a training step goes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from utils.files import atomic_write


def profile_steps(step: Callable[[], object], folder: Path, warmup: int = 2, steps: int = 3) -> str:
    """Profile a few training steps.

    Args:
        step: does one training step.
        folder: gets trace.json (for chrome://tracing or ui.perfetto.dev) and table.txt; made if missing.
        warmup: calls before the recorded ones.
        steps: calls recorded.

    Returns:
        the table: operations, by their own time.

    Raises:
        OSError: the files cannot be written.
    """
    on_gpu = torch.cuda.is_available()
    for _ in range(warmup):
        step()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as recorded:
        for _ in range(steps):
            step()
    with atomic_write(folder / "trace.json") as file:
        file.write(_trace(recorded))
    table = recorded.key_averages().table(f"self_{'cuda' if on_gpu else 'cpu'}_time_total", row_limit=30)
    with atomic_write(folder / "table.txt", "w") as file:
        file.write(table)
    return table


def _trace(recorded: profile) -> bytes:
    """What the profiler writes to a path; it does so not atomically, and says nothing where a disk is full."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(path))
        content = path.read_bytes()
    try:
        json.loads(content)
    except ValueError as error:
        raise OSError(f"the profiler could not write its trace to {path} (is the disk full?)") from error
    return content
