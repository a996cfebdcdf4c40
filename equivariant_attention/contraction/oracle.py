"""Backend 'oracle': equation (8) of arXiv 2006.10503 as it is written, the reference that others are tested against.

It forms the kernel of every edge, then multiplies the features by it. It is never optimised.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..contraction.convolution import Ends
from ..contraction.inputs import Inputs
from ..contraction.pair_by_pair import Radial


def message(network: Any, radial: Radial, inputs: Inputs, ends: Ends) -> Tensor:
    """The messages from degree k to degree l, ``[edges, channels_out, 2l+1]``."""
    k, c_in, l, c_out = ends.degree_in, ends.channels_in, ends.degree_out, ends.channels_out
    if network.forms_kernels:
        W = network(inputs.scalars, inputs.basis)
    else:
        R = radial(inputs.scalars)[:, :, None, :, None]
        W = (R * inputs.basis[f"{k},{l}"]).sum(-1).flatten(3, 4).flatten(1, 2)
    return (W @ inputs.sent(k, c_in).flatten(1).unsqueeze(-1)).view(W.shape[0], c_out, 2 * l + 1)
