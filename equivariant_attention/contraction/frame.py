r"""Edge first, in the edge's own frame: turn the features until the edge is the polar axis, mix, and turn back.

.. math:: W^{lk}(x) f = D^l(R)^T \; W^{lk}(y) \; D^k(R) f, \qquad R x / |x| = y

Along the axis the kernel mixes orders +m and -m alone (:func:`equivariant_attention.so3.aligned_coupling`), so a pair
of degrees costs ``2 F`` products per pair of channels instead of ``F (2l+1)``, and no basis of the pair is ever formed.
The change of basis from J to m is folded into the last layer of the radial network.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from equivariant_attention.contraction.inputs import Inputs
from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.so3 import aligned_coupling, coupling


def messages(kernels: nn.ModuleDict, fiber_in: Fiber, fiber_out: Fiber, inputs: Inputs) -> Features:
    """Messages along every edge, ``{degree: [edges, channels, 2 degree + 1]}``."""
    hidden = {pair: kernel.rp.hidden(inputs.scalars) for pair, kernel in kernels.items()}
    output = {}
    for l in fiber_out.degrees:
        zero_order, orders = None, None
        for k in fiber_in.degrees:
            pair = f"({k},{l})"
            first, rest = _mix(kernels[pair], hidden[pair], *inputs.aligned(k))
            zero_order = first if zero_order is None else zero_order + first
            rest = pad(rest, (0, 0) * 3 + (0, l - rest.shape[0]))
            orders = rest if orders is None else orders + rest
        message = _assemble(zero_order, orders) @ inputs.basis.frames[l]
        output[str(l)] = _add_zero_edges(message, kernels, hidden, inputs, l)
    return output


def _mix(kernel: nn.Module, hidden: Tensor, zero_order: Tensor, orders: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel along the axis.

    Args:
        kernel: of the pair.
        hidden: of its radial network, ``[edges, 32]``.
        zero_order, orders: the features from :meth:`Inputs.aligned`.

    Returns:
        order 0, ``[edges, channels_out, 1]``, and orders m = 1 .. min(l, k), ``[m, edges, channels_out, 2]``.
    """
    last, F, edges = kernel.rp.last, kernel.num_freq, hidden.shape[0]
    T = aligned_coupling(kernel.degree_out, kernel.degree_in, last.weight.dtype, last.weight.device)
    # Rows of the last layer are numbered (channel out, channel in, J); here they become (order, a or b, out, in).
    weight = torch.einsum("mJ,oiJh->moih", T, last.weight.view(kernel.nc_out, kernel.nc_in, F, -1))
    bias = torch.einsum("mJ,oiJ->moi", T, last.bias.view(kernel.nc_out, kernel.nc_in, F))
    first = torch.addmm(bias[0].flatten(), hidden, weight[0].flatten(0, 1).T)
    first = first.view(edges, kernel.nc_out, kernel.nc_in) @ zero_order
    n = (F - 1) // 2
    weight, bias = (w[1:].unflatten(0, (n, 2)).transpose(1, 2).flatten(1, 3) for w in (weight, bias))
    radial = (hidden @ weight.mT + bias.unsqueeze(1)).view(n, edges, kernel.nc_out, 2 * kernel.nc_in)
    return first, radial @ orders[:n]


def _assemble(zero_order: Tensor, orders: Tensor) -> Tensor:
    """Order 0 ``[edges, channels, 1]``, orders m ``[l, edges, channels, (+m, -m)]`` to ``[edges, channels, 2l+1]``."""
    positive, negative = orders.permute(3, 1, 2, 0)
    return torch.cat([negative.flip(-1), zero_order, positive], dim=-1)


def _add_zero_edges(
    message: Tensor, kernels: nn.ModuleDict, hidden: dict[str, Tensor], inputs: Inputs, degree: int
) -> Tensor:
    """Add what an edge of length zero carries: J = 0, which takes each degree to itself, whatever the direction."""
    edges = inputs.basis.zero_edges
    pair = f"({degree},{degree})"
    if degree == 0 or not len(edges) or pair not in kernels:
        return message
    kernel = kernels[pair]
    last = kernel.rp.last
    weight, bias = last.weight[:: kernel.num_freq], last.bias[:: kernel.num_freq]
    R = (hidden[pair][edges] @ weight.T + bias).view(len(edges), kernel.nc_out, kernel.nc_in)
    scale = float(coupling(degree, degree, 0)[0, 0, 0]) / math.sqrt(4 * math.pi)
    return message.index_add(0, edges, scale * (R @ inputs.sent(degree)[edges]))
