"""What the words of a command line ask for: cases of workloads, and backends."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import chain

DEFAULT = "default"  # the backend that the library chooses
# Those of the library, which are there only where PyTorch is imported: a help page need not wait for that.
BACKENDS = ("oracle", "edge", "frame", "cpp", "cpp-node", "node", "triton")
LIMIT = 600.0  # seconds


def named_cases(text: str) -> list[tuple[str, str]]:
    """The workload and the name of every case that a word asks for, for argparse's ``type``.

    Args:
        text: a workload, ``WORKLOAD:CASE`` or 'all'.

    Raises:
        argparse.ArgumentTypeError: there is no such workload or case.
    """
    from benchmarks.workloads import WORKLOADS  # here, for parsers are made before PyTorch is imported

    if text == "all":
        return [(name, case) for name, workload in WORKLOADS.items() for case in workload.cases]
    name, colon, case = text.partition(":")
    if name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"expected 'all' or some of {', '.join(WORKLOADS)}; got {text!r}")
    cases = WORKLOADS[name].cases
    if colon and case not in cases:
        raise argparse.ArgumentTypeError(f"expected cases of {name}, {', '.join(map(repr, cases))}; got {case!r}")
    return [(name, case)] if colon else [(name, case) for case in cases]


def by_workload(words: Iterable[list[tuple[str, str]]]) -> dict[str, list[str]]:
    """Every case once, under its workload; in the order of the first word that asks for them.

    Args:
        words: each as :func:`named_cases` gives it.
    """
    chosen: dict[str, list[str]] = {}
    for name, case in dict.fromkeys(chain(*words)):
        chosen.setdefault(name, []).append(case)
    return chosen
