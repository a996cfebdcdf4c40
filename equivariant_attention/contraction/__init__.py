r"""The hot loop: the messages of equation (8) of arXiv 2006.10503, along every edge, in one of several exact orders.

.. math:: m_{ij}^l = \sum_k W^{lk}(x_{ij}) \, f_j^k, \qquad
          W^{lk} = \sum_J R_J^{lk}(|x_{ij}|, w_{ij}) \, W_J^{lk}(x_{ij})

The sums over channels, orders and J may be done in any order. Each module here is one order; all of them give the same
function of the same parameters. ``oracle`` is the equation as it is written, and what the others are tested against.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

from equivariant_attention.basis import Basis
from equivariant_attention.contraction import edge, frame, oracle
from equivariant_attention.contraction.inputs import Inputs
from equivariant_attention.fibers import Features, Fiber

__all__ = ["BACKENDS", "Inputs", "contract", "use_backend"]

Order = Callable[[nn.ModuleDict, Fiber, Fiber, Inputs], Features]


def _pair_by_pair(message: Callable[[nn.Module, Inputs, int, int], Tensor]) -> Order:
    """An order that is told pair of degrees by pair of degrees, as one for whole convolutions."""

    def messages(kernels: nn.ModuleDict, fiber_in: Fiber, fiber_out: Fiber, inputs: Inputs) -> Features:
        return {
            str(l): sum(message(kernels[f"({k},{l})"], inputs, k, l) for k in fiber_in.degrees)
            for l in fiber_out.degrees
        }

    return messages


BACKENDS: dict[str, Order] = {
    "oracle": _pair_by_pair(oracle.message),
    "edge": _pair_by_pair(edge.message),
    "frame": frame.messages,
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


def contract(kernels: nn.ModuleDict, fiber_in: Fiber, fiber_out: Fiber, inputs: Inputs) -> Features:
    """Messages along every edge.

    Args:
        kernels: the :class:`~equivariant_attention.modules.PairwiseConv` of every pair of degrees, keyed ``'(k,l)'``.
        fiber_in: degrees k and channels of what the nodes send.
        fiber_out: degrees l and channels of the messages.
        inputs: what they are made from.

    Returns:
        ``{degree: [edges, channels, 2 degree + 1]}`` for the degrees of ``fiber_out``.

    Raises:
        ValueError: the basis lacks a pair of degrees, is of another graph, or is a plain dict where the order chosen by
            name needs frames.
    """
    inputs.check_basis(fiber_in, fiber_out)
    has_frames = isinstance(inputs.basis, Basis)
    name = _chosen.get() or ("frame" if has_frames else "edge")
    if name == "frame" and not has_frames:
        raise ValueError("backend 'frame' needs the basis of get_basis_and_r, got a plain dict, which has no frames")
    return BACKENDS[name](kernels, fiber_in, fiber_out, inputs)
