"""Measures a workload: every case, forward and with gradients, by one or several backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.measure import SLOW, summary, take_turns
from benchmarks.memory import in_own_process
from benchmarks.operators import time_by_kind
from benchmarks.steps import Setup, build, make_step
from benchmarks.work import multiply_adds
from benchmarks.workloads import TRAINING, WORKLOADS

Row = dict[str, Any]


def run_workload(
    setup: Setup, workload: str, cases: Sequence[str], backends: Sequence[str], repeats: int, profile: bool
) -> list[Row]:
    """Measure cases of a workload.

    Args:
        setup: of the session.
        workload: its name.
        cases: their names.
        backends: what to compare, of ``equivariant_attention.contraction.BACKENDS`` or 'default'.
        repeats: how often a step is timed.
        profile: whether to tell also where the time of a training step goes.

    Returns:
        a row for every case, mode and backend. One that could not run has the reason under ``'failed'``.
    """
    rows = []
    for case in cases:
        for mode in WORKLOADS[workload].modes:
            rows += _run_case(setup, workload, case, mode, backends, repeats, profile and mode == TRAINING)
    return rows


def _run_case(
    setup: Setup, workload: str, case: str, mode: str, backends: Sequence[str], repeats: int, profile: bool
) -> list[Row]:
    torch.cuda.empty_cache()  # of the case before; nothing, where there is no GPU
    # Memory first: what does not fit ends a process of its own, and is not tried in this one.
    memory = {backend: in_own_process(setup, workload, case, backend, mode) for backend in backends}
    model, graph = build(setup, workload, case)
    steps = {b: make_step(model, graph, b, mode) for b in backends if "failed" not in memory[b]}
    times = take_turns(steps, setup.device, repeats)
    counts = {
        "graphs": graph.batch_size,
        "nodes": graph.num_nodes(),
        "edges": graph.num_edges(),
        "max_degree": model.num_degrees - 1,
        "multiply_adds": multiply_adds(model, graph),
    }
    rows = []
    for backend in backends:
        row = {"workload": workload, "case": case, "mode": mode, "backend": backend, **counts}
        if backend in steps:
            row |= {"memory": memory[backend], "seconds": summary(times[backend])}
            if profile and row["seconds"]["median"] < SLOW:  # the profiler's events of a long step fill the memory
                row["profile"] = time_by_kind(steps[backend], setup.device)
        else:
            row |= memory[backend]
        rows.append(row)
    return rows
