"""Counts the issue slots of the kernels that make and use radial weights in a training step on a GPU, without one.

python -m benchmarks.slots                          counts bonded-240 in 'high', and writes results/slots.json
python -m benchmarks.slots --precision highest      prints what 'highest' would take

Every launch is compiled for sm_90. Read are its instructions, and how often each is run is told by the sizes: those of
a loop as often as the loop goes round, in all programs together; others once in each program that may come there
(a branch that depends on the data counts as taken both ways, so this is a little more than what is run). Each costs one
issue slot of one warp, and a GPU has four in each clock of each of its multiprocessors: milliseconds are those of an
H100 of 132 multiprocessors at 1.755 GHz that issues always. Tensor cores work beside that, 1024 multiply-adds of TF32
in a clock; what they need at the least is told apart. Not counted is what a warp waits for: memory, barriers, pipes
that take an instruction every second clock. So these are bounds from below, not measurements.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils.cli import answer_help, run

PATH = Path(__file__).parent / "results" / "slots.json"
CAPABILITY = 90
SLOTS = 4 * 132 * 1.755e9  # a second
MULTIPLY_ADDS = 1024 * 132 * 1.755e9  # of tensor cores in TF32, a second


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.slots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--precision", choices=("high", "highest"), default="high", help="of products (high)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import re

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from benchmarks.launches import CASES, MAX_DEGREE, Counted
from benchmarks.machine_code import MachineCode, of_launch
from equivariant_attention.contraction import use_backend
from equivariant_attention.graphs import Graph
from equivariant_attention.kernels import launch
from equivariant_attention.kernels.launch import Launch
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.plan import Plan
from utils.files import write_json


class Way(NamedTuple):
    """What some of the programs of a launch run.

    Attributes:
        programs: how many.
        turns: for each loop on the way, in the order of the code, how often it goes round in all of them together.
    """

    programs: int
    turns: tuple[int, ...]


class Count(NamedTuple):
    """Issue slots, and multiply-adds of tensor cores."""

    slots: int
    multiply_adds: int


def _messages(a: dict[str, Any]) -> list[Way]:
    blocks, parts = -(-a["count"] // a["ROWS"]), a["C"] // a["CT"]
    tiles0, tiles = a["P"] // a["PT0"], a["P"] // a["PT"]
    return [
        Way(blocks * slots * tiles, (blocks * tiles * len(nets) * parts,))
        for slots, tiles, nets in ((a["slots0"], tiles0, a["nets0_at"]), (a["slots"], tiles, a["nets_at"]))
        if slots
    ]


def _by_hidden(a: dict[str, Any]) -> list[Way]:
    blocks, parts, tiles = -(-a["count"] // a["ROWS"]), a["C"] // a["CT"], a["P"] // a["PT"]
    lists = ("kernels0_at", "kernels_at")[: 1 + a["HAS_M"]]
    turns = [blocks * len(a[kernels]) * parts * n for kernels in lists for n in (1, tiles)]
    return [Way(blocks * len(a["dg_at"]), tuple(turns))]


def _by_weights(a: dict[str, Any]) -> list[Way]:
    parts, last = divmod(a["count"], a["of_part"])
    blocks = parts * (a["of_part"] // a["ROWS"]) + -(-last // a["ROWS"])
    ways = ((a["kernels0"], a["PT0"]), (a["kernels"], a["PT"]))
    programs = [kernels * a["P"] // tile * a["C"] // a["CT"] for kernels, tile in ways if kernels]
    return [Way(n * (parts + (last > 0)), (n * blocks,)) for n in programs]


WAYS = {"messages": _messages, "by_hidden": _by_hidden, "by_weights": _by_weights}


def counted(code: MachineCode, ways: Sequence[Way], warps: int) -> Count:
    """What a launch of a kernel takes.

    Args:
        code: of the kernel.
        ways: through it, in the order of the code.
        warps: of a program.

    Raises:
        ValueError: if the code has another number of loops.
    """
    turns = [n for way in ways for n in way.turns]
    if len(turns) != len(code.loops):
        raise ValueError(f"code: expected {len(turns)} loops, got {len(code.loops)}")
    times, firsts = [0] * len(code.lines), [0, *(len(way.turns) for way in ways)]
    for i, way in enumerate(ways):
        for line in code.through(code.loops[sum(firsts[: i + 1])].start):
            times[line] += way.programs
    for loop, n in zip(code.loops, turns, strict=True):  # those inside come after those around them
        times[loop.start : loop.stop] = [n] * len(loop)
    multiply_adds = (n * _multiply_adds(line) for n, line in zip(times, code.lines, strict=True))
    return Count(sum(times) * warps, sum(multiply_adds) * warps // 4)


def _multiply_adds(line: str) -> int:
    """Of the tensor cores, for four warps."""
    sizes = re.search(r"\bHGMMA\.(\d+)x(\d+)x(\d+)", line)
    return int(sizes[1]) * int(sizes[2]) * int(sizes[3]) if sizes else 0


def launched(model: nn.Module, graph: Graph, precision: str) -> list[Launch]:
    """The launches of a training step that make and use radial weights, with nothing computed.

    Args:
        model, graph: of a workload.
        precision: as ``torch.set_float32_matmul_precision`` takes it.
    """
    plan, before = Plan(graph), torch.get_float32_matmul_precision()
    for _ in (plan.by_source, plan.by_destination, plan.out_edges):
        pass  # made ahead, as the plan
    with FakeCopyMode(FakeTensorMode()):
        model, graph, plan = copy.deepcopy((model, graph, plan))
    torch.set_float32_matmul_precision(precision)
    try:
        with (
            FakeTensorMode(allow_non_fake_inputs=True),
            launch.recorded(CAPABILITY) as record,
            use_backend("triton"),
            Counted(record),
        ):
            model(graph, get_basis_and_r(graph, MAX_DEGREE, plan=plan)).square().mean().backward()
    finally:
        torch.set_float32_matmul_precision(before)
    return [one for one in record if one.kernel.__module__.endswith(".mixing")]


def count_all(launches: Sequence[Launch]) -> dict[str, dict[str, Any]]:
    """What launches take: for each kernel and in all, milliseconds of issue slots and of tensor cores, and spills."""
    compiled: dict[Any, MachineCode] = {}
    found: dict[str, dict[str, Any]] = {}
    for one in launches:
        numbers = {name: v for name, v in one.arguments.items() if isinstance(v, int | str)}
        key = (one.name, *numbers.items())
        if key not in compiled:
            compiled[key] = of_launch(one, CAPABILITY)
        code = compiled[key]
        count = counted(code, WAYS[one.name](one.arguments), one.arguments["num_warps"])
        for name in (one.name, "all"):
            row = found.setdefault(name, {"launches": 0, "slots": 0.0, "tensor_cores": 0.0, "spilled": 0})
            row["launches"] += 1
            row["slots"] += 1e3 * count.slots / SLOTS
            row["tensor_cores"] += 1e3 * count.multiply_adds / MULTIPLY_ADDS
            row["spilled"] = max(row["spilled"], code.spilled)
    rounded = {name: {k: round(v, 3) for k, v in row.items()} for name, row in found.items()}
    return {name: rounded[name] for name in sorted(rounded, key=lambda name: (name == "all", name))}


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Run the command line; ``arguments`` are its words, None for those of this process. Returns what was counted."""
    precision = _parser().parse_args(arguments).precision
    torch.manual_seed(0)
    result = count_all(launched(*CASES["bonded-240"](False), precision))
    for name, row in result.items():
        print(
            f"{name:12}{row['launches']:4} launches {row['slots']:7.3f} ms of issue slots "
            f"{row['tensor_cores']:7.3f} ms of tensor cores {row['spilled']:5} B spilled"
        )
    if precision == "high":
        write_json(PATH, result)
        print(f"written to {PATH}")
    return result


if __name__ == "__main__":
    run(main)
