"""The structure of a convolution: which features make which messages, and with which outputs of which radial network.

Its parameters are not here: they belong to modules, and backends are given them separately.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from functools import lru_cache
from itertools import product

from torch import Tensor

from ..fibers import Features, Fiber


@dataclass(frozen=True)
class Ends:
    """Degree and channels of the feature and of the message that a pair connects."""

    degree_in: int
    channels_in: int
    degree_out: int
    channels_out: int

    @property
    def num_freq(self) -> int:
        """F, the number of basis kernels."""
        return 2 * min(self.degree_in, self.degree_out) + 1


@dataclass(frozen=True)
class Pair:
    """Where the radial weights of one feature (degree k) and one message (degree l) are in the output of a network.

    .. math:: R_{oiJ} = output_{\\, first + o \\, step_{out} + i \\, step_{in} + J}

    Attributes:
        feature, message: their indices in the convolution.
        network: the index of the radial network.
        first, step_out, step_in: as above, for channel out o, channel in i, and J in ascending order.
        scales: factors of the :math:`W_J` of the basis, one for each J; empty if all are 1.
    """

    feature: int
    message: int
    network: int
    first: int
    step_out: int
    step_in: int
    scales: tuple[float, ...] = ()

    def part(self, values: Tensor, ends: Ends) -> Tensor:
        """The radial weights of the pair, ``[..., channels out, channels in, F]``, from an output ``[..., rows]``."""
        o, rest = divmod(self.first, self.step_out)
        i, J = divmod(rest, self.step_in)
        of_pair = values.unflatten(-1, (-1, self.step_out // self.step_in, self.step_in))
        return of_pair[..., o : o + ends.channels_out, i : i + ends.channels_in, J : J + ends.num_freq]

    def rows(self, ends: Ends) -> Iterator[int]:
        """The outputs of its network that the pair reads."""
        places = product(range(ends.channels_out), range(ends.channels_in), range(ends.num_freq))
        return (self.first + o * self.step_out + i * self.step_in + J for o, i, J in places)


@dataclass(frozen=True, eq=False)
class Convolution:
    """The structure of a convolution: one object, without parameters, for all layers of equal structure.

    Attributes:
        features: degree and channels of each feature that is sent along an edge, those of the edge itself included.
        messages: degree and channels of each message; a degree may occur several times, as in values and keys.
        pairs: one for every message and feature, message by message.
        rows: the number of outputs of each radial network.
        has_norm: whether the hidden layers of the networks have a LayerNorm each.
        has_bias: whether the last layers of the networks have a bias.
        ends: the :class:`Ends` of each pair.
        degrees: all degrees of features and messages, ascending.
        by_network: for each network, the indices of the pairs that read its output.
        reads_something_twice: whether two pairs read the same output of a network.
        text: the convolution as JSON, as PyTorch's operators take strings but no objects; :meth:`of` is the inverse.

    Raises:
        ValueError: there is not one pair for each message and feature, or a pair reads outputs that its network lacks.
    """

    features: tuple[tuple[int, int], ...]
    messages: tuple[tuple[int, int], ...]
    pairs: tuple[Pair, ...]
    rows: tuple[int, ...]
    has_norm: bool = True
    has_bias: bool = True
    ends: tuple[Ends, ...] = field(init=False, repr=False)
    degrees: tuple[int, ...] = field(init=False, repr=False)
    by_network: tuple[tuple[int, ...], ...] = field(init=False, repr=False)
    reads_something_twice: bool = field(init=False, repr=False)
    text: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        expected = [(m, f) for m in range(len(self.messages)) for f in range(len(self.features))]
        if [(pair.message, pair.feature) for pair in self.pairs] != expected:
            raise ValueError(f"pairs must be one for every message and feature, in this order, got {self.pairs}")
        ends = tuple(Ends(*self.features[p.feature], *self.messages[p.message]) for p in self.pairs)
        degrees = tuple(sorted({degree for degree, _ in (*self.features, *self.messages)}))
        served = [tuple(i for i, p in enumerate(self.pairs) if p.network == n) for n in range(len(self.rows))]
        several = ([row for i in own for row in self.pairs[i].rows(ends[i])] for own in served if len(own) > 1)
        twice = any(len(set(rows)) < len(rows) for rows in several)
        own = [getattr(self, one.name) for one in fields(self) if one.init]
        text = json.dumps(own, default=astuple, separators=(",", ":"))
        made = {"ends": ends, "degrees": degrees, "by_network": tuple(served), "text": text}
        for name, value in {**made, "reads_something_twice": twice}.items():
            object.__setattr__(self, name, value)
        for pair, of_pair in zip(self.pairs, ends, strict=True):
            self._check(pair, of_pair)

    @staticmethod
    @lru_cache(maxsize=1024)
    def of(text: str) -> Convolution:
        """The convolution whose ``text`` this is."""
        features, messages, pairs, rows, *rest = json.loads(text)
        each = tuple(replace(Pair(*numbers), scales=tuple(numbers[-1])) for numbers in pairs)
        return Convolution(tuple(map(tuple, features)), tuple(map(tuple, messages)), each, tuple(rows), *rest)

    def _check(self, pair: Pair, ends: Ends) -> None:
        rows, (o, rest) = self.rows[pair.network], divmod(pair.first, pair.step_out)
        i, J = divmod(rest, pair.step_in)
        nested = rows % pair.step_out == 0 and pair.step_out % pair.step_in == 0
        inside = (o + ends.channels_out) * pair.step_out <= rows and J + ends.num_freq <= pair.step_in
        if not (nested and inside and (i + ends.channels_in) * pair.step_in <= pair.step_out):
            raise ValueError(f"{pair} must lie within the {rows} outputs of its network, [channels, channels, J]")
        if len(pair.scales) not in (0, ends.num_freq):
            raise ValueError(f"{pair} must have {ends.num_freq} scales or none")


@lru_cache(maxsize=1024)
def pairwise(fiber_in: Fiber, fibers_out: tuple[Fiber, ...]) -> Convolution:
    """A convolution with a radial network of its own for every pair of degrees, as published.

    Args:
        fiber_in: fiber of the features that are sent.
        fibers_out: fiber of each set of messages, such as values and keys.

    Returns:
        the convolution; messages are ordered by set and degree, networks by message and feature.
    """
    features = tuple((k, m) for m, k in fiber_in.structure)
    messages = tuple((l, m) for fiber in fibers_out for m, l in fiber.structure)
    pairs: list[Pair] = []
    rows: list[int] = []
    for (o, (l, c_out)), (i, (k, c_in)) in product(enumerate(messages), enumerate(features)):
        F = 2 * min(k, l) + 1
        pairs.append(Pair(i, o, len(rows), 0, c_in * F, F))
        rows.append(c_out * c_in * F)
    return Convolution(features, messages, tuple(pairs), tuple(rows))


def by_set(fibers_out: Sequence[Fiber], messages: Sequence[Tensor]) -> list[Features]:
    """The messages of a :func:`pairwise` convolution, as a dict by degree for each set."""
    rest = iter(messages)
    return [{str(l): next(rest) for _, l in fiber.structure} for fiber in fibers_out]
