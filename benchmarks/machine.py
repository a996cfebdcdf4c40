"""What figures depend on besides the code: the machine and the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import equivariant_attention


def describe_machine(device: str) -> dict[str, Any]:
    """Name of the processor or GPU that computes, and the cores and threads of the processor.

    Args:
        device: where the benchmarks compute.
    """
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": device,
        "name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, Any]:
    """Versions of Python, PyTorch and the library; the commit, and whether files differ from it."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "equivariant_attention": equivariant_attention.__version__,
        "commit": _git("rev-parse", "HEAD"),
        "modified": None if changes is None else bool(changes),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None where there is no git or no checkout."""
    try:
        return subprocess.check_output(
            ["git", *arguments], cwd=Path(__file__).parent, text=True, stderr=subprocess.DEVNULL
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return None
