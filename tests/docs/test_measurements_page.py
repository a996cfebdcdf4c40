"""The page of measurements is what its command writes, and what other pages say of it is true."""

import re
import shlex

import pytest

from benchmarks.report import main
from benchmarks.workloads import TRAINING
from tests.benchmarks.cases import tables
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "measurements.md"


@pytest.fixture(scope="module")
def sections():
    """By their titles."""
    return {text.partition("\n")[0]: text for text in PAGE.read_text().split("\n## ")}


def column(section, title):
    """The cells under a title in all tables that have it; of training steps, where steps are told."""
    lines = [line for table in tables(section) for line in table if line.get("step", TRAINING) == TRAINING]
    return [line[title] for line in lines if title in line]


def test_the_page_is_what_its_command_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    block = re.search(r"    (python -m benchmarks\.report (?:.*\\\n)*.*\n)", PAGE.read_text())[1]
    _, _, _, *words = shlex.split(block.replace("\\\n", " "))
    page, *pictures = main([*words, "--page", str(tmp_path / PAGE.name)])
    assert page.read_text() == PAGE.read_text()
    assert {path.name for path in pictures} == {path.name for path in PAGE.parent.glob("measurements_*.png")}


def test_the_choice_of_the_backend_is_as_good_as_told(sections):
    told = performance(r"The choice takes at\s+most (\S+) times as long as the fastest order, where 1.25 is allowed")
    assert max(column(sections["Backends"], "choice / fastest"), key=float) == told[0]
    assert float(told[0]) <= 1.25


def test_the_oracle_is_as_slow_as_told(sections):
    text = r"takes (\d+) to (\d+) times as long for a training step, and (\d+) to (\d+) times as much\s+memory"
    ratios = [list(map(float, column(sections["Against the oracle"], f"× {of}"))) for of in ("time", "memory")]
    assert [f"{end(values):.0f}" for values in ratios for end in (min, max)] == list(performance(text))


def test_goals_are_reached_as_told(sections):
    text = r"are reached but one, that of `nbody` on the Xeon, by (\S+) %"
    judged = column(sections["Goals"], "goal here") + column(sections["Goals"], "its goal")
    assert [f"missed by {performance(text)[0]}%" in goal for goal in judged if not goal.endswith(": reached")] == [True]


def performance(text):
    """What a sentence of the page on performance has in its groups."""
    return re.search(text, (ROOT / "docs" / "performance.md").read_text()).groups()
