r"""The hot loop: the messages of equation (8) of arXiv 2006.10503, along every edge, in one of several exact orders.

.. math:: m_{ij}^l = \sum_k W^{lk}(x_{ij}) \, f_j^k, \qquad
          W^{lk} = \sum_J R_J^{lk}(|x_{ij}|, w_{ij}) \, W_J^{lk}(x_{ij})

The sums over channels, orders and J may be done in any order. Each module here is one order; all of them give the same
function of the same parameters. ``oracle`` is the equation as it is written, and what the others are tested against.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..basis import Basis
from ..checks import check_whole_number
from ..compiling import constant_when_compiled
from ..contraction import blockwise, compiled, cost, edge, node, oracle, pair_by_pair, triton_mix
from ..contraction.inputs import Inputs
from ..contraction.kernels import KernelSet
from ..contraction.memory import limited_memory
from ..contraction.precision import full_precision
from ..fibers import Features, Fiber
from ..native.calls import is_watched, missing

__all__ = ["BACKENDS", "Inputs", "contract", "runs_in_cpp", "use_backend"]

Order = Callable[[Sequence[KernelSet], Fiber, Inputs], list[Features]]


BACKENDS: dict[str, Order] = {
    "oracle": partial(pair_by_pair.messages, oracle.message),
    "edge": partial(pair_by_pair.messages, edge.message),
    "frame": blockwise.messages,
    "compiled": compiled.messages,
    "node": node.messages,
    "triton": partial(blockwise.messages, fused=True),
}
NEEDS = {
    "frame": "frames",
    "compiled": "frames",
    "node": "plan",
    "triton": "frames",
}  # what only the basis of get_basis_and_r has
_chosen: ContextVar[str | None] = ContextVar("backend", default=None)


@contextmanager
def use_backend(name: str | None, memory: int | None = None) -> Iterator[None]:
    """Within this context every convolution runs in the order ``name``; None lets the library choose.

    Args:
        name: 'oracle', 'edge', 'frame', 'compiled' ('frame' in C++, on a CPU; built when first used, see
            :func:`~equivariant_attention.native.compiler.library`), 'node', 'triton' ('frame' with its products in
            a kernel of their own, on CUDA; never chosen by the library, as no GPU was at hand to measure it) or None.
            With None and 'compiled', attention, norms and linear maps run in C++ as well, where they can.
        memory: bytes that the blocks of edges evaluated at a time may take, about; None for what was measured to be
            fastest (tens of megabytes on a CPU). More never helps; less, and it is slower.

    Raises:
        ValueError: there is no such order, or ``memory`` is not a whole number of at least 1.
    """
    _check_name(name)
    if memory is not None:
        check_whole_number(memory, 1, "memory")
    token = _chosen.set(name)
    try:
        with limited_memory(memory):
            yield
    finally:
        _chosen.reset(token)


def _check_name(name: str | None) -> None:
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {name!r}")


@constant_when_compiled
def _named() -> str | None:
    return _chosen.get()


def runs_in_cpp(source: Path, tensors: Sequence[Tensor]) -> bool:
    """Whether layers are to compute in C++: where it can run, and no order but 'compiled' was chosen by name.

    Args:
        source: the C++ file.
        tensors: what it would compute with, at least one, all of one dtype or it cannot.

    Returns:
        whether it is to.
    """
    if _named() not in (None, "compiled") or is_watched():
        return False
    dtype = tensors[0].dtype
    return all(v.dtype == dtype for v in tensors) and not missing(source, tensors, dtype)


def contract(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs, backend: str | None = None) -> list[Features]:
    """Messages along every edge, of several sets of kernels at once.

    Args:
        sets: the :class:`~equivariant_attention.modules.PairwiseConv` of every pair of degrees, keyed ``'(k,l)'``, with
            the degrees l and channels of the messages that they make.
        fiber_in: degrees k and channels of what the nodes send.
        inputs: what the messages are made from.
        backend: name of the order to run in; None for that of :func:`use_backend`, or the library's choice.

    Returns:
        ``{degree: [edges, channels, 2 degree + 1]}`` for each of the sets.

    Raises:
        ValueError: there is no such order; or the basis lacks a pair of degrees, is of another graph, or is a plain
            dict where the order chosen by name needs frames or a plan, or the order chosen by name cannot run here.
    """
    _check_name(backend)
    for _, fiber_out in sets:
        inputs.check_basis(fiber_in, fiber_out)
    is_dict = not isinstance(inputs.basis, Basis)
    dtype = next(sets[0][0].parameters()).dtype
    name = backend or _named() or _choice(sets, fiber_in, inputs, dtype)
    if is_dict and name in NEEDS:
        raise ValueError(
            f"backend {name!r} needs the basis of get_basis_and_r, got a plain dict, which has no {NEEDS[name]}"
        )
    if name == "triton" and not triton_mix.available(inputs.src.device):
        raise ValueError(
            f"backend 'triton' needs Triton 3.3 or later and tensors on CUDA, got tensors on {inputs.src.device} "
            "(on a CPU it runs in Triton's interpreter, with TRITON_INTERPRET=1)"
        )
    if name == "compiled" and is_watched():
        name = "frame"
    if name == "compiled" and (reason := compiled.missing(inputs, dtype)):
        raise ValueError(f"backend 'compiled' cannot run here: {reason}")
    with full_precision(inputs.src.device):
        return BACKENDS[name](sets, fiber_in, inputs.to(dtype))


def _choice(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs, dtype: torch.dtype) -> str:
    if not isinstance(inputs.basis, Basis):
        return "edge"
    if _is_recorded():
        return "frame"
    has_compiled = not is_watched() and not compiled.missing(inputs, dtype)
    return cost.fastest(sets, fiber_in, inputs.basis.plan, inputs.pairs_share, has_compiled)


def _is_recorded() -> bool:
    """Whether a compiler of PyTorch looks at what runs, which 'frame' is made for."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
