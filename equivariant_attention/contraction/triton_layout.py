"""Index tables for the Triton kernels of a convolution: where pairs of degrees find features, messages and weights.

Kernels loop over these tables, so that one launch serves all degrees. Terms:

- a slot is an order m of one feature or of one message; for m > 0 it holds orders -m and +m;
- a kernel (in this module, and in names such as ``kernels0``) is an order m of a pair of degrees: a matrix of radial
  weights that takes the slot of a feature to the slot of a message. Those of m = 0 have the coefficient w, all others a
  and b.

Tables are made once for all layers of the same :class:`Convolution`, and kept on each device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..contraction.convolution import Convolution
from ..contraction.frame import coupling_of
from ..contraction.radial import HIDDEN
from ..kernels.launch import power_of_two
from ..so3.constants import constant

LEAST_CHANNELS = 8  # to which channels are padded: four threads of a tensor core hold two each


class Slots:
    """The slots of several parts, which are all features or all messages.

    Slots of m = 0 are numbered like the parts; slots of m > 0 are numbered separately, by m and then by part.

    Attributes:
        of: for each m, a dict from the index of a part to its slot.
        count: the number of slots of m > 0.
        table: for each part, its slots of all m, 0 where it has none.
    """

    def __init__(self, degrees: Sequence[int], orders: int) -> None:
        parts = [[i for i, degree in enumerate(degrees) if degree >= m] for m in range(orders)]
        firsts = [0, *accumulate((len(p) for p in parts[1:]), initial=0)]
        self.of = [{part: first + i for i, part in enumerate(p)} for first, p in zip(firsts, parts, strict=False)]
        self.count = firsts[-1]
        self.table = [[of.get(i, 0) for of in self.of] for i in range(len(degrees))]


class Kernels(NamedTuple):
    """The kernels of m = 0, or of all m > 0, sorted by target slot, then by source slot.

    Attributes:
        pairs, orders: for each kernel, the index of its pair, and m.
        ends: for each kernel, its source slot (of a feature) and its target slot (of a message).
        transposed: for each kernel, its index when they are sorted by source slot, then by target slot: the order of
            the transposed kernels, which the backward pass uses.
        targets: for each target slot, the index of its first kernel, the number of its kernels, and the source slot of
            the first.
        sources: for each source slot, the same in the order of the transposed kernels.
    """

    pairs: list[int]
    orders: list[int]
    ends: list[tuple[int, int]]
    transposed: list[int]
    targets: list[tuple[int, int, int]]
    sources: list[tuple[int, int, int]]

    @classmethod
    def of(cls, inside: Slots, outside: Slots, orders: Sequence[int]) -> Kernels:
        """The kernels of these m, between slots of features and of messages."""
        found = [
            (y, x, o * len(inside.table) + i, m)
            for m in orders
            for o, y in outside.of[m].items()
            for i, x in inside.of[m].items()
        ]
        numbers = {which: n for n, which in enumerate(sorted(range(len(found)), key=lambda k: (found[k][1], k)))}
        return cls(
            pairs=[pair for _, _, pair, _ in found],
            orders=[m for *_, m in found],
            ends=[(x, y) for y, x, *_ in found],
            transposed=[numbers[k] for k in range(len(found))],
            targets=_ranges([(y, x) for y, x, *_ in found]),
            sources=_ranges(sorted((x, y) for y, x, *_ in found)),
        )


def _ranges(ends: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    found: dict[int, tuple[int, int, int]] = {}
    for number, (slot, other) in enumerate(ends):
        first, count, first_other = found.get(slot, (number, 0, other))
        found[slot] = first, count + 1, first_other
    return list(found.values())


class Layout:
    """The tables of a convolution.

    Attributes:
        orders: the number of orders: m is 0, ..., orders - 1.
        inside, outside: slots of features, and of messages.
        kernels: those of m = 0, and those of m > 0.
        channels_in, channels_out: the number of channels that all features, and all messages, are padded to.
        num_freq: the largest F of a pair.
        num_weights, num_biases: the numbers of weights and of biases of all last layers.
        reads_everything: whether each output of the networks belongs to a pair. (Where two pairs read the same one, the
            kernels cannot run.)
    """

    def __init__(self, convolution: Convolution) -> None:
        self.convolution = convolution
        degrees = [k for k, _ in convolution.features], [l for l, _ in convolution.messages]
        self.orders = 1 + min(map(max, degrees))
        self.inside, self.outside = (Slots(d, self.orders) for d in degrees)
        self.kernels = [Kernels.of(self.inside, self.outside, m) for m in ([0], range(1, self.orders))]
        self.channels_in, self.channels_out = (
            power_of_two(max(c for _, c in parts), LEAST_CHANNELS)
            for parts in (convolution.features, convolution.messages)
        )
        self.num_freq = max(ends.num_freq for ends in convolution.ends)
        self.num_biases = sum(convolution.rows)
        self.num_weights = HIDDEN * self.num_biases
        read = sum(ends.channels_out * ends.channels_in * ends.num_freq for ends in convolution.ends)
        self.reads_everything = read == self.num_biases

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(convolution: Convolution) -> Layout:
        """The layout of a convolution, made once."""
        return Layout(convolution)

    def table(self, name: str, which: int, device: torch.device) -> Tensor:
        """One of the tables below, by the name of its method: for m = 0 (``which`` is 0) or for m > 0 (1)."""
        return _table(self, name, which, device)

    def slots_in(self, _: int) -> list[list[int]]:
        """For each feature, its slots of all m."""
        return self.inside.table

    def slots_out(self, _: int) -> list[list[int]]:
        """For each message, its slots of all m."""
        return self.outside.table

    def targets(self, which: int) -> list[tuple[int, int, int]]:
        """``targets`` of :class:`Kernels`."""
        return self.kernels[which].targets

    def sources(self, which: int) -> list[tuple[int, int, int]]:
        """``sources`` of :class:`Kernels`."""
        return self.kernels[which].sources

    def ends(self, which: int) -> list[tuple[int, int]]:
        """``ends`` of :class:`Kernels`."""
        return self.kernels[which].ends

    def networks(self, which: int) -> list[int]:
        """For each kernel, the index of its radial network."""
        return [self.convolution.pairs[p].network for p in self.kernels[which].pairs]

    def networks_transposed(self, which: int) -> list[int]:
        """:meth:`networks`, in the order of the transposed kernels."""
        found = dict(zip(self.kernels[which].transposed, self.networks(which), strict=True))
        return [found[number] for number in range(len(found))]

    def numbers(self, which: int) -> list[tuple[int, ...]]:
        """For each kernel: network, first row, both steps, F, channels out and in, and index when transposed."""
        found: list[tuple[int, ...]] = []
        for number, transposed in zip(self.kernels[which].pairs, self.kernels[which].transposed, strict=True):
            pair, ends = self.convolution.pairs[number], self.convolution.ends[number]
            sizes = ends.num_freq, ends.channels_out, ends.channels_in
            found.append((pair.network, pair.first, pair.step_out, pair.step_in, *sizes, transposed))
        return found

    def of_networks(self, _: int) -> list[list[int]]:
        """For each network, where its kernels begin and end in :meth:`by_network`: those of m = 0, then of m > 0."""
        found: list[list[int]] = [[] for _ in self.convolution.rows]
        for which in (0, 1):
            own = self.networks(which)
            ends = [0, *accumulate(own.count(n) for n in range(len(found)))]
            for network, (first, last) in enumerate(pairwise(ends)):
                found[network] += [first, last]
        return found

    def by_network(self, which: int) -> list[int]:
        """The kernels, sorted by their networks."""
        own = self.networks(which)
        return sorted(range(len(own)), key=lambda kernel: own[kernel])

    def pairs(self, _: int) -> list[tuple[int, ...]]:
        """For each pair: its kernel of m = 0, the number of orders, both steps, F, channels out and in."""
        first = dict(zip(self.kernels[0].pairs, range(len(self.kernels[0].pairs)), strict=True))
        found: list[tuple[int, ...]] = []
        for number, (pair, ends) in enumerate(zip(self.convolution.pairs, self.convolution.ends, strict=True)):
            orders = 1 + min(ends.degree_in, ends.degree_out)
            sizes = ends.num_freq, ends.channels_out, ends.channels_in
            found.append((first[number], orders, pair.step_out, pair.step_in, *sizes))
        return found

    def kernels_of_pairs(self, _: int) -> list[list[int]]:
        """For each pair and m, its kernel of m > 0; 0 where there is none."""
        found = [[0] * self.orders for _ in self.convolution.pairs]
        for kernel, (pair, m) in enumerate(zip(self.kernels[1].pairs, self.kernels[1].orders, strict=True)):
            found[pair][m] = kernel
        return found

    def places(self, _: int) -> list[tuple[int, int]]:
        """For each pair, where derivatives with respect to its weights, and to its biases, begin among those of all."""
        rows = [0, *accumulate(self.convolution.rows)]
        firsts = (rows[pair.network] + pair.first for pair in self.convolution.pairs)
        return [(HIDDEN * first, self.num_weights + first) for first in firsts]

    def couplings(self, which: int, dtype: torch.dtype) -> Tensor:
        """For each kernel, its coefficients a and b (or w alone) from the coefficients J, ``[kernels, 2, F]``."""
        cpu, kernels = torch.device("cpu"), self.kernels[which]
        found = torch.zeros(len(kernels.pairs), 2, self.num_freq, dtype=dtype)
        for into, pair, m in zip(found, kernels.pairs, kernels.orders, strict=True):
            T = coupling_of(self.convolution.pairs[pair], self.convolution.ends[pair], torch.float64, cpu)
            rows = T[2 * m - 1 : 2 * m + 1] if m else T[:1]
            into[: len(rows), : rows.shape[1]] = rows
        return found


@constant
def _table(layout: Layout, name: str, which: int, device: torch.device) -> Tensor:
    dtype = torch.int64 if name == "places" else torch.int32
    return torch.tensor(getattr(layout, name)(which), dtype=dtype, device=device)


@constant
def couplings(layout: Layout, which: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The :meth:`Layout.couplings` on a device."""
    return layout.couplings(which, dtype).to(device)
