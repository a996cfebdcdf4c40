"""The radial networks of many pairs of degrees, evaluated as one batch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad

from equivariant_attention.fibers import Fiber

KernelSet = tuple[nn.ModuleDict, Fiber]


def stacked(kernels: Sequence[nn.Module]) -> list[Tensor]:
    """The parameters of their hidden layers, each ``[networks, ...]``."""
    parameters = []
    for linear, norm in ((0, 1), (3, 4)):
        layers = [(kernel.rp.net[linear], kernel.rp.net[norm].bn) for kernel in kernels]
        parameters += [torch.stack([a.weight for a, _ in layers]).mT]
        parameters += [
            torch.stack(p)[:, None] for p in zip(*((a.bias, b.weight, b.bias) for a, b in layers), strict=True)
        ]
    return parameters


def hidden(scalars: Tensor, *parameters: Tensor) -> Tensor:
    """What the last layers see, and a one for their biases, ``[networks, edges, 33]``."""
    x = scalars.expand(len(parameters[0]), -1, -1)
    for weight, bias, scale, shift in (parameters[:4], parameters[4:]):
        x = torch.baddbmm(bias, x, weight)
        x = torch.addcmul(shift, layer_norm(x, x.shape[-1:]), scale).relu_()
    return pad(x, (0, 1), value=1.0)
