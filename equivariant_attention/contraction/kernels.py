"""The hidden layers of the radial networks of many pairs of degrees, evaluated as one batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ..fibers import Fiber

KernelSet = tuple[nn.ModuleDict, Fiber]
HIDDEN = 32  # values of a radial network
ROWS = 128  # of 32 networks: each intermediate result then fits half a megabyte of cache
EPSILON = 1e-5  # of PyTorch's LayerNorm
PARAMETERS = 10  # of a radial network


def parameters(kernel: nn.Module) -> list[Tensor]:
    """Those of a kernel: weight, bias, scale, shift of both hidden layers, then weight and bias of the last layer."""
    a, b, _, c, d, _, e = _own(_own(kernel, "rp"), "net")
    return [_own(layer, name) for layer in (a, _own(b, "bn"), c, _own(d, "bn"), e) for name in ("weight", "bias")]


def _own(module: nn.Module, name: str) -> Any:
    # getattr comes last to where a module keeps its own, and a model has thousands; it finds what is parametrised.
    for place in (module._parameters, module._modules):
        if (found := place.get(name)) is not None:
            return found
    return getattr(module, name)


def stacked(networks: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """What the two hidden layers are evaluated with, each ``[networks, ...]``: weight, bias, scale, shift; twice.

    Weight and bias are centred, so that what they make has mean zero: LayerNorm then need not subtract it.

    Args:
        networks: the :func:`parameters` of each.
    """
    layers = []
    for first in (0, 4):
        weights, *vectors = zip(*(network[first : first + 4] for network in networks), strict=True)
        weight = torch.stack([_transposed(weight) for weight in weights])
        bias, scale, shift = (torch.stack(vector)[:, None] for vector in vectors)
        layers += [weight - weight.mean(-1, keepdim=True), bias - bias.mean(-1, keepdim=True), scale, shift]
    return layers


def _transposed(weight: Tensor) -> Tensor:
    # A single column is viewed as a row, so that its gradient has its strides: DistributedDataParallel warns otherwise.
    return weight.T if weight.shape[1] > 1 else weight.view(1, -1)


def hidden(scalars: Tensor, *parameters: Tensor) -> Tensor:
    """What the last layers see, and a one for their biases.

    Args:
        scalars: what the networks see, ``[rows, edge_dim + 1]``.
        parameters: from :func:`stacked`.

    Returns:
        ``[networks, rows, 33]``.
    """
    x = scalars.expand(len(parameters[0]), -1, -1)
    for weight, bias, scale, shift in (parameters[:4], parameters[4:]):
        x = torch.baddbmm(bias, x, weight)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
        x = torch.addcmul(shift, x, scale).relu()
    return pad(x, (0, 1), value=1.0)


class Hidden:
    """:func:`hidden` with first derivatives, by hand and in slices of rows that stay in cache.

    Args:
        scalars, parameters: as there; neither is differentiated.
        keep: whether :meth:`gradient` is going to be asked for.

    Attributes:
        output: ``[networks, rows, 33]``.
    """

    def __init__(self, scalars: Tensor, parameters: Sequence[Tensor], keep: bool) -> None:
        self.scalars, self.layers = scalars, (parameters[:4], parameters[4:])
        self.output = scalars.new_empty(len(parameters[0]), len(scalars), parameters[-1].shape[-1] + 1)
        self.output[..., -1] = 1
        self.kept: list[list[tuple[Tensor, ...]]] = []
        for rows in self._slices():
            x, steps = scalars[rows].expand(len(parameters[0]), -1, -1), []
            for weight, bias, scale, shift in self.layers:
                z = torch.baddbmm(bias, x, weight)
                norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
                inverse = norm.square_().div_(z.shape[-1]).add_(EPSILON).rsqrt_()
                steps.append((x, z.mul_(inverse), inverse))
                x = torch.addcmul(shift, z, scale).relu_()
            self.output[:, rows, :-1] = x
            if keep:
                self.kept.append(steps)

    def _slices(self) -> Iterator[slice]:
        step = max(1, ROWS * HIDDEN // self.output.shape[0]) if self.output.device.type == "cpu" else len(self.scalars)
        return (slice(a, a + step) for a in range(0, len(self.scalars), max(1, step)))

    def gradient(self, gradient: Tensor, totals: Sequence[Tensor | None], by_scalars: bool) -> Tensor | None:
        """The derivatives.

        Args:
            gradient: by ``output``.
            totals: those by the parameters are added to these, where they are wanted.
            by_scalars: whether those by the scalars are wanted.

        Returns:
            those, ``[rows, edge_dim + 1]``.
        """
        found = []
        for rows, steps in zip(self._slices(), self.kept, strict=True):
            d, after = gradient[:, rows, :-1], self.output[:, rows, :-1]
            for i in (1, 0):
                (weight, _, scale, _), (x, z, inverse), total = self.layers[i], steps[i], totals[4 * i : 4 * i + 4]
                d = torch.ops.aten.threshold_backward(d, after, 0)
                product = d * z
                if total[2] is not None:
                    total[2] += product.sum(1, keepdim=True)
                if total[3] is not None:
                    total[3] += d.sum(1, keepdim=True)
                along = (product @ scale.mT).div_(-z.shape[-1])
                d = d.mul_(scale).addcmul_(z, along).mul_(inverse)
                if total[0] is not None:
                    total[0].baddbmm_(x.mT, d)
                if total[1] is not None:
                    total[1] += d.sum(1, keepdim=True)
                after = x
                if i or by_scalars:
                    d = d @ weight.mT
            found.append(d.sum(0) if by_scalars else None)
        return torch.cat(found) if by_scalars else None
