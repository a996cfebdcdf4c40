import argparse

import pytest

from benchmarks.selection import by_workload, named_cases
from benchmarks.workloads import WORKLOADS


def test_a_word_asks_for_a_case_a_workload_or_all():
    assert named_cases("degree:degree 3") == [("degree", "degree 3")]
    assert named_cases("degree") == [("degree", f"degree {l}") for l in range(1, 7)]
    assert dict(named_cases("all")).keys() == WORKLOADS.keys()


@pytest.mark.parametrize("word", ["degre", "degree:", "degree:degree 7", ":degree 3", ""])
def test_what_is_not_there_is_refused(word):
    with pytest.raises(argparse.ArgumentTypeError, match="expected"):
        named_cases(word)


def test_every_case_is_measured_once():
    words = map(named_cases, ("degree:degree 3", "nbody", "degree:degree 1", "degree:degree 3"))
    assert by_workload(words) == {"degree": ["degree 3", "degree 1"], "nbody": ["128 systems"]}
