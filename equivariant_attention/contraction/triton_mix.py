r"""The mixing kernels of backend 'triton' by themselves: one product with radial weights, for benchmarks and tests.

.. math:: y_{k e m p} = \sum_c R_{k e p c} \, x_{k e m c}, \qquad R_{k e p c} = \sum_j h_{k e j} A_{k j p c}

with indices k of kernels (matrices of radial weights), e of rows, m of orders and edges of a row, p of channels out
with their coefficients, c of channels in, and j of hidden values. To ``kernels/mixing.py`` these are messages of order
0 from one kernel each, on rows of edges that share radial weights. h and A are copied, into the layout of the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..contraction.radial import HIDDEN
from ..contraction.triton_layout import LEAST_CHANNELS
from ..contraction.triton_products import ByHidden, ByWeights, Messages, Products, Rows
from ..kernels import launch
from ..kernels.launch import power_of_two

MOST_IN_A_ROW = 4  # orders times edges: registers hold the features of all of them


def available(device: torch.device) -> bool:
    """Whether :func:`mix_product` runs on a device: CUDA, or with Triton's interpreter (``TRITON_INTERPRET=1``)."""
    return not launch.missing(device)


def plain_product(h: Tensor, A: Tensor, x: Tensor) -> Tensor:
    """:func:`mix_product` in PyTorch, with all of R in memory."""
    return x @ (h @ A).view(len(x), -1, x.shape[2]).mT


def mix_product(h: Tensor, A: Tensor, x: Tensor) -> Tensor:
    """Multiply by radial weights that exist in registers only; autograd does not record it.

    Args:
        h: hidden values of the radial networks, ``[kernels, rows, 32 + 1]``. The last multiplies the biases: it is
            taken to be 1 and not read.
        A: the last layers, ``[kernels, 32 + 1, channels out x channels in]``.
        x: features, ``[kernels x rows, 1 to 4, channels in]``. Numbers of channels are powers of two, at least 8.

    Returns:
        ``[kernels x rows, 1 to 4, channels out]``.

    Raises:
        ValueError: the kernels cannot run on this device, or on these shapes or dtypes.
    """
    weights, biases = _last_layers(h, A, x)
    y, number = x.new_empty(*x.shape[:2], weights.shape[1]), _numbers(h)
    targets = torch.stack([number, torch.ones_like(number), number], dim=1)
    m0 = Messages(weights, biases, _slots(h, x), _slots(h, y), targets, number)
    none = m0._replace(y=m0.y[:0])
    Products(h.device, h.dtype).messages(_rows(h, x), h[..., :HIDDEN].contiguous(), m0, none, has_bias=True)
    return y


def mix_product_gradient(
    h: Tensor, A: Tensor, x: Tensor, dy: Tensor, separate: int = 1, by_weights: bool = True
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The derivatives of :func:`mix_product`.

    Args:
        h, A, x: as for :func:`mix_product`.
        dy: derivatives with respect to its result.
        separate: D, for derivatives with respect to ``h`` of every edge of a row, or 1, for their sum over the row.
        by_weights: whether derivatives with respect to ``A`` are needed.

    Returns:
        the derivatives with respect to ``h``, ``[kernels, rows, separate, 32 + 1]``, ``A`` (or None), and ``x``.
    """
    weights, biases = _last_layers(h, A, x)
    if x.shape[1] % separate:
        raise ValueError(f"separate must divide the {x.shape[1]} orders and edges of a row, got {separate}")
    products, number, dA = Products(h.device, h.dtype), _numbers(h), None
    ends = torch.stack([number, number], dim=1)
    if by_weights:
        m0 = ByWeights(_slots(h, x), _slots(h, dy), ends, number)
        sums = products.by_weights(_rows(h, x), h[..., :HIDDEN].contiguous(), m0, m0._replace(ends=ends[:0]))
        dA = torch.cat([sums[0], sums[1][..., None]], dim=-1).sum(0).squeeze(2).permute(0, 3, 1, 2).reshape(A.shape)
    dx = mix_product(h, A.unflatten(2, (-1, x.shape[2])).mT.flatten(2), dy)
    # For `by_hidden`, each of the separate edges is a row of its own.
    x, dy = (v.unflatten(1, (-1, separate)).transpose(1, 2).flatten(0, 1) for v in (x, dy))
    dg = h.new_empty(len(h), h.shape[1] * separate, HIDDEN)
    m0 = ByHidden(weights, _slots(h, x), _slots(h, dy), number, ends)
    of_networks = torch.stack([number, number + 1, 0 * number, 0 * number], dim=1)
    products.by_hidden(_rows(dg, x), dg, m0, m0._replace(ends=ends[:0]), of_networks)
    of_ones = ((_slots(h, x) @ biases.transpose(1, 2).mT) * _slots(h, dy)).view(*dg.shape[:2], -1).sum(2, keepdim=True)
    return torch.cat([dg, of_ones], dim=2).unflatten(1, (-1, separate)), dA, dx


def _slots(h: Tensor, values: Tensor) -> Tensor:
    """Features or messages as one slot per kernel, ``[kernels, 1, edges, channels]``."""
    return values.contiguous().view(len(h), 1, -1, values.shape[2])


def _rows(h: Tensor, x: Tensor) -> list[Rows]:
    return [Rows(x.shape[1], 0, h.shape[1], 0)]


def _numbers(h: Tensor) -> Tensor:
    """The indices of the kernels, which are also those of their networks and slots."""
    return torch.arange(len(h), dtype=torch.int32, device=h.device)


def _last_layers(h: Tensor, A: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weights ``[kernels, P, 1, C, 32]`` and biases ``[kernels, P, 1, C]`` from A, after all checks."""
    if len({(v.device, v.dtype) for v in (h, A, x)}) > 1 or launch.missing(h.device, h.dtype):
        reason = launch.missing(h.device, h.dtype) or "they must share a device and a dtype"
        raise ValueError(f"h, A and x do not suit the kernels: {reason}")
    C, shapes = x.shape[-1], [[*v.shape] for v in (h, A, x)]
    P = A.shape[-1] // max(1, C)
    expected = [[*h.shape[:2], HIDDEN + 1], [len(h), HIDDEN + 1, P * C], [h[..., 0].numel(), *x.shape[1:2], C]]
    are_powers = all(n == power_of_two(n, LEAST_CHANNELS) for n in (P, C))
    if shapes != expected or not are_powers or x.shape[1] > MOST_IN_A_ROW:
        limits = f"[kernels x rows, at most {MOST_IN_A_ROW}, C], P and C powers of two from {LEAST_CHANNELS} on"
        each = f"[kernels, rows, {HIDDEN + 1}], [kernels, {HIDDEN + 1}, P C] and {limits}"
        raise ValueError(f"h, A and x must be {each}, got {shapes}")
    last = A.unflatten(2, (P, C)).permute(0, 2, 3, 1).unsqueeze(2)
    return last[..., :HIDDEN].contiguous(), last[..., HIDDEN].contiguous()
