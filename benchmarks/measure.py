"""How long steps take, and how fast the machine multiplies matrices."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch

from benchmarks.machine import describe_machine
from benchmarks.steps import Step

SLOW = 20.0  # a step that takes more seconds is called once


def seconds_of(step: Step, device: str) -> float:
    """How long one call takes.

    Args:
        step: what to call.
        device: where it computes.
    """
    _synchronize(device)
    start = time.perf_counter()
    step()
    _synchronize(device)
    return time.perf_counter() - start


def take_turns(steps: Mapping[str, Step], device: str, repeats: int) -> dict[str, list[float]]:
    """Time several steps in turn (A, B, A, B, ...): what else happens on the machine meets all of them alike.

    Args:
        steps: what to call, by name.
        device: where they compute.
        repeats: how often each is timed, after one call to warm up. Where that takes more than 20 seconds, it is itself
            the only one timed.

    Returns:
        the seconds of every timed call, by name.
    """
    first = {name: seconds_of(step, device) for name, step in steps.items()}
    times = {name: [seconds] if seconds > SLOW else [] for name, seconds in first.items()}
    for _ in range(repeats):
        for name, step in steps.items():
            if first[name] <= SLOW:
                times[name].append(seconds_of(step, device))
    return times


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median, extremes and number of some times: the last is 1 for a slow step, whose first call is the one timed.

    Args:
        times: in seconds, at least one.
    """
    return {"median": statistics.median(times), "min": min(times), "max": max(times), "count": len(times)}


def matrix_product_rate(device: str, size: int = 2048, repeats: int = 7) -> float:
    """Floating-point operations per second, the median of several float32 products of square matrices.

    Args:
        device: where to multiply.
        size: of the matrices.
        repeats: number of products timed.
    """
    a, b = torch.randn(2, size, size, device=device)
    times = take_turns({"product": lambda: torch.mm(a, b)}, device, repeats)["product"]
    return 2 * size**3 / statistics.median(times)


def where_measured(threads: int, tiny: bool) -> str:
    """The processor, its threads and its rate of matrix products, as a line below a table.

    Args:
        threads: that were used.
        tiny: measure products of tiny size, as the tests do.
    """
    rate = matrix_product_rate("cpu", 256 if tiny else 2048)
    return f"{describe_machine('cpu')['name']}, {threads} threads, {rate / 1e9:.0f} GFLOP/s in matrix products"


def _synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
