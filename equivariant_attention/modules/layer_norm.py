"""LayerNorm with exact derivatives of any order."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import is_autocast_on
from ..native.private import is_watched


class LayerNorm(nn.LayerNorm):
    r"""``torch.nn.LayerNorm`` with exact derivatives of any order: PyTorch's third ones are wrong (pytorch #175754).

    .. math:: y = \frac{x - \mathrm{mean}(x)}{\sqrt{\mathrm{var}(x) + \epsilon}} \, w + b
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``, ``[..., *normalized_shape]``."""
        if not torch.is_grad_enabled():
            return super().forward(x)
        if is_watched():
            return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        if x.device.type != "cpu" and is_autocast_on(x.device):
            x = x.float()  # autocast of PyTorch's own layer_norm does so too
        return _LayerNorm.apply(x, self.normalized_shape, self.weight, self.bias, self.eps)


def layer_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm in operations that PyTorch records, transforms and compiles; arguments as of ``nn.functional``'s."""
    normal, _ = _normalised(x, shape, eps)
    y = normal if weight is None else normal * weight
    return (y if bias is None else y + bias).to(x.dtype)


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        y, mean, inverse = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.shape, ctx.eps = shape, eps
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        if dy is None:  # the output is not used
            return (None,) * 5
        x, weight, bias, mean, inverse = ctx.saved_tensors
        needed = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        if torch.is_grad_enabled() or is_watched():
            dx, dweight, dbias = _gradient(x, ctx.shape, weight, ctx.eps, dy)
        else:
            dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
                dy, x, ctx.shape, mean, inverse, weight, bias, needed
            )
        found = (d if n else None for d, n in zip((dx, dweight, dbias), needed, strict=True))
        return next(found), None, *found, None


def _normalised(x: Tensor, shape: Sequence[int], eps: float) -> tuple[Tensor, Tensor]:
    """``x`` normalised to mean 0 and variance 1 over its last dimensions, and the factor 1 / sqrt(variance + eps)."""
    dims = tuple(range(-len(shape), 0))
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = x - x.mean(dims, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    return centred * inverse, inverse


def _gradient(
    x: Tensor, shape: tuple[int, ...], weight: Tensor | None, eps: float, dy: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives with respect to ``x``, weight and bias, in operations that autograd can differentiate."""
    normal, inverse = _normalised(x, shape, eps)
    dims, d = tuple(range(-len(shape), 0)), dy if weight is None else dy * weight
    dx = inverse * (d - d.mean(dims, keepdim=True) - normal * (d * normal).mean(dims, keepdim=True))
    return dx, (dy * normal).sum_to_size(shape), dy.sum_to_size(shape)
