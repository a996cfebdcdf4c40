"""What a training step launches on a GPU, counted without one."""

import json
from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.launches import CASES, PATH, counted
from benchmarks.workloads import nbody, qm9_bonded


def in_double(tiny):
    """The n-body model and graph in float64."""
    model, graph = nbody(tiny)
    for data in (graph.ndata, graph.edata):
        data.update({name: v.double() for name, v in data.items() if v.is_floating_point()})
    return model.double(), graph


STEPS = {
    "bonded": partial(qm9_bonded, molecules=240),
    "many channels": partial(qm9_bonded, num_channels=128),
    "double": in_double,
}


@pytest.mark.parametrize("name", STEPS)
def test_a_tiny_step_launches_and_moves_less_than_that_of_frame(name):
    """So the library chooses 'triton' there, whatever a launch or a byte costs.

    Fake tensors hold no values, so this shows, too, that no host waits for one.
    """
    torch.manual_seed(0)
    model, graph = STEPS[name](True)
    ours, others = counted(model, graph, "triton"), counted(model, graph, "frame")
    assert 0 < ours["forward"]["triton"] < ours["backward"]["triton"]
    assert ours["optimiser"]["launches"] == 3  # gradients are joined, steps counted, parameters changed
    for part in ("forward", "backward"):
        assert 3 * ours[part]["launches"] < others[part]["launches"]
        assert ours[part]["gigabytes"] <= others[part]["gigabytes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_counts_only_fall(name):
    """Where they have fallen, `python -m benchmarks.launches` writes the table anew."""
    torch.manual_seed(0)
    table, found = json.loads(PATH.read_text())[name], counted(*CASES[name](False), "triton")
    for part, row in table.items():
        assert found[part]["launches"] <= row["launches"]
        assert found[part]["gigabytes"] <= row["gigabytes"]
