"""Backend 'edge': multiply the features by the basis W_J, then by the radial weights R_J; no kernel is formed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contraction.convolution import Ends
from ..contraction.inputs import Inputs
from ..contraction.pair_by_pair import Radial


def message(network: Any, radial: Radial, inputs: Inputs, ends: Ends) -> Tensor:
    """The messages from degree k to degree l, ``[edges, channels_out, 2l+1]``."""
    W = inputs.basis[f"{ends.degree_in},{ends.degree_out}"][:, 0, :, 0]
    steered = torch.einsum("epqf,eiq->eifp", W, inputs.sent(ends.degree_in, ends.channels_in))
    return radial(inputs.scalars).flatten(2) @ steered.flatten(1, 2)
