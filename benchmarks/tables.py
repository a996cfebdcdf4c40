"""The figures of a workload as Markdown, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.figures import NVIDIA_RATE
from benchmarks.runner import Row
from benchmarks.selection import DEFAULT
from benchmarks.workloads import TRAINING, WORKLOADS


def render(rows: Sequence[Row]) -> str:
    """The table of one workload, its target, and where the time goes if that was asked for.

    Args:
        rows: of one workload, with what :func:`benchmarks.figures.derive` adds.
    """
    parts = [table([{column: _cell(column, row) for column in COLUMNS} for row in rows])]
    if target := WORKLOADS[rows[0]["workload"]].target:
        parts.append(f"Target: {target}.")
    if profiled := [row for row in rows if "profile" in row]:
        parts.append(table(_where_time_goes(profiled)))
    return "\n\n".join(parts)


def render_ratios(rows: Sequence[Row], reference: str) -> str:
    """The table of how many times the time and memory of each row another backend takes for the same.

    Args:
        rows: of any workloads. Where either could not run, the table says why.
        reference: that backend.
    """
    of_reference = {_step(row): row for row in rows if row["backend"] == reference}
    lines = []
    for row in rows:
        if row["backend"] == reference or _step(row) not in of_reference:
            continue
        other = of_reference[_step(row)]
        line = dict(zip(("workload", "case", "step"), _step(row), strict=True)) | {"backend": row["backend"]}
        for quantity, figure, text in (
            ("time", lambda row: row["seconds"]["median"], duration),
            ("memory", lambda row: row["memory"]["above"], size),
        ):
            cells = [one["failed"] if "failed" in one else text(figure(one)) for one in (row, other)]
            ratio = "" if "failed" in {*row, *other} else _three_digits(figure(other) / max(figure(row), 1e-9))
            line |= {quantity: cells[0], f"{quantity} of {reference}": cells[1], f"× {quantity}": ratio}
        lines.append(line)
    return table(lines)


def render_backends(rows: Sequence[Row]) -> str:
    """The table of the training steps, a line each, with time and memory in every backend.

    Args:
        rows: of any workloads, each with all backends. Where one could not run, the table says why.
    """
    by_step: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        if row["mode"] == TRAINING:
            by_step.setdefault(_step(row), {})[row["backend"]] = row
    lines = []
    for (workload, case, _), row_of in by_step.items():
        times = {name: row["seconds"]["median"] for name, row in row_of.items() if "failed" not in row}
        line = {"workload": workload, "case": case, **{name: _time_and_peak(row) for name, row in row_of.items()}}
        choice = f"{times[DEFAULT] / min(times.values()):.2f}" if DEFAULT in times else ""
        lines.append(line | {"choice / fastest": choice})
    return table(lines)


def render_goals(results: Sequence[dict[str, Any]]) -> str:
    """The table of the training steps that have goals, and whether these are reached; empty, where there are none.

    Args:
        results: what ``python -m benchmarks`` writes, each a part of the table.
    """
    lines = []
    for result in results:
        machine = f"{result['machine']['name']}, {result['flops_per_second'] / 1e9:.0f} GFLOP/s, {result['date'][:10]}"
        for row in result["rows"]:
            if "goal" not in row:
                continue
            line = {"workload": row["workload"], "case": row["case"], "measured on": machine}
            if "failed" in row:
                line |= {"time": row["failed"]} | dict.fromkeys(("goal here", "memory", "its goal"), "")
            else:
                seconds, memory, goal = row["seconds"]["median"], row["memory"]["above"], row["goal"]
                line |= {"time": duration(seconds), "goal here": _judged(seconds, goal["seconds_here"], duration)}
                line |= {"memory": size(memory), "its goal": _judged(memory, goal["bytes"], size)}
            lines.append(line)
    return table(lines) if lines else ""


def render_nvidia(results: Sequence[dict[str, Any]]) -> str:
    """The table of the training steps that are compared to NVIDIA's package; empty, where there are none.

    Args:
        results: what ``python -m benchmarks`` writes, each a part of the table.
    """
    lines = []
    for result in results:
        for row in result["rows"]:
            nvidia = WORKLOADS[row["workload"]].nvidia
            if nvidia is None or row["mode"] != TRAINING or "failed" in row:
                continue
            seconds, theirs = row["seconds"]["median"], nvidia.seconds * NVIDIA_RATE / result["flops_per_second"]
            judged = "reached" if theirs >= nvidia.times * seconds else "**missed**"
            line = {"workload": row["workload"], "case": row["case"], "time": duration(seconds)}
            line |= {"NVIDIA's package, scaled": duration(theirs), "times as fast": f"{theirs / seconds:.3g}"}
            lines.append(line | {"to be": f"{nvidia.times:g}: {judged}"})
    return table(lines) if lines else ""


BANDWIDTHS = {"A100": 2.04e12, "H100": 3.35e12}  # bytes per second, as NVIDIA states them: of 80 GB, and SXM


def render_launches(counts: dict[str, Any]) -> str:
    """The table of what training steps would launch and move on a GPU, and of the time that this takes at least.

    Args:
        counts: what ``python -m benchmarks.launches`` writes.
    """
    lines = []
    for case, parts in counts.items():
        line = {"training step": case}
        line |= {f"launches, {part}": f"{row['launches']:,}" for part, row in parts.items()}
        line |= {f"GB, {part}": _three_digits(row["gigabytes"]) for part, row in parts.items()}
        moved = 1e9 * sum(row["gigabytes"] for row in parts.values())
        line |= {f"predicted: {gpu}": f"{duration(moved / rate)} or more" for gpu, rate in BANDWIDTHS.items()}
        lines.append(line)
    return table(lines)


def render_slots(counts: dict[str, Any]) -> str:
    """The table of the issue slots of kernels, and of what tensor cores need beside them.

    Args:
        counts: what ``python -m benchmarks.slots`` writes.
    """
    return table(
        [
            {
                "kernel": name,
                "launches": str(row["launches"]),
                "issue slots": f"{row['slots']:.3f} ms",
                "tensor cores, beside them": f"{row['tensor_cores']:.3f} ms",
                "spilled": f"{row['spilled']} bytes",
            }
            for name, row in counts.items()
        ]
    )


def describe(result: dict[str, Any]) -> str:
    """Where, when and with which versions a result was measured, in one line.

    Args:
        result: what ``python -m benchmarks`` writes.
    """
    machine, versions = result["machine"], result["versions"]
    commit = f"{(versions['commit'] or 'unknown')[:10]}{', changed' if versions['modified'] else ''}"
    return (
        f"{machine['name']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"{result['flops_per_second'] / 1e9:.0f} GFLOP/s in float32 matrix products; Python {versions['python']}, "
        f"PyTorch {versions['torch']}, library {versions['equivariant_attention']} (commit {commit}); {result['date']}"
    )


def table(lines: Sequence[dict[str, str]]) -> str:
    """Markdown, aligned; without the columns that are empty.

    Args:
        lines: at least one; the first has all columns.
    """
    columns = [column for column in lines[0] if any(line[column] for line in lines)]
    widths = {column: max(len(column), *(len(line[column]) for line in lines)) for column in columns}
    header = {column: column for column in columns}
    rule = {column: "-" * widths[column] for column in columns}
    return "\n".join(
        "| " + " | ".join(line[column].ljust(widths[column]) for column in columns) + " |"
        for line in (header, rule, *lines)
    )


def duration(seconds: float) -> str:
    """A time with three digits and a fitting unit.

    Args:
        seconds: the time.
    """
    return _scaled(seconds, {"s": 1, "ms": 1e-3, "µs": 1e-6})


def size(number: float) -> str:
    """An amount of memory with three digits and a fitting unit.

    Args:
        number: of bytes.
    """
    return _scaled(number, {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1})


def _scaled(value: float, units: dict[str, float]) -> str:
    unit = next((unit for unit, amount in units.items() if value >= amount), list(units)[-1])
    value /= units[unit]
    return f"{_three_digits(value)} {unit}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _judged(figure: float, goal: float | None, text: Callable[[float], str]) -> str:
    if goal is None:
        return ""
    return f"{text(goal)}: {'reached' if figure <= goal else f'**missed by {figure / goal - 1:.1%}**'}"


def _time_and_peak(row: Row) -> str:
    return row["failed"] if "failed" in row else f"{duration(row['seconds']['median'])}, {size(row['memory']['above'])}"


def _step(row: Row) -> tuple[str, str, str]:
    return row["workload"], row["case"], row["mode"]


def _goal(row: Row) -> str:
    goal = row["goal"]
    memory = "" if goal["bytes"] is None else f"; {size(goal['bytes'])}"
    return f"{duration(goal['seconds'])}, here {duration(goal['seconds_here'])}{memory}"


def _time_and_memory(ratios: dict[str, float]) -> str:
    return f"time {ratios['seconds']:.2f}, memory {ratios['bytes']:.2f}"


# A column is there where a row has the figure.
COLUMNS: dict[str, Callable[[Row], str]] = {
    "case": lambda row: row["case"],
    "step": lambda row: row["mode"],
    "backend": lambda row: row["backend"],
    "median": lambda row: row["failed"] if "failed" in row else duration(row["seconds"]["median"]),
    "min to max": lambda row: f"{duration(row['seconds']['min'])} to {duration(row['seconds']['max'])}",
    "graphs per second": lambda row: _three_digits(row["graphs_per_second"]),
    "× time of the first": lambda row: f"{row['to_first']['seconds']:.2f}",
    "× its memory": lambda row: f"{row['to_first']['bytes']:.2f}",
    "peak above the model": lambda row: size(row["memory"]["above"]),
    "peak in all": lambda row: size(row["memory"]["absolute"]),
    "time per edge": lambda row: duration(row["per_edge"]["seconds"]),
    "memory per edge": lambda row: size(row["per_edge"]["bytes"]),
    "× per edge at 10k": lambda row: _time_and_memory(row["per_edge_to_10k"]),
    "× time of degree 1": lambda row: f"{row['growth']['seconds']:.1f}",
    "predicted": lambda row: f"{row['growth']['predicted']:.1f}",
    "× a step on energies": lambda row: _time_and_memory(row["to_energy"]),
    "share of the basis": lambda row: f"{row['basis_share']:.1%}",
    "goal": _goal,
    "floor": lambda row: duration(row["floor"]),
}


def _cell(column: str, row: Row) -> str:
    try:
        return COLUMNS[column](row)
    except KeyError:  # the row has no such figure
        return ""


def _where_time_goes(rows: Sequence[Row]) -> list[dict[str, str]]:
    """A line for every kind of operators, then what the step took; a column for every row."""
    lines = []
    for kind in rows[0]["profile"]["kinds"]:
        line = {"training step": kind}
        for row in rows:
            seconds, total = row["profile"]["kinds"][kind], row["profile"]["seconds"]
            line[_title(row)] = f"{duration(seconds)} ({seconds / total:.0%})"
        lines.append(line)
    for label, figure in (
        ("all, while profiled", lambda row: row["profile"]["seconds"]),
        ("median, not profiled", lambda row: row["seconds"]["median"]),
        ("floor", lambda row: row["floor"]),
    ):
        lines.append({"training step": label, **{_title(row): duration(figure(row)) for row in rows}})
    return lines


def _title(row: Row) -> str:
    return f"{row['case']}, {row['backend']}"
