r"""SO(2) convolutions, for backend 'frame': turn the features until the edge is the polar axis y, mix, and turn back.

.. math:: W^{lk}(x) f = D^l(R)^T \; W^{lk}(y) \; D^k(R) f, \qquad R x / |x| = y

where :math:`D^k(R)` are Wigner-D matrices, called the frame of the edge. Along the axis the kernel commutes with the
rotations about it, SO(2). So it connects each order m only with +m and -m
(:func:`equivariant_attention.so3.aligned_coupling`), a pair of degrees costs ``2 F`` products per pair of channels
instead of ``F (2l+1)``, and the basis of the pair is never formed. This is how eSCN (Passaro and Zitnick, arXiv
2302.03655) reduces SO(3) convolutions to SO(2) convolutions. eSCN learns the coefficients of the orders m. Here those
of the equation are learnt, one for each J, and the change of basis from J to m is folded into the last layer of the
radial networks.

This module has the steps for one block of edges, batched over pairs of degrees; ``blockwise`` runs the blocks.
Throughout, a row is an edge, or a pair of edges that share radial weights, and D is the number of edges in a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..contraction.convolution import Convolution, Ends, Pair
from ..contraction.radial import HIDDEN
from ..so3 import aligned_coupling
from ..so3.constants import constant

SMALL = 512  # matrices with at most so many elements are put side by side and multiplied as one
Key = tuple[int, int]  # a feature or message: its degree and its index
Values = dict[Key, Tensor]  # [edges, 2l+1, channels]
Parts = dict[tuple[int, int], Tensor]  # by order m and number of channels, [rows, keys, (-m, +m), D, channels]
Places = dict[tuple[int, int], list[Key]]  # the features or messages whose orders each of the Parts holds


class Product(NamedTuple):
    """One batched product, of order m: features of ``channels_in`` to messages of ``channels_out`` channels.

    Attributes:
        m, channels_in, channels_out: as above.
        sources, targets: how many features and messages these are; each feature contributes to each message.
        pairs: the index of the pair of each feature and message, feature by feature.
        networks: the index of the radial network of each of these pairs.
    """

    m: int
    channels_in: int
    channels_out: int
    sources: int
    targets: int
    pairs: tuple[int, ...]
    networks: tuple[int, ...]

    @property
    def orders(self) -> int:
        """The number of orders, -m and +m, and of coefficients, a and b: two, or one where m = 0."""
        return 2 if self.m else 1

    @property
    def together(self) -> int:
        """How many messages share a matrix: all, if matrices of their own would be too small to be efficient."""
        return self.targets if self.orders * self.channels_in * self.channels_out <= SMALL else 1

    @property
    def groups(self) -> int:
        """The number of matrices for each feature and row."""
        return self.targets // self.together


class RowSizes(NamedTuple):
    """How many elements one edge has: of features and messages, hidden values, and radial weights."""

    values: int
    hidden: int
    radial_weights: int


class Layout:
    """The batched products that evaluate a convolution.

    Args:
        convolution: the convolution.

    Attributes:
        features, messages: the number of channels of each.
        inputs, outputs: for each order m and number of channels, the features and the messages that have these.
        products: the batched products.
    """

    def __init__(self, convolution: Convolution) -> None:
        self.convolution = convolution
        self.features = {(k, i): c for i, (k, c) in enumerate(convolution.features)}
        self.messages = {(l, o): c for o, (l, c) in enumerate(convolution.messages)}
        highest = min(max(k for k, _ in self.features), max(l for l, _ in self.messages))
        self.inputs, self.outputs = _places(self.features, highest), _places(self.messages, highest)
        number = {(pair.feature, pair.message): i for i, pair in enumerate(convolution.pairs)}
        self.products = []
        for (m, c_in), sources in self.inputs.items():
            for (n, c_out), targets in self.outputs.items():
                if m == n:
                    pairs = tuple(number[i, o] for _, i in sources for _, o in targets)
                    networks = tuple(convolution.pairs[p].network for p in pairs)
                    self.products.append(Product(m, c_in, c_out, len(sources), len(targets), pairs, networks))

    @property
    def row_sizes(self) -> RowSizes:
        """The elements of one edge."""
        both = (*self.features.items(), *self.messages.items())
        return RowSizes(
            values=sum((2 * l + 1) * channels for (l, _), channels in both),
            hidden=HIDDEN * len(self.convolution.rows),
            radial_weights=sum(e.channels_out * e.channels_in * e.num_freq for e in self.convolution.ends),
        )


_kept = lru_cache(maxsize=1024)(Layout)


def layout_of(convolution: Convolution) -> Layout:
    """The :class:`Layout` of a convolution, made once."""
    make = Layout if torch.compiler.is_compiling() else _kept  # torch.compile warns of lru_cache
    return make(convolution)


def coupling_of(pair: Pair, ends: Ends, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The change of basis from the coefficients J of a pair to those of the orders, w_0, a_1, b_1, ..., ``[F, F]``."""
    T = aligned_coupling(ends.degree_out, ends.degree_in, dtype, device)
    return T * T.new_tensor(pair.scales) if pair.scales else T


def _places(channels: dict[Key, int], highest_order: int) -> Places:
    places = defaultdict(list)
    for m in range(highest_order + 1):
        for key, c in channels.items():
            if key[0] >= m:
                places[m, c].append(key)
    return dict(places)


@constant
def _index(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


def aligned_weights(layout: Layout, last: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
    """The last layers of the radial networks, changed from the coefficients J to those of the orders.

    Args:
        layout: the layout of the convolution.
        last: weight and bias of the last layer of each network.

    Returns:
        for each product ``[pairs, 33, (a, b) x channels out x channels in]``: 32 hidden values, then the bias.
    """
    convolution, both, aligned = layout.convolution, [], []
    for weight, bias in last:
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        both.append(torch.cat([weight, bias[:, None]], dim=1).T)
    for pair, ends in zip(convolution.pairs, convolution.ends, strict=True):
        T = coupling_of(pair, ends, both[0].dtype, both[0].device)
        rows = (pair.part(both[pair.network], ends).flatten(1, 2) @ T.T).movedim(2, 0)  # [F, 33, out x in]
        aligned.append(rows.split([1] + [2] * (len(T) // 2)))
    return [torch.stack([aligned[i][p.m].transpose(0, 1).flatten(1) for i in p.pairs]) for p in layout.products]


def sent_values(layout: Layout, sent: Tensor, on_edges: Sequence[Tensor | None], first: Sequence[int]) -> Values:
    """The features that are sent along each edge.

    Args:
        layout: the layout of the convolution.
        sent: features of the source nodes, all degrees side by side, ``[edges, sum of (2k+1) x channels]``.
        on_edges: for each feature, what the edges add to it, ``[edges, channels, 2k+1]``, or None.
        first: for each feature, the channel that the first of these is added to.
    """
    sizes = [(2 * k + 1, channels) for (k, _), channels in layout.features.items()]
    parts = sent.split([rows * channels for rows, channels in sizes], dim=1)
    values = {}
    for (key, channels), v, size, own, c in zip(layout.features.items(), parts, sizes, on_edges, first, strict=True):
        values[key] = v.unflatten(1, size)
        if own is not None:
            values[key] = values[key] + pad(own.mT, (c, channels - c - own.shape[1]))
    return values


def by_order(places: Places, values: Values, D: int) -> Parts:
    """Values in the frames of the edges, grouped by order m and number of channels."""
    rows = {key: v.unflatten(0, (-1, D)).transpose(1, 2) for key, v in values.items()}
    return {
        (m, c): torch.stack([rows[l, s][:, l - m : l + m + 1 : 2 * m or 1] for l, s in keys], dim=1)
        for (m, c), keys in places.items()
    }


def by_degree(places: Places, parts: Parts) -> Values:
    """The inverse of :func:`by_order`, and its transpose; orders that no part has are zero."""
    orders: dict[Key, dict[int, Tensor]] = defaultdict(dict)
    for (m, c), keys in places.items():
        for key, value in zip(keys, parts[m, c].unbind(1), strict=True):
            orders[key].update({-m: value[:, 0], m: value[:, -1]})
    values = {}
    for key, found in orders.items():
        rows = [found[m] if m in found else torch.zeros_like(found[0]) for m in range(-key[0], key[0] + 1)]
        values[key] = torch.stack(rows, dim=2).flatten(0, 1)
    return values


def _combined(mixed: Tensor) -> Tensor:
    """From products of a and b with orders -m and +m to orders of the messages, y_-m = a x_-m - b x_+m and
    y_+m = a x_+m + b x_-m: ``[rows, keys, (-m, +m), D, (a, b), channels]`` to an element of :data:`Parts`.
    """
    if mixed.shape[2] == 1:
        return mixed.squeeze(4)
    (minus_a, minus_b), (plus_a, plus_b) = (order.unbind(3) for order in mixed.unbind(2))
    return torch.stack([minus_a - plus_b, plus_a + minus_b], dim=2)


def mix(layout: Layout, parts: Parts, g: Tensor, weights: Sequence[Tensor]) -> Parts:
    """Multiply by every kernel, in the frames of the edges.

    Args:
        layout: the layout of the convolution.
        parts: the features, by order.
        g: hidden values of the radial networks, ``[networks, rows, 33]``.
        weights: from :func:`aligned_weights`.

    Returns:
        the messages, by order.
    """
    rows, D = g.shape[1], next(iter(parts.values())).shape[3]
    mixed = {
        (m, c): g.new_zeros(rows, len(keys), 2 if m else 1, D, 2 if m else 1, c)
        for (m, c), keys in layout.outputs.items()
    }
    for p, A in zip(layout.products, weights, strict=True):
        sizes = p.sources, p.groups, p.together, rows, p.orders * p.channels_out, p.channels_in
        R = (_select(g, p.networks) @ A).view(sizes).transpose(2, 3).flatten(3, 4)
        x = parts[p.m, p.channels_in].transpose(0, 1).flatten(2, 3).unsqueeze(1)
        y = (x @ R.mT).sum(0).view(p.groups, rows, p.orders, D, p.together, p.orders, p.channels_out)
        # Out of place: vmap cannot write batched values into a tensor that is not batched.
        mixed[p.m, p.channels_out] = mixed[p.m, p.channels_out] + y.movedim((1, 4), (0, 2)).flatten(1, 2)
    return {key: _combined(y) for key, y in mixed.items()}


def _select(values: Tensor, numbers: tuple[int, ...]) -> Tensor:
    all_of_them = numbers == tuple(range(len(values)))
    return values if all_of_them else values.index_select(0, _index(numbers, values.device))
