"""What a training step launches on a GPU, counted without one."""

import json

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.launches import CASES, PATH, counted


@pytest.mark.parametrize("name", CASES)
def test_a_tiny_step_is_counted(name):
    """Fake tensors hold no values, so this shows, too, that no host waits for one."""
    torch.manual_seed(0)
    found = counted(*CASES[name](True), "triton")
    assert found["forward"]["triton"] > 0
    assert found["backward"]["triton"] > found["forward"]["triton"]
    assert found["optimiser"]["parameters"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_counts_only_fall(name):
    """Where they have fallen, `python -m benchmarks.launches` writes the table anew."""
    torch.manual_seed(0)
    table, found = json.loads(PATH.read_text())[name], counted(*CASES[name](False), "triton")
    for part, row in table.items():
        assert found[part]["launches"] <= row["launches"]
        assert found[part]["gigabytes"] <= row["gigabytes"]
