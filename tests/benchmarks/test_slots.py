"""The issue slots of kernels, read from machine code."""

import json
from collections import Counter

import pytest
import torch

from benchmarks.launches import CASES
from benchmarks.machine_code import MachineCode
from benchmarks.slots import PATH, WAYS, Count, Way, count_all, counted, launched

# Two ways, with a loop each; the second has another loop in it.
TWO_WAYS = MachineCode(
    registers=0,
    spilled=0,
    shared=0,
    lines=[
        "S2UR UR4, SR_CTAID.X",
        "@P0 BRA `(.L_x_2)",
        "HGMMA.64x32x8.F32.TF32 R24, R52, gdesc[UR24], R24",
        "@!P1 BRA `(.L_x_0)",
        "EXIT",
        "MOV R1, R2",
        "FFMA R4, R1, R2, R4",
        "@P3 BRA `(.L_x_4)",
        "@P2 BRA `(.L_x_3)",
        "EXIT",
        "BRA `(.L_x_5)",
    ],
    labels={".L_x_0": 2, ".L_x_2": 5, ".L_x_3": 5, ".L_x_4": 6, ".L_x_5": 10},
)


def test_a_loop_counts_as_often_as_it_goes_round_and_what_is_beside_it_once_a_program():
    first, second = Way(programs=7, turns=(100,)), Way(programs=5, turns=(20, 300))
    beside, loops = 2 * (7 + 5) + 7 + 5, 2 * 100 + 20 + 2 * 300 + 20
    expected = Count(slots=4 * (beside + loops), multiply_adds=100 * 64 * 32 * 8)
    assert counted(TWO_WAYS, [first, second], warps=4) == expected


def test_loops_that_were_not_expected_are_refused():
    with pytest.raises(ValueError, match=r"^code: expected 2 loops, got 3"):
        counted(TWO_WAYS, [Way(7, (100, 20))], warps=4)


def test_loops_that_hold_no_other():
    assert TWO_WAYS.innermost == [{"HGMMA": 1, "BRA": 1}, {"FFMA": 1, "BRA": 1}]


COLUMNS = {  # of a tile of radial weights, for each turn of each loop; those of m > 0 are left out where there are none
    "messages": lambda a: (a["PT0"] * a["CT"], 2 * a["PT"] * a["CT"]),
    "by_hidden": lambda a: (0, a["PT"] * a["CT"], 0, 2 * a["PT"] * a["CT"]),
    "by_weights": lambda a: (a["PT0"] * a["CT"], 2 * a["PT"] * a["CT"]),
}


def test_every_pass_goes_once_through_all_radial_weights():
    pytest.importorskip("triton")
    torch.manual_seed(0)
    made = Counter()
    for one in launched(*CASES["bonded-240"](False, molecules=1, num_layers=2), "high"):
        a = one.arguments
        turns = [n for way in WAYS[one.name](a) for n in way.turns]
        weights = sum(a["ROWS"] * n * m for n, m in zip(turns, COLUMNS[one.name](a), strict=a["HAS_M"]))
        rows = -(-a["count"] // a["ROWS"]) * a["ROWS"]  # a tile is whole
        made[one.name, a["C"] * a["P"]] += weights / rows
    first, second, last = 5 * 16 * 8, 16 * 32 * (32 + 2 * 28), 4 * 128 * 32
    assert made["by_weights", 16 * 32] == made["by_hidden", 16 * 32] == second
    assert made["messages", 16 * 32] == 2 * second  # forward, and backward with respect to features
    assert made["messages", 16 * 8] == made["by_hidden", 16 * 8] == made["by_weights", 16 * 8] == first
    assert made["messages", 128 * 32] == 2 * made["by_hidden", 128 * 32] == 2 * made["by_weights", 128 * 32] == 2 * last


@pytest.mark.slow
def test_slots_only_fall():
    """Where they have fallen, `python -m benchmarks.slots` writes the table anew."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    table, found = json.loads(PATH.read_text()), count_all(launched(*CASES["bonded-240"](False), "high"))
    for name, row in table.items():
        assert {key: found[name][key] <= most for key, most in row.items()} == dict.fromkeys(row, True), name


@pytest.mark.slow
def test_products_as_exact_as_float32_issue_less_than_twice_as_much():
    """Each is three in TF32."""
    pytest.importorskip("triton")
    torch.manual_seed(0)
    found = count_all(launched(*CASES["bonded-240"](False), "highest"))["all"]
    assert found["spilled"] == 0
    assert found["slots"] < 2 * json.loads(PATH.read_text())["all"]["slots"]
