"""Equation (8) as it is written: form the kernel of every edge, then multiply. Readable, never tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..contraction.inputs import Inputs

if TYPE_CHECKING:
    from ..modules.pairwise import PairwiseConv


def message(kernel: PairwiseConv, inputs: Inputs, k: int, l: int) -> Tensor:
    """From degree k to degree l, ``[edges, channels_out, 2l+1]``."""
    W = kernel(inputs.scalars, inputs.basis)
    return (W @ inputs.sent(k).flatten(1).unsqueeze(-1)).view(len(W), kernel.nc_out, 2 * l + 1)
