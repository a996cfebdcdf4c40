r"""The hot loop: the messages of equation (8) of arXiv 2006.10503, along every edge, in one of several exact orders.

.. math:: m_{ij}^l = \sum_k W^{lk}(x_{ij}) \, f_j^k, \qquad
          W^{lk} = \sum_J R_J^{lk}(|x_{ij}|, w_{ij}) \, W_J^{lk}(x_{ij})

The sums over channels, orders and J may be done in any order. Each module here is one order; all of them give the same
function of the same parameters. ``oracle`` is the equation as it is written, and what the others are tested against.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from equivariant_attention.basis import Basis
from equivariant_attention.contraction import blockwise, edge, oracle
from equivariant_attention.contraction.inputs import Inputs
from equivariant_attention.contraction.kernels import KernelSet
from equivariant_attention.fibers import Features, Fiber

__all__ = ["BACKENDS", "Inputs", "contract", "use_backend"]

Order = Callable[[Sequence[KernelSet], Fiber, Inputs], list[Features]]


def _pair_by_pair(message: Callable[[nn.Module, Inputs, int, int], Tensor]) -> Order:
    """An order that is told pair of degrees by pair of degrees, as one for whole convolutions."""

    def messages(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs) -> list[Features]:
        return [
            {
                str(l): sum(message(kernels[f"({k},{l})"], inputs, k, l) for k in fiber_in.degrees)
                for l in fiber_out.degrees
            }
            for kernels, fiber_out in sets
        ]

    return messages


BACKENDS: dict[str, Order] = {
    "oracle": _pair_by_pair(oracle.message),
    "edge": _pair_by_pair(edge.message),
    "frame": blockwise.messages,
}
_chosen: ContextVar[str | None] = ContextVar("backend", default=None)


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Within this context every convolution runs in the order ``name``; None lets the library choose.

    Args:
        name: 'oracle', 'edge', 'frame' or None.

    Raises:
        ValueError: there is no such order.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {name!r}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def contract(sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs) -> list[Features]:
    """Messages along every edge, of several sets of kernels at once.

    Args:
        sets: the :class:`~equivariant_attention.modules.PairwiseConv` of every pair of degrees, keyed ``'(k,l)'``, with
            the degrees l and channels of the messages that they make.
        fiber_in: degrees k and channels of what the nodes send.
        inputs: what the messages are made from.

    Returns:
        ``{degree: [edges, channels, 2 degree + 1]}`` for each of the sets.

    Raises:
        ValueError: the basis lacks a pair of degrees, is of another graph, or is a plain dict where the order chosen by
            name needs frames.
    """
    for _, fiber_out in sets:
        inputs.check_basis(fiber_in, fiber_out)
    has_frames = isinstance(inputs.basis, Basis)
    name = _chosen.get() or ("frame" if has_frames else "edge")
    if name == "frame" and not has_frames:
        raise ValueError("backend 'frame' needs the basis of get_basis_and_r, got a plain dict, which has no frames")
    return BACKENDS[name](sets, fiber_in, inputs)
