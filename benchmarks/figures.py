"""What follows from the measurements: goals and floors on this machine, ratios between rows."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runner import Row
from benchmarks.workloads import BASIS, FORCES, FORCES_TRAINED, FORWARD, TRAINING, WORKLOADS

GOAL_RATE = 150e9  # floating-point operations per second of the machine that the goals are set for
NVIDIA_RATE = 240e9  # of the machine on which NVIDIA's package was measured
# How often the radial weights, and the products with them, are computed at least: forward; forward, once more in the
# backward pass instead of being kept, and the two products of the backward pass (one each for weights and features).
PASSES = {FORWARD: (1, 1), TRAINING: (4, 3)}


def derive(rows: Sequence[Row], rate: float, on_cpu: bool) -> None:
    """Add to the rows of one workload what can be told from them together.

    Args:
        rows: of :func:`benchmarks.runner.run_workload`; changed.
        rate: floating-point operations per second in matrix products.
        on_cpu: whether they ran on a CPU, which the goals are for.
    """
    for row in rows:
        goal = WORKLOADS[row["workload"]].goal
        if row["mode"] in PASSES:
            row["floor"] = floor(row, rate)
        if goal and on_cpu and row["mode"] == TRAINING:
            row["goal"] = {
                "seconds": goal.seconds,
                "seconds_here": goal.seconds * GOAL_RATE / rate,
                "bytes": goal.bytes,
            }
        if "failed" not in row:
            row |= _ratios(row, rows)


def floor(row: Row, rate: float) -> float:
    """The least seconds that the messages' products take, with weights shared by both directions of an edge.

    Backends that evaluate node first can be below it, where a node has many edges.

    Args:
        row: of a forward pass or a training step.
        rate: floating-point operations per second in matrix products.
    """
    radial, mixing = PASSES[row["mode"]]
    count = row["multiply_adds"]
    return 2 * (radial * count["radial_shared"] + mixing * count["mixing"]) / rate


def _ratios(row: Row, rows: Sequence[Row]) -> Row:
    """How fast graphs are done, and how a row compares to others that differ from it in one thing."""
    found: Row = {}
    first = _like(row, rows, backend=rows[0]["backend"])
    if first and first is not row:
        found["to_first"] = {"seconds": _seconds(row) / _seconds(first), "bytes": _bytes(row) / _bytes(first)}
    if row["graphs"] > 1 and row["mode"] != BASIS:
        found["graphs_per_second"] = row["graphs"] / _seconds(row)
    if row["workload"] == "scale":
        found["per_edge"] = {"seconds": _seconds(row) / row["edges"], "bytes": _bytes(row) / row["edges"]}
        small = _like(row, rows, case="10k edges")
        if small and row["case"] == "1M edges":
            edges = row["edges"] / small["edges"]
            found["per_edge_to_10k"] = {
                "seconds": _seconds(row) / _seconds(small) / edges,
                "bytes": _bytes(row) / _bytes(small) / edges,
            }
    if row["workload"] == "degree" and (least := _like(row, rows, case="degree 1")):
        found["growth"] = {
            "seconds": _seconds(row) / _seconds(least),
            "predicted": _predicted(row) / _predicted(least),
        }
    if row["mode"] in (FORCES, FORCES_TRAINED) and (energy := _like(row, rows, mode=TRAINING)):
        found["to_energy"] = {"seconds": _seconds(row) / _seconds(energy), "bytes": _bytes(row) / _bytes(energy)}
    if row["workload"] == "basis" and row["mode"] == TRAINING and (basis := _like(row, rows, mode=BASIS)):
        found["basis_share"] = _seconds(basis) / _seconds(row)
    return found


def _like(row: Row, rows: Sequence[Row], **changes: str) -> Row | None:
    """The row that is like this one except for the changes, if it could run."""
    wanted = {key: row[key] for key in ("case", "mode", "backend")} | changes
    return next((other for other in rows if "failed" not in other and wanted.items() <= other.items()), None)


def _seconds(row: Row) -> float:
    return row["seconds"]["median"]


def _bytes(row: Row) -> int:
    return max(row["memory"]["above"], 1)  # a tiny step may find room in what is resident already


def _predicted(row: Row) -> int:
    return row["multiply_adds"]["radial"] + row["multiply_adds"]["mixing"]
