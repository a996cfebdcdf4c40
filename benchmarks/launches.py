"""Counts what a training step would launch on a GPU, and the bytes that it would move, without one.

python -m benchmarks.launches                 counts every case by 'triton', and writes results/launches.json
python -m benchmarks.launches --backend frame     prints what another backend would launch

Nothing is computed: tensors are fake, and hold no value that the host could wait for. Counted is the second of two
steps, with a plan made ahead; the first makes what is made once. Parameters are flat, as the experiments train them.

A launch is a Triton kernel, or an operator of PyTorch that is neither a view nor an allocation. Such an operator counts
once, though on a GPU some launch several kernels (sorts, reductions in two steps). One that takes a list of tensors
(cat, stack, foreach, a fused optimiser) counts as often as PyTorch launches it before CUDA 13, with which foreach takes
7 times as many tensors at once. Bytes are those of all tensors that a launch reads or writes, each once: caches may
save some of them, and what a kernel reads twice is not counted twice. So these are counts, not measurements.
"""

from __future__ import annotations

import argparse
import copy
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from utils.cli import answer_help, run

PATH = Path(__file__).parent / "results" / "launches.json"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.launches",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--backend", choices=("triton", "frame", "node", "edge"), default="triton", help="(triton)")
    parser.add_argument("--case", choices=("bonded-240", "dense-240", "nbody-128"), action="append", help="(all)")
    return parser


if __name__ == "__main__":
    answer_help(_parser)  # PyTorch takes seconds to import

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.workloads import nbody, qm9_bonded, qm9_dense
from equivariant_attention.contraction import use_backend
from equivariant_attention.graphs import Graph
from equivariant_attention.kernels import launch
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.native.operators import INSIDE
from equivariant_attention.plan import Plan
from utils.files import write_json
from utils.flat_parameters import FlatParameters

CASES: dict[str, Callable[[bool], tuple[nn.Module, Graph]]] = {
    "bonded-240": partial(qm9_bonded, molecules=240),
    "dense-240": partial(qm9_dense, molecules=240),
    "nbody-128": nbody,
}
MAX_DEGREE = 3
FREE = {  # what launches nothing
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "detach", "alias",
    "_unsafe_view", "_record_function_enter_new", "_record_function_exit",
}  # fmt: skip

# Of PyTorch's aten/src/ATen/native/cuda: what one launch takes.
MOST_JOINED = 128  # tensors that it concatenates, CAT_ARRAY_BATCH_SIZE of Shape.cu; half of it where strides are needed
MOST_TENSORS = (110, 64, 48, 36, 30)  # of 1 to 5 lists, depth_to_max_tensors of MultiTensorApply.cuh
MOST_CHUNKS, CHUNK = 320, 65536  # of these tensors, depth_to_max_blocks; and the numbers in a chunk


def launches_of(name: str, lists: Sequence[Sequence[Tensor]]) -> int:
    """How often an operator of PyTorch is launched.

    Args:
        name: of the operator.
        lists: of tensors, which it takes or returns.

    Returns:
        the number; 1 for what takes no lists.
    """
    if name in ("cat", "stack"):
        return _of_joining(*lists)
    if name.startswith("_foreach_"):
        return _of_each(lists[0], MOST_TENSORS[len(lists) - 1])
    if name.startswith("_fused_"):
        return _of_each(lists[0], MOST_TENSORS[len(lists) - 2])  # the numbers of steps are in a list of their own
    return 1


def _of_joining(tensors: Sequence[Tensor]) -> int:
    if len({v.dtype for v in tensors}) > 1:
        return len(tensors)
    return -(-len(tensors) // (MOST_JOINED if all(v.is_contiguous() for v in tensors) else MOST_JOINED // 2))


def _of_each(tensors: Sequence[Tensor], most: int) -> int:
    launches, held, chunks = 0, 0, 0  # the latter two of the launch that is being filled
    for tensor in tensors:
        full, chunks = divmod(chunks + -(-tensor.numel() // CHUNK), MOST_CHUNKS)
        launches, held = launches + full, min(chunks, 1 if full else held + 1)
        if held == most:
            launches, held, chunks = launches + 1, 0, 0
    return launches + (held > 0)


class Counted(TorchDispatchMode):
    """Counts launches and bytes of what runs within it.

    Args:
        record: of the kernels in Triton.

    Attributes:
        names: how often each operator was launched.
        num_bytes: of all.
    """

    def __init__(self, record: launch.Record) -> None:
        super().__init__()
        self.record, self.names, self.num_bytes = record, Counter[str](), 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator; of the library's own, what they do."""
        name, kwargs = function.name().split(".")[0], kwargs or {}
        if function.namespace == "prim":  # which only asks for a property of a tensor
            return function(*args, **kwargs)
        if name in INSIDE:
            with self:
                return INSIDE[name](*args, **kwargs)
        with self:
            output = function.decompose(*args, **kwargs)
        if output is not NotImplemented:  # it was decomposed into other operators, which were counted
            return output
        output = function(*args, **kwargs)
        short = name.split("::")[1]
        if not (short in FREE or function.is_view):
            lists = [v for v in (*args, output) if isinstance(v, (list, tuple)) and v and isinstance(v[0], Tensor)]
            self.names[short] += launches_of(short, lists)
            tensors = [v for v in tree_leaves((args, kwargs, output)) if isinstance(v, Tensor)]
            self.num_bytes += launch.num_bytes(tensors)
        return output

    def total(self) -> dict[str, Any]:
        """What was counted, and forget it."""
        names = self.names + Counter(f"triton {one.name}" for one in self.record)
        found = {
            "launches": sum(names.values()),
            "triton": len(self.record),
            "gigabytes": round((self.num_bytes + sum(one.num_bytes for one in self.record)) / 1e9, 3),
            "most": dict(names.most_common()),
        }
        self.record.clear()
        self.names, self.num_bytes = Counter(), 0
        return found


def counted(model: nn.Module, graph: Graph, backend: str) -> dict[str, Any]:
    """What a training step launches.

    Args:
        model, graph: of a workload; the model is called with the graph, and basis and distances.
        backend: of ``equivariant_attention.contraction.BACKENDS``.

    Returns:
        for 'forward', 'backward' and 'optimiser' the launches and bytes.
    """
    plan = Plan(graph)
    for _ in (plan.by_source, plan.by_destination, plan.out_edges):
        pass  # made ahead, as the plan
    with FakeCopyMode(FakeTensorMode()):
        model, graph, plan = copy.deepcopy((model, graph, plan))
    found = {}
    with FakeTensorMode(allow_non_fake_inputs=True), launch.recorded() as record, use_backend(backend):
        flat = FlatParameters(model)
        optimiser = torch.optim.AdamW(flat.whole, fused=True)
        with Counted(record) as count:
            for _ in range(2):
                flat.zero_grad()
                count.total()
                loss = model(graph, get_basis_and_r(graph, MAX_DEGREE, plan=plan)).square().mean()
                found["forward"] = count.total()
                loss.backward()
                found["backward"] = count.total()
                flat.join_gradients()
                optimiser.step()
                found["optimiser"] = count.total()
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line; ``arguments`` are its words, None for those of this process. Returns what was counted."""
    flags = _parser().parse_args(arguments)
    result = {}
    for name in flags.case or CASES:
        torch.manual_seed(0)
        result[name] = counted(*CASES[name](False), flags.backend)
        for part, row in result[name].items():
            print(f"{name:12}{part:10}{row['launches']:7} launches {row['gigabytes']:9.3f} GB  {row['most']}")
    if flags.backend == "triton" and not flags.case:
        write_json(PATH, result)
        print(f"written to {PATH}")
    return result


if __name__ == "__main__":
    run(main)
