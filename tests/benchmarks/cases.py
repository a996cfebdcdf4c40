"""Rows as if they had been measured, and what is read of the tables made of them."""

import re

from benchmarks.operators import KINDS
from benchmarks.workloads import TRAINING


def row(workload, case, seconds=1.0, backend="default", mode=TRAINING, above=1000, edges=10, graphs=1, max_degree=3):
    measured = {
        "workload": workload,
        "case": case,
        "mode": mode,
        "backend": backend,
        "graphs": graphs,
        "edges": edges,
        "max_degree": max_degree,
        "multiply_adds": {"radial": 3e9, "radial_shared": 2e9, "mixing": 1e9},
        "memory": {"above": above, "absolute": 2 * above},
        "seconds": {"median": seconds, "min": 0.9 * seconds, "max": 1.2 * seconds, "count": 3},
    }
    if mode == TRAINING:
        measured["profile"] = {"seconds": 2.0, "kinds": dict.fromkeys(KINDS, 0.2)}
    return measured


def failed(*arguments, **options):
    measured = row(*arguments, **options)
    known = {key: measured[key] for key in measured if key not in ("memory", "seconds", "profile")}
    return known | {"failed": "out of memory"}


def tables(text):
    """The tables of a page, each a list of lines, each the cells by the titles of their columns."""
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        titles, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        yield [dict(zip(titles, line, strict=True)) for line in lines]
