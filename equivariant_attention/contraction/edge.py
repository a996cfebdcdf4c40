"""Edge first: steer the features by the basis, then multiply by the radial weights. No kernel is ever formed."""

import torch
from torch import Tensor, nn

from equivariant_attention.contraction.inputs import Inputs


def message(kernel: nn.Module, inputs: Inputs, k: int, l: int) -> Tensor:
    """From degree k to degree l, ``[edges, channels_out, 2l+1]``."""
    W = inputs.basis[f"{k},{l}"][:, 0, :, 0]
    steered = torch.einsum("epqf,eiq->eifp", W, inputs.sent(k))
    R = kernel.rp(inputs.scalars).flatten(2)
    return R @ steered.flatten(1, 2)
