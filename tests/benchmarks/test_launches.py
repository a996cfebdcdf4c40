"""What a training step launches on a GPU, counted without one."""

import json
from functools import partial

import pytest
import torch

pytest.importorskip("triton")

from benchmarks.launches import CASES, CHUNK, MOST_CHUNKS, PATH, counted, launches_of
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
    optimiser = ours["optimiser"]["most"]  # gradients are joined, steps counted, parameters changed
    assert optimiser == {"cat": optimiser["cat"], "_foreach_add_": 1, "_fused_adamw_": 1}
    assert optimiser["cat"] <= 1 + sum(1 for _ in model.parameters()) // 64  # each may have zeros after it
    for part in ("forward", "backward"):
        assert 3 * ours[part]["launches"] < others[part]["launches"]
        assert ours[part]["gigabytes"] <= others[part]["gigabytes"]


def test_launches_of_lists_are_those_of_the_tables_of_pytorch():
    many = [torch.empty(32, device="meta")] * 2124
    across = torch.empty(4, 4, device="meta").t()
    assert launches_of("mul", []) == 1
    assert launches_of("cat", [many]) == 17
    assert launches_of("stack", [many[:128]]) == 1
    assert launches_of("cat", [[*many[:99], across]]) == 2
    assert launches_of("cat", [[many[0], many[0].double(), many[0]]]) == 3
    assert [launches_of("_foreach_copy_", [many] * n) for n in (1, 2, 3)] == [20, 34, 45]
    assert launches_of("_fused_adamw_", [many] * 5) == 59  # of four lists, beside the numbers of steps


@pytest.mark.parametrize(
    ("chunks", "launches"),
    [([MOST_CHUNKS], 1), ([MOST_CHUNKS + 1], 2), ([MOST_CHUNKS - 1, 1, 1], 2), ([MOST_CHUNKS - 1, 2], 2), ([], 0)],
)
def test_a_launch_takes_so_many_chunks(chunks, launches):
    tensors = [torch.empty(n * CHUNK, device="meta") for n in chunks]
    assert launches_of("_foreach_add_", [tensors]) == launches


def test_what_is_left_of_a_tensor_is_one_of_the_next_launch():
    tensors = [torch.empty(n * CHUNK, device="meta") for n in (MOST_CHUNKS - 1, 2, *[1] * 63)]
    assert launches_of("_foreach_copy_", [tensors] * 2) == 2
    assert launches_of("_foreach_copy_", [[*tensors, tensors[-1]]] * 2) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_counts_only_fall(name):
    """Where they have fallen, `python -m benchmarks.launches` writes the table anew."""
    torch.manual_seed(0)
    table, found = json.loads(PATH.read_text())[name], counted(*CASES[name](False), "triton")
    for part, row in table.items():
        assert found[part]["launches"] <= row["launches"]
        assert found[part]["gigabytes"] <= row["gigabytes"]
