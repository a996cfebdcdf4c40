"""Which radial networks a convolution has: one for every pair of degrees, or one that serves several pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from ..contraction.convolution import Convolution, Pair
from ..nvidia.fiber import Fiber
from ..so3.couplings import published_sign


class ConvSE3FuseLevel(Enum):
    """How far radial networks are shared; where channels do not allow it, the next lower level is taken.

    Attributes:
        FULL: one network for all pairs of degrees.
        PARTIAL: one network for each degree out, or else for each degree in.
        NONE: one network for each pair.
    """

    FULL = 2
    PARTIAL = 1
    NONE = 0


class Layout(Enum):
    """What one radial network of a convolution serves."""

    ALL = "all pairs of degrees"
    DEGREE_OUT = "all pairs of a degree out"
    DEGREE_IN = "all pairs of a degree in"
    PAIR = "a pair of degrees"

    @property
    def container(self) -> str:
        """The name of the attribute with the network, or with a ModuleDict of them."""
        return {Layout.DEGREE_OUT: "conv_out", Layout.DEGREE_IN: "conv_in"}.get(self, "conv")


Elements = tuple[tuple[int, int], ...]  # degrees and channels, in the order of a Fiber


class Network(NamedTuple):
    """One radial network.

    Its rows are numbered (channel out, channel in, pair, J).

    Attributes:
        name: of its module in the layer, such as 'conv_out.1'.
        pairs: the pairs (k, l) of degrees that it serves.
        channels_in, channels_out: of every one of them.
    """

    name: str
    pairs: tuple[tuple[int, int], ...]
    channels_in: int
    channels_out: int

    @property
    def freq_sum(self) -> int:
        """Number of basis kernels of all pairs."""
        return self.before(None)

    def before(self, pair: tuple[int, int] | None) -> int:
        """Number of basis kernels of the pairs in front of one; None for all."""
        pairs = self.pairs if pair is None else self.pairs[: self.pairs.index(pair)]
        return sum(2 * min(k, l) + 1 for k, l in pairs)

    @property
    def rows(self) -> int:
        """Outputs of the network."""
        return self.channels_out * self.channels_in * self.freq_sum


def layouts(sent: Fiber, fiber_out: Fiber, max_degree: int) -> list[Layout]:
    """The layouts that the channels allow, those that share most first.

    Args:
        sent: fiber of what is sent along an edge, channels of edges included.
        fiber_out: fiber of the messages.
        max_degree: up to which degrees must be there, all with equal channels, to be served together.
    """
    alike_in, alike_out = (
        fiber.degrees == list(range(max_degree + 1)) and len(set(fiber.channels)) == 1 for fiber in (sent, fiber_out)
    )
    found = [Layout.ALL] * (alike_in and alike_out) + [Layout.DEGREE_OUT] * alike_in + [Layout.DEGREE_IN] * alike_out
    return [*found, Layout.PAIR]


def layout_of(level: ConvSE3FuseLevel, allowed: Sequence[Layout]) -> Layout:
    """The layout of a fuse ``level``, of those that are ``allowed``."""
    return next(layout for layout in allowed if layout in _LAYOUTS[level])


def layout_named(name: str) -> Layout:
    """The layout that has a radial network's parameter of this ``name`` within its layer."""
    container, _, rest = name.partition(".")
    is_all = rest.startswith("radial_func")
    return next(l for l in Layout if l.container == container and (l is Layout.ALL) == is_all)


_LAYOUTS = {
    ConvSE3FuseLevel.FULL: (*Layout,),
    ConvSE3FuseLevel.PARTIAL: (Layout.DEGREE_OUT, Layout.DEGREE_IN, Layout.PAIR),
    ConvSE3FuseLevel.NONE: (Layout.PAIR,),
}


def networks_of(layout: Layout, sent: Elements, made: Elements) -> list[Network]:
    """The networks of a ``layout``, from degrees and channels ``sent`` to those ``made``, in the package's order."""
    degrees_in, degrees_out = (sorted(degree for degree, _ in part) for part in (sent, made))
    (_, c_in), (_, c_out) = sent[0], made[0]  # of all degrees, where one network serves them all
    if layout is Layout.ALL:
        return [Network("conv", tuple((k, l) for l in degrees_out for k in degrees_in), c_in, c_out)]
    if layout is Layout.DEGREE_OUT:
        return [Network(f"conv_out.{l}", tuple((k, l) for k in degrees_in), c_in, m) for l, m in made]
    if layout is Layout.DEGREE_IN:
        return [Network(f"conv_in.{k}", tuple((k, l) for l in degrees_out), m, c_out) for k, m in sent]
    return [Network(f"conv.{k},{l}", ((k, l),), m_in, m_out) for (k, m_in), (l, m_out) in product(sent, made)]


@lru_cache(maxsize=1024)
def convolution_of(
    layout: Layout, sent: Elements, made: Elements, parts: tuple[Elements, ...], has_norm: bool, published: bool
) -> Convolution:
    """What the engine is to know of a convolution; the same object for all layers of one shape.

    Args:
        layout: of its networks.
        sent: degrees and channels of what is sent along an edge.
        made: of the messages.
        parts: what it divides into: the channels of a degree are those of the first part, then those of the second.
        has_norm: whether the networks have LayerNorms.
        published: whether the basis that it is computed with is the published one, and not the package's.
    """
    features, networks = sorted(sent), networks_of(layout, sent, made)
    place = {pair: (number, network) for number, network in enumerate(networks) for pair in network.pairs}
    messages: list[tuple[int, int]] = []
    pairs: list[Pair] = []
    done = Fiber({})
    for part in map(Fiber, parts):
        for l in part.degrees:
            for feature, (k, _) in enumerate(features):
                number, network = place[k, l]
                step_in, step_out = network.freq_sum, network.freq_sum * network.channels_in
                first = done[l] * step_out + network.before((k, l))
                factors = scales(k, l, layout is Layout.PAIR) if published else ()
                factors = () if set(factors) == {1.0} else factors
                pairs.append(Pair(feature, len(messages), number, first, step_out, step_in, factors))
            messages.append((l, part[l]))
            done[l] += part[l]
    rows = tuple(network.rows for network in networks)
    return Convolution(tuple(features), tuple(messages), tuple(pairs), rows, has_norm, has_bias=False)


def scales(k: int, l: int, is_alone: bool) -> tuple[float, ...]:
    """What the published basis kernels are multiplied by to give the package's, J from ``|k - l|`` to ``k + l``.

    Args:
        k, l: degrees in and out.
        is_alone: whether the pair has a radial network of its own. Then the package multiplies scalars that go to
            scalars by 1 in place of Y_0.
    """
    if k == l == 0 and is_alone:
        return (math.sqrt(4 * math.pi),)
    return tuple(float(coupling_sign(k, l, J)) for J in range(abs(k - l), k + l + 1))


def coupling_sign(k: int, l: int, J: int) -> int:
    """Sign of the package's coupling of degree ``k`` and harmonic ``J`` to ``l``, beside the published one.

    It is the Wigner 3j symbol of (J, k, l); that of (l, k, J) differs by the sign of an odd permutation.
    """
    return published_sign(k, l, J) * (-1) ** (J + k + l)
