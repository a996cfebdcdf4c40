import pytest

from benchmarks.figures import derive
from benchmarks.tables import duration, render, size
from benchmarks.workloads import FORCES_TRAINED
from tests.benchmarks.cases import row


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.345, "12.3 s"), (0.7, "700 ms"), (2.5e-3, "2.5 ms"), (4e-7, "0.4 µs"), (1234, "1234 s")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(0.4e9, "400 MB"), (1.5e9, "1.5 GB"), (0, "0 B"), (1234, "1.23 kB")])
def test_size(number, text):
    assert size(number) == text


def test_forces_and_goals_without_memory():
    forces = [row("forces", "8 molecules"), row("forces", "8 molecules", 4.5, mode=FORCES_TRAINED, above=2500)]
    protein = [row("protein", "256 residues")]
    for rows in (forces, protein):
        derive(rows, 75e9, on_cpu=True)
    assert "| time 4.50, memory 2.50 " in render(forces)
    assert "| 104 ms, here 208 ms " in render(protein)
