r"""Edge first, in the edge's own frame: turn the features until the edge is the polar axis, mix, and turn back.

.. math:: W^{lk}(x) f = D^l(R)^T \; W^{lk}(y) \; D^k(R) f, \qquad R x / |x| = y

Along the axis the kernel mixes orders +m and -m alone (:func:`equivariant_attention.so3.aligned_coupling`), so a pair
of degrees costs ``2 F`` products per pair of channels instead of ``F (2l+1)``, and no basis of the pair is ever formed.
The change of basis from J to m is folded into the last layer of the radial networks.

Here are the three steps for one block of edges, batched over the pairs of degrees; ``blockwise`` runs the blocks.
Throughout, a row is an edge, or a pair of edges that share radial weights, and D is the number of edges in a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from equivariant_attention.contraction.kernels import KernelSet
from equivariant_attention.fibers import Fiber
from equivariant_attention.so3 import aligned_coupling
from equivariant_attention.so3.constants import constant

Parts = dict[tuple[int, int], Tensor]  # by order m and number of channels


class Product(NamedTuple):
    """What order m takes from degrees of ``channels_in`` to messages of ``channels_out``: one batched product.

    Each of ``sources`` degrees acts on each of ``targets`` messages: ``kernels`` numbers this grid, row by row.
    """

    m: int
    channels_in: int
    channels_out: int
    sources: int
    targets: int
    kernels: tuple[int, ...]

    @property
    def orders(self) -> int:
        """Orders -m and +m, and the coefficients a and b: two of each, or one where m = 0."""
        return 2 if self.m else 1


class Layout:
    """How the kernels of a convolution fall into batched products.

    Args:
        sets: the kernels.
        fiber_in: of the features.

    Attributes:
        kernels: all kernels, in one list.
        messages: channels of every message, by degree and number of the set.
        degrees: all degrees, in or out.
        inputs, outputs: which degrees, and which messages, have order m and so many channels.
        products: the products.
    """

    def __init__(self, sets: Sequence[KernelSet], fiber_in: Fiber) -> None:
        self.fiber_in = fiber_in
        self.messages = {(l, s): m for s, (_, fiber_out) in enumerate(sets) for l, m in fiber_out.dict.items()}
        self.degrees = sorted({*fiber_in.degrees, *(l for l, _ in self.messages)})
        pairs = [(k, message) for k in fiber_in.degrees for message in self.messages]
        self.kernels: list[nn.Module] = [sets[s][0][f"({k},{l})"] for k, (l, s) in pairs]
        highest = min(fiber_in.max_degree, max(l for l, _ in self.messages))
        self.inputs, self.outputs = defaultdict(list), defaultdict(list)
        for m in range(highest + 1):
            for k, channels in fiber_in.dict.items():
                self.inputs[m, channels] += [k] if k >= m else []
            for message, channels in self.messages.items():
                self.outputs[m, channels] += [message] if message[0] >= m else []
        number = {pair: i for i, pair in enumerate(pairs)}
        self.products = [
            Product(m, c_in, c_out, len(sources), len(targets), tuple(number[k, t] for k in sources for t in targets))
            for (m, c_in), sources in self.inputs.items()
            for (n, c_out), targets in self.outputs.items()
            if m == n and sources and targets
        ]


@constant
def _index(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


def aligned_weights(layout: Layout) -> list[Tensor]:
    """The last layers of the radial networks in the basis of the orders, their biases last.

    Returns:
        for each product ``[kernels, 33, (a, b) x channels out x channels in]``.
    """
    aligned = []
    for kernel in layout.kernels:
        weight, bias = kernel.rp.last.weight, kernel.rp.last.bias
        T = aligned_coupling(kernel.degree_out, kernel.degree_in, weight.dtype, weight.device)
        both = torch.cat([weight, bias[:, None]], dim=1).unflatten(0, (-1, len(T)))
        aligned.append((T @ both.transpose(0, 1).flatten(1)).view(len(T), *both.shape[::2]))
    return [
        torch.stack([aligned[i][max(0, 2 * p.m - 1) : 2 * p.m + 1].flatten(0, 1).T for i in p.kernels])
        for p in layout.products
    ]


def turn(layout: Layout, sent: Tensor, vector: Tensor | None, channel: int, frames: Sequence[Tensor], D: int) -> Parts:
    """What the source nodes send, in the frames of the edges.

    Args:
        sent: by edge, all degrees side by side, ``[edges, (2k+1) x channels, ...]``.
        vector: added to one channel of degree 1, ``[edges, 3]``.
        channel: which.
        frames: ``[edges, 2l+1, 2l+1]`` for ``layout.degrees``.
        D: edges in a row.

    Returns:
        ``[degrees, rows, (-m, +m), D, channels]`` for ``layout.inputs``.
    """
    turned, start = {}, 0
    for k, channels in layout.fiber_in.dict.items():
        f = sent[:, start : start + (2 * k + 1) * channels].unflatten(1, (2 * k + 1, channels))
        start += (2 * k + 1) * channels
        if k == 1 and vector is not None:
            f = f + pad(vector[:, :, None], (channel, channels - 1 - channel))
        f = frames[layout.degrees.index(k)] @ f if k else f
        turned[k] = f.unflatten(0, (-1, D)).transpose(1, 2)
    return {
        (m, c): torch.stack([turned[k][:, k - m : k + m + 1 : 2 * m or 1] for k in degrees])
        for (m, c), degrees in layout.inputs.items()
        if degrees
    }


def zero_parts(layout: Layout, rows: int, D: int, like: Tensor) -> Parts:
    """Zeros in the shape of what :func:`mix` returns."""
    return {
        (m, channels): like.new_zeros(len(messages), rows, 2 if m else 1, D, 2 if m else 1, channels)
        for (m, channels), messages in layout.outputs.items()
        if messages
    }


def mix(layout: Layout, parts: Parts, g: Tensor, weights: Sequence[Tensor], room: Tensor | None) -> Parts:
    """Every kernel along the axis.

    Args:
        parts: from :func:`turn`.
        g: from the radial networks, ``[networks, rows, 33]``.
        weights: from :func:`aligned_weights`.
        room: where radial weights are made, as many at a time as it holds; None makes all, as derivatives need.

    Returns:
        ``[messages, rows, (-m, +m), D, (a, b), channels]`` for ``layout.outputs``: what a and b make of each order.
    """
    some = next(iter(parts.values()))
    mixed = zero_parts(layout, some.shape[1], some.shape[3], g)
    for p, A in zip(layout.products, weights, strict=True):
        x_all, y_all = parts[p.m, p.channels_in], mixed[p.m, p.channels_out]
        for rows in _slices(g.shape[1], A, room):
            h = g[:, rows].index_select(0, _index(p.kernels, g.device))
            R = _radial_weights(h, A, room).view(-1, A.shape[2] // p.channels_in, p.channels_in)
            x = _on_grid(x_all[:, rows], 1, p.targets).reshape(len(R), -1, p.channels_in)
            y_all[:, rows] += (x @ R.mT).view(p.sources, p.targets, *y_all[0, rows].shape).sum(0)
    return mixed


def mix_gradient(
    layout: Layout,
    parts: Parts,
    g: Tensor,
    weights: Sequence[Tensor],
    gradients: Parts,
    dweights: Sequence[Tensor | None],
    separate: int,
    room: Tensor,
) -> tuple[Parts, Tensor]:
    """The derivatives of :func:`mix`, which makes the radial weights again.

    Args:
        parts, g, weights, room: as there.
        gradients: by what it returned.
        dweights: those by the weights are added to these, where they are wanted.
        separate: D, for derivatives by g of every edge, or 1, for their sum over a row.

    Returns:
        the derivatives by ``parts``, and by g, ``[networks, rows x separate, 33]``.
    """
    dparts = {key: torch.zeros_like(x) for key, x in parts.items()}
    dg = g.new_zeros(*g.shape[:2], separate, g.shape[2])
    for p, A, dA in zip(layout.products, weights, dweights, strict=True):
        x_all, dx_all, dy_all = parts[p.m, p.channels_in], dparts[p.m, p.channels_in], gradients[p.m, p.channels_out]
        index = _index(p.kernels, g.device)
        for rows in _slices(g.shape[1], A, room):
            h = g[:, rows].index_select(0, index)
            R = _radial_weights(h, A, room).view(-1, A.shape[2] // p.channels_in, p.channels_in)
            x = _on_grid(x_all[:, rows], 1, p.targets).reshape(len(R), -1, p.channels_in)
            dy = _on_grid(dy_all[:, rows], 0, p.sources).reshape(len(R), -1, R.shape[1])
            dx_all[:, rows] += (dy @ R).view(p.sources, p.targets, *dx_all[0, rows].shape).sum(1)
            for d in range(separate):
                dR = torch.bmm(dy[:, d::separate].mT, x[:, d::separate], out=R).view(*h.shape[:2], -1)
                dg[:, rows, d, :-1].index_add_(0, index, dR @ A[:, :-1].mT)
                if dA is not None:
                    dA.baddbmm_(h.mT, dR)
    return dparts, dg.flatten(1, 2)


def _slices(rows: int, A: Tensor, room: Tensor | None) -> Iterator[slice]:
    step = max(1, rows if room is None else len(room) // (A.shape[0] * A.shape[2]))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _radial_weights(h: Tensor, A: Tensor, room: Tensor | None) -> Tensor:
    if room is None:
        return h @ A
    size = h.shape[0] * h.shape[1] * A.shape[2]
    return torch.bmm(h, A, out=room[:size].view(*h.shape[:2], -1))


def _on_grid(values: Tensor, dim: int, size: int) -> Tensor:
    """Repeat what there is of each degree for every message (dim 1), or of each message for every degree (dim 0)."""
    return values.unsqueeze(dim).expand(*values.shape[:dim], size, *values.shape[dim:]).flatten(0, 1)


def turn_back(layout: Layout, mixed: Parts, frames: Sequence[Tensor], D: int) -> list[Tensor]:
    """The messages, turned back: ``[edges, channels, 2l+1]`` for ``layout.messages``."""
    rotated = {}
    for (m, c), y in mixed.items():
        minus, plus = y[:, :, 0], y[:, :, -1]
        rotated[m, c] = (
            (minus[:, :, :, 0] - plus[:, :, :, 1], plus[:, :, :, 0] + minus[:, :, :, 1]) if m else (y[:, :, 0, :, 0],)
        )
    output = []
    for (l, s), c in layout.messages.items():
        rows = []
        for order in range(-l, l + 1):
            m = abs(order)
            if (m, c) in mixed:
                rows.append(rotated[m, c][order > 0][layout.outputs[m, c].index((l, s))])
            else:  # no degree in has this order
                rows.append(frames[0].new_zeros(frames[0].shape[0] // D, D, c))
        value = torch.stack(rows, dim=2).flatten(0, 1)
        output.append((frames[layout.degrees.index(l)].mT @ value if l else value).mT)
    return output
