"""Times the kernels that make and use radial weights with tiles of several sizes on a GPU, and keeps the fastest.

python -m benchmarks.tune qm9-dense               for what steps of a workload launch
python -m benchmarks.tune all --precision high    of all workloads, where products are in TF32

By default sizes follow from a rule (``equivariant_attention/contraction/triton_sizes.py``). Candidates are what it says
for every kind of GPU and precision, at most four. Of launches that differ in their rows alone, one with the most is
timed, on random numbers, and results are compared with those by the rule. The fastest is kept for this GPU, version of
Triton, kernel, channels, degrees and precision, in the folder where the library keeps the C++ that it compiled.
Processes that begin later launch that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from benchmarks.selection import DEFAULT, by_workload, named_cases
from utils.cli import Parser, UsageError, answer_help, blame, run


def _parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__, prog="python -m benchmarks.tune")
    add, precisions = parser.add_argument, ("highest", "high", "medium")
    add("workloads", nargs="+", type=named_cases, metavar="NAME", help="as for python -m benchmarks")
    add("--precision", choices=precisions, default="highest", help="of products (highest)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import torch
from torch import Tensor

from benchmarks.steps import Setup, build, make_step
from benchmarks.workloads import WORKLOADS
from equivariant_attention.contraction.triton_products import ByHidden, ByWeights, Messages, Products, Rows, mixing
from equivariant_attention.contraction.triton_sizes import Key, Sizes, candidates, keep
from equivariant_attention.kernels import launch
from equivariant_attention.kernels.launch import Launch

NEAR = 1e-4  # of the largest number: sums are in another order; a wrong tile would be off by all of it

Call = Callable[[], Sequence[Tensor]]  # a launch; gives what it wrote
Clock = Callable[[Call], float]  # milliseconds


def _messages(products: Products, a: dict[str, Any]) -> Sequence[Tensor]:
    m0, m = (Messages(*_side(a, of, "A", "b", "x", "y", "targets", "nets")) for of in ("0", ""))
    products.messages([_rows(a)], a["g_at"], m0, m, a["HAS_BIAS"])
    return m0.y, m.y


def _by_hidden(products: Products, a: dict[str, Any]) -> Sequence[Tensor]:
    m0, m = (ByHidden(*_side(a, of, "A", "x", "dy", "kernels", "numbers")) for of in ("0", ""))
    products.by_hidden([_rows(a)], a["dg_at"], m0, m, a["ends_at"])
    return [a["dg_at"]]


def _by_weights(products: Products, a: dict[str, Any]) -> Sequence[Tensor]:
    m0, m = (ByWeights(*_side(a, of, "x", "dy", "numbers", "nets")) for of in ("0", ""))
    return [parts.sum(0) for parts in products.by_weights([_rows(a)], a["g_at"], m0, m)]


CALLS = {"messages": _messages, "by_hidden": _by_hidden, "by_weights": _by_weights}


def _side(a: dict[str, Any], of: str, *names: str) -> list[Tensor]:
    return [a[f"{name}{of}_at"] for name in names]


def _rows(a: dict[str, Any]) -> Rows:
    return Rows(a["D"], a["first_row"], a["count"], a["first_edge"])


def _again(one: Launch, choose: Callable[[Key, str], Sizes]) -> Call:
    """A recorded launch, of sizes that are chosen anew."""
    x = one.arguments["x0_at"]
    return partial(CALLS[one.name], Products(x.device, x.dtype, choose), one.arguments)


def key_of(one: Launch, capability: int) -> Key:
    """Under which the sizes for a recorded launch are kept, on a GPU of some capability."""
    keys: list[Key] = []

    def choose(key: Key, _: str) -> Sizes:
        keys.append(key)
        return candidates(key)[0]

    with launch.recorded(capability):
        _again(one, choose)()
    return keys[0]


def launches(setup: Setup, workloads: dict[str, list[str]]) -> dict[Key, Launch]:
    """What steps of all kinds would launch that makes or uses radial weights; for each key, what has the most rows.

    Args:
        setup: tells the device.
        workloads: the names of cases of each of them.
    """
    capability, found = launch.capability(torch.device(setup.device)), dict[Key, Launch]()
    for workload, case in ((name, case) for name, cases in workloads.items() for case in cases):
        model, graph = build(setup, workload, case)
        with launch.recorded(capability) as record:
            for mode in WORKLOADS[workload].modes:
                make_step(model, graph, DEFAULT, mode)()
        for one in record:
            if one.kernel is getattr(mixing(), one.name, None):
                key = key_of(one, capability)
                found[key] = max(found.get(key, one), one, key=lambda one: one.arguments["count"])
    return found


def times(key: Key, one: Launch, clock: Clock) -> list[tuple[float, Sizes]]:
    """Milliseconds of a recorded launch with each of its candidates, but those that fail; by the rule first.

    Args:
        key: of the launch.
        one: the launch. All numbers that it reads become random.
        clock: tells how long a call takes.
    """
    from triton.runtime.errors import OutOfResources

    for value in one.arguments.values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.normal_()
    calls = [(_again(one, lambda *_, sizes=sizes: sizes), sizes) for sizes in candidates(key)]
    expected, found = _results(calls[0][0]), list[tuple[float, Sizes]]()
    for call, sizes in calls:
        try:
            results = _results(call)
        except OutOfResources:  # there is less shared memory than on the kind of GPU that the rule has these sizes for
            continue
        if all(map(_is_near, results, expected)):
            found.append((clock(call), sizes))
        else:
            print(f"{key.kernel} with {dict(sizes)} gives other results than by the rule, and is left out")
    return found


def _results(call: Call) -> list[Tensor]:
    """What a call writes, and not what was there before."""
    for tensor in call():
        tensor.zero_()
    return [tensor.clone() for tensor in call()]


def _is_near(a: Tensor, b: Tensor) -> bool:
    return not a.numel() or bool((a - b).abs().max() <= NEAR * b.abs().max())


def _median(call: Call) -> float:
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median"))


def main(
    arguments: Sequence[str] | None = None, setup: Setup | None = None, clock: Clock = _median
) -> dict[Key, Sizes]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.
        setup: tells the device; None for the first GPU.
        clock: tells how many milliseconds a call takes.

    Returns:
        the sizes that were kept.

    Raises:
        UsageError: the kernels cannot run, or the file cannot be written.
    """
    flags = _parser().parse_args(arguments)
    if setup is None and not torch.cuda.is_available():
        raise UsageError("expected a GPU, PyTorch sees none")
    setup = setup or Setup("cuda:0")
    device = torch.device(setup.device)
    if reason := launch.missing(device):
        raise UsageError(f"expected a GPU that runs the kernels: {reason}")
    torch.set_float32_matmul_precision(flags.precision)
    best: dict[Key, Sizes] = {}
    for key, one in launches(setup, by_workload(flags.workloads)).items():
        found = times(key, one, clock)
        fastest, best[key] = min(found, key=lambda timed: timed[0])
        print(f"{found[0][0]:9.4f} ms by the rule, {fastest:9.4f} ms with {dict(best[key])} for {key}")
    with blame("the file"):
        print(f"kept in {keep(best, launch.gpu_name(device))}")
    return best


if __name__ == "__main__":
    run(main)
