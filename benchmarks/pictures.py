"""Draws what was measured: growth with edges and with degrees, and training steps beside their goals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.runner import Row
from benchmarks.workloads import TRAINING
from utils.plots import save_figure


def draw(rows: Sequence[Row], page: Path) -> dict[str, Path]:
    """Draw the plots that training steps among the rows have figures for, as PAGE_NAME.png.

    Args:
        rows: of any workloads.
        page: the file that they are drawn beside.

    Returns:
        the files written, by NAME: 'scale' and 'degree', of these workloads, and 'goals'.
    """
    rows = [row for row in rows if row["mode"] == TRAINING and "failed" not in row]
    figures = {
        "scale": (_draw_scale, [row for row in rows if "per_edge" in row]),
        "degree": (_draw_degree, [row for row in rows if "growth" in row]),
        "goals": (_draw_goals, [row for row in rows if "goal" in row]),
    }
    written = {}
    for name, (draw_it, its_rows) in figures.items():
        if its_rows:
            written[name] = page.with_name(f"{page.stem}_{name}.png")
            save_figure(draw_it(its_rows), written[name])
    return written


def _draw_scale(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = {
        "seconds": lambda row: row["seconds"]["median"],
        "peak memory / bytes": lambda row: row["memory"]["above"],
    }
    backends = _by_backend(rows)
    edges = sorted({row["edges"] for row in rows})
    for number, (label, value) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, 2, number, xlabel="edges", ylabel=label, xscale="log", yscale="log")
        for backend, its_rows in backends.items():
            axes.plot([row["edges"] for row in its_rows], list(map(value, its_rows)), "o-", label=backend)
        last = backends[rows[0]["backend"]][-1]
        axes.plot(edges, [value(last) * n / last["edges"] for n in edges], "--", color="grey", label="in proportion")
        axes.legend()
    return figure


def _draw_degree(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(4.5, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="largest degree", ylabel="seconds", yscale="log")
    for backend, its_rows in _by_backend(rows).items():
        degrees = [row["max_degree"] for row in its_rows]
        seconds = [row["seconds"]["median"] for row in its_rows]
        (line,) = axes.plot(degrees, seconds, "o-", label=backend)
        # The prediction is of the growth from degree 1 on.
        predicted = [seconds[0] / its_rows[0]["growth"]["seconds"] * row["growth"]["predicted"] for row in its_rows]
        axes.plot(degrees, predicted, "--", color=line.get_color(), label=f"{backend}, predicted")
    axes.legend()
    return figure


def _draw_goals(rows: Sequence[Row]) -> Figure:
    bars = {
        **{backend: [(row, row["seconds"]["median"]) for row in its] for backend, its in _by_backend(rows).items()},
        "goal on this machine": [(row, row["goal"]["seconds_here"]) for row in rows],
        "floor": [(row, row["floor"]) for row in rows],
    }
    names, width = list(dict.fromkeys(row["workload"] for row in rows)), 0.8 / len(bars)
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot(ylabel="seconds of a training step", yscale="log")
    for number, (label, heights) in enumerate(bars.items()):
        at = [names.index(row["workload"]) + (number - (len(bars) - 1) / 2) * width for row, _ in heights]
        axes.bar(at, [seconds for _, seconds in heights], width, label=label)
    axes.set_xticks(range(len(names)), names)
    figure.legend(loc="outside upper center", ncols=len(bars))
    return figure


def _by_backend(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {b: [row for row in rows if row["backend"] == b] for b in dict.fromkeys(row["backend"] for row in rows)}
