"""Orders told pair of degrees by pair of degrees: block by block of edges, made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..contraction.inputs import Inputs
from ..contraction.kernels import KernelSet
from ..contraction.memory import room_for
from ..contraction.parameters import is_the_same_again
from ..fibers import Features, Fiber
from ..native.calls import is_transformed
from ..unchanged import version

if TYPE_CHECKING:
    from ..modules.pairwise import PairwiseConv

Message = Callable[["PairwiseConv", Inputs, int, int], Tensor]


def messages(message: Message, sets: Sequence[KernelSet], fiber_in: Fiber, inputs: Inputs) -> list[Features]:
    """Messages along every edge, for each of the sets of kernels.

    Args:
        message: from degree k to degree l, ``[edges, channels, 2l+1]``: of a kernel, the inputs, k and l.
        sets, fiber_in, inputs: as in :func:`equivariant_attention.contraction.contract`.
    """
    return [
        {
            str(l): reduce(torch.add, (_by_block(message, kernels, inputs, k, l) for k in fiber_in.degrees))
            for l in fiber_out.degrees
        }
        for kernels, fiber_out in sets
    ]


def _by_block(message: Message, kernels: nn.ModuleDict, inputs: Inputs, k: int, l: int) -> Tensor:
    kernel = cast("PairwiseConv", kernels[f"({k},{l})"])
    if is_transformed() or not is_the_same_again(kernel):
        return message(kernel, inputs, k, l)  # once, on all edges, whatever memory it takes
    # The kernel of an edge, once for every frequency, and as much again for the derivatives.
    numbers = 2 * kernel.nc_in * kernel.nc_out * (2 * k + 1) * (2 * l + 1) * (kernel.num_freq + 1)
    size = max(1, room_for("graph", inputs.src.device) // (4 * numbers))
    W = inputs.basis[f"{k},{l}"]  # formed here, once, and not in a block
    blocks = [inputs.of(slice(start, start + size)) for start in range(0, len(W), size)]
    if len(blocks) < 2:
        return message(kernel, inputs, k, l)
    read = [*inputs.features.values(), inputs.src, inputs.scalars, inputs.vector, W, *kernel.parameters()]
    again = _if_unwritten(message, read)
    return torch.cat([checkpoint(again, kernel, block, k, l, use_reentrant=False) for block in blocks])


def _if_unwritten(message: Message, tensors: Sequence[Tensor | None]) -> Message:
    """The same message, which refuses to be made again once one of the tensors that it reads was written to."""
    before = [version(tensor) for tensor in tensors]

    def checked(kernel: PairwiseConv, inputs: Inputs, k: int, l: int) -> Tensor:
        if before != [version(tensor) for tensor in tensors]:
            raise RuntimeError("what messages are made from must not be written to before their backward pass")
        return message(kernel, inputs, k, l)

    return checked
