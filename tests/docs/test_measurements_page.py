"""The page of measurements is what its command writes, within the limits it names; performance.md has no figures."""

import json
import re
import shlex

import pytest

from benchmarks.launches import PATH as LAUNCHES
from benchmarks.report import main
from benchmarks.slots import PATH as SLOTS
from benchmarks.workloads import FORCES_TRAINED, TRAINING
from tests.benchmarks.cases import tables
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "measurements.md"


@pytest.fixture(scope="module")
def sections():
    """By their titles."""
    return {text.partition("\n")[0]: text for text in PAGE.read_text().split("\n## ")}


def lines(section):
    """Those of all its tables."""
    return [line for table in tables(section) for line in table]


def column(section, title):
    """The cells under a title in all tables that have it; of training steps, where steps are told."""
    of_training = [line for line in lines(section) if line.get("step", TRAINING) == TRAINING]
    return [line[title] for line in of_training if title in line]


def test_the_page_is_what_its_command_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    block = re.search(r"    (python -m benchmarks\.report (?:.*\\\n)*.*\n)", PAGE.read_text())[1]
    _, _, _, *words = shlex.split(block.replace("\\\n", " "))
    page, *pictures = main([*words, "--page", str(tmp_path / PAGE.name)])
    assert page.read_text() == PAGE.read_text()
    assert {path.name for path in pictures} == {path.name for path in PAGE.parent.glob("measurements_*.png")}


def test_the_choice_of_the_backend_is_as_good_as_wanted(sections):
    assert "1.25 at most is wanted" in sections["Backends"].replace("\n", " ")
    assert max(map(float, column(sections["Backends"], "choice / fastest"))) <= 1.25


def test_training_on_forces_costs_as_little_as_wanted(sections):
    assert "at most 4 times the time and 3 times the memory" in sections["forces"]
    (ratios,) = [
        line["× a step on energies"] for line in lines(sections["forces"]) if line.get("step") == FORCES_TRAINED
    ]
    time, memory = map(float, re.fullmatch(r"time (\S+), memory (\S+)", ratios).groups())
    assert time <= 4
    assert memory <= 3


def test_what_was_counted_for_a_gpu_is_what_the_table_of_counts_has(sections):
    counts = json.loads(LAUNCHES.read_text())
    section = sections["On a GPU: counted and predicted"]
    assert "Nothing here was measured" in section
    for line in lines(section):
        for part, row in counts.pop(line["training step"]).items():
            assert line[f"launches, {part}"] == f"{row['launches']:,}"
            assert float(line[f"GB, {part}"]) == pytest.approx(row["gigabytes"], rel=0.01)
    assert not counts


def test_issue_slots_are_those_of_the_table_of_counts(sections):
    counts, section = json.loads(SLOTS.read_text()), sections["On a GPU: issue slots, counted"]
    assert {line["kernel"]: line["issue slots"] for line in lines(section)} == {
        name: f"{row['slots']:.3f} ms" for name, row in counts.items()
    }
    assert counts["all"]["slots"] <= 1.6  # as wanted


def test_the_page_on_performance_has_no_figure_that_was_measured():
    """Times, rates and sizes: those that a command has measured stand on the page that it writes."""
    text = (ROOT / "docs" / "performance.md").read_text()
    allowed = {"150 GFLOP/s", "4 kB"}  # what goals are set for; a page of memory
    found = re.findall(r"[\d.,]+ (?:µs|ms|s|GFLOP/s|TB/s|kB|MB|GB|%)(?!\w)", text)
    assert {*found} <= allowed
