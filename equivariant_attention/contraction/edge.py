"""Edge first: steer the features by the basis, then multiply by the radial weights. No kernel is ever formed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..contraction.inputs import Inputs

if TYPE_CHECKING:
    from ..modules.pairwise import PairwiseConv


def message(kernel: PairwiseConv, inputs: Inputs, k: int, l: int) -> Tensor:
    """From degree k to degree l, ``[edges, channels_out, 2l+1]``."""
    W = inputs.basis[f"{k},{l}"][:, 0, :, 0]
    steered = torch.einsum("epqf,eiq->eifp", W, inputs.sent(k))
    R = kernel.rp(inputs.scalars).flatten(2)
    return R @ steered.flatten(1, 2)
