"""Puts results into docs/performance.md, between its markers, and draws the plots beside it.

python -m benchmarks.report runs/benchmarks/DATE.json

What stands between the lines ``<!-- NAME -->`` and ``<!-- end NAME -->`` is replaced, for every workload NAME of the
results; of the last, where several have it. A result of ``--compare oracle`` fills the block ``oracle`` instead, with a
table of ratios. The page must have these lines.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.runner import Row
from benchmarks.tables import describe, render, render_ratios
from benchmarks.workloads import TRAINING
from utils.cli import UsageError, blame, run
from utils.files import atomic_write, read_json
from utils.plots import save_figure

ORACLE = "oracle"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None) -> list[Path]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        the files written.

    Raises:
        UsageError: a result is none, or the page lacks a marker.
    """
    flags = _parser().parse_args(arguments)
    rows_of: dict[str, list[Row]] = {}
    blocks: dict[str, str] = {}
    ratios = []
    for result in map(_read, flags.results):
        measured = f"Measured on {describe(result)}."
        if {ORACLE} < {row["backend"] for row in result["rows"]}:
            ratios.append(f"{render_ratios(result['rows'], ORACLE)}\n\n{measured}")
            continue
        for name, rows in groupby(result["rows"], key=itemgetter("workload")):
            rows_of[name] = list(rows)
            blocks[name] = f"{render(rows_of[name])}\n\n{measured}"
    if ratios:
        blocks[ORACLE] = "\n\n".join(ratios)
    with blame("--page"):
        page = fill(flags.page.read_text(encoding="utf-8"), blocks)
        with atomic_write(flags.page, "w") as file:
            file.write(page)
        written = [flags.page, *draw([*chain(*rows_of.values())], flags.page)]
    print("written: " + ", ".join(map(str, written)))
    return written


def _read(path: Path) -> dict[str, Any]:
    with blame("RESULT.json"):
        result = read_json(path)
    if not isinstance(result, dict) or not result.get("rows"):
        raise UsageError(f"RESULT.json: expected what python -m benchmarks writes, got {path}")
    return result


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """The page with other text between its markers.

    Args:
        page: its text.
        blocks: the new text of every block, by its name.

    Raises:
        ValueError: a block is not there, or is there more than once.
    """
    patterns = {name: re.compile(f"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL) for name in blocks}
    if wrong := [name for name, pattern in patterns.items() if len(pattern.findall(page)) != 1]:
        markers = "; ".join(f"<!-- {name} --> and <!-- end {name} -->" for name in wrong)
        raise ValueError(f"expected these markers in the page, once and each on a line of its own: {markers}")
    for name, pattern in patterns.items():
        page = pattern.sub(lambda found, text=blocks[name]: f"{found[1]}\n{text}\n\n{found[2]}", page)
    return page


def draw(rows: Sequence[Row], page: Path) -> list[Path]:
    """Draw the plots that training steps among the rows have figures for, as PAGE_NAME.png.

    Args:
        rows: of a result.
        page: the file that they are drawn beside.

    Returns:
        the files written.
    """
    rows = [row for row in rows if row["mode"] == TRAINING and "failed" not in row]
    figures = {
        "scale": (_draw_scale, [row for row in rows if "per_edge" in row]),
        "degree": (_draw_degree, [row for row in rows if "growth" in row]),
        "goals": (_draw_goals, [row for row in rows if "goal" in row]),
    }
    written = []
    for name, (draw_it, its_rows) in figures.items():
        if its_rows:
            written.append(page.with_name(f"{page.stem}_{name}.png"))
            save_figure(draw_it(its_rows), written[-1])
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT.json", help="what python -m benchmarks wrote; one or several"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="page to rewrite (default: docs/performance.md)")
    return parser


if __name__ == "__main__":
    run(main)
