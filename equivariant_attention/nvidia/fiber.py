"""NVIDIA's Fiber: degrees and channels as a dict, in order of channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from operator import index
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..fibers import Fiber as PlainFiber
from ..fibers import by_degree
from ..nvidia.utils import degree_to_dim


class FiberEl(NamedTuple):
    """A degree and its number of channels."""

    degree: int
    channels: int


class Fiber(dict[int, int]):
    """How many channels a feature has of each degree, ``{degree: channels}``.

    ``fiber[degree]`` is 0 where the degree is absent, and a fiber is iterated over as its ``structure``. Fibers add up
    over the degrees of the left one, ``fiber + 8`` and ``fiber * 2`` change all channels, and ``fiber * fiber`` runs
    over all pairs of elements.

    Args:
        structure: ``{degree: channels}`` or ``[(degree, channels), ...]``, possibly empty; mind the order in the pairs.

    Raises:
        TypeError: it is of another form, or a degree or number of channels is not a whole number.
        ValueError: a degree or number of channels is negative, or a degree is given twice.
    """

    def __init__(self, structure: Mapping[Any, int] | Iterable[tuple[int, int]]) -> None:
        # A Fiber's own items: it is iterated over as pairs already.
        pairs = structure.items() if isinstance(structure, Mapping) else structure
        try:
            elements = [FiberEl(_whole(degree), _whole(channels)) for degree, channels in pairs]
        except (TypeError, ValueError):
            expected = "{degree: channels} or [(degree, channels), ...] of whole numbers"
            raise TypeError(f"structure must be {expected}, got {structure!r}") from None
        degrees = [element.degree for element in elements]
        if len(set(degrees)) < len(degrees) or any(min(element) < 0 for element in elements):
            raise ValueError(f"structure must name degrees of at least 0 once each, with channels, got {structure!r}")
        super().__init__(elements)

    @property
    def structure(self) -> list[FiberEl]:
        """The elements in order of channels; those of equal channels as they were given."""
        return sorted((FiberEl(*item) for item in self.items()), key=lambda element: element.channels)

    @property
    def degrees(self) -> list[int]:
        """The degrees, ascending."""
        return sorted(self.keys())

    @property
    def channels(self) -> list[int]:
        """The number of channels of each of ``degrees``."""
        return [self[degree] for degree in self.degrees]

    @property
    def num_features(self) -> int:
        """Sum of ``channels * (2 degree + 1)``."""
        return sum(channels * degree_to_dim(degree) for degree, channels in self.items())

    @staticmethod
    def create(num_degrees: int, num_channels: int) -> Fiber:
        """Degrees ``0 .. num_degrees - 1`` with ``num_channels`` channels each."""
        return Fiber(dict.fromkeys(range(num_degrees), num_channels))

    @staticmethod
    def from_features(feats: Mapping[str, Tensor]) -> Fiber:
        """The fiber of the features ``feats``, ``{degree: [..., channels, 2 degree + 1]}``."""
        return Fiber({int(degree): value.shape[-2] for degree, value in feats.items()})

    @staticmethod
    def combine_max(f1: Fiber, f2: Fiber) -> Fiber:
        """Degrees of ``f1`` or ``f2``; the larger number of channels of the two."""
        return Fiber({degree: max(f1[degree], f2[degree]) for degree in [*f1.keys(), *f2.keys()]})

    @staticmethod
    def combine_selectively(f1: Fiber, f2: Fiber) -> Fiber:
        """Degrees of ``f1`` only; channels added where ``f2`` has the degree too."""
        return f1 + f2

    def to_attention_heads(self, tensors: Mapping[str, Tensor], num_heads: int) -> Tensor:
        """Share the channels of each degree among heads, in order, and flatten per head.

        Args:
            tensors: ``{degree: [..., channels, 2 degree + 1]}``.
            num_heads: number of heads; divides the channels of every degree.

        Returns:
            ``[..., num_heads, num_features / num_heads]``.

        Raises:
            ValueError: it does not.
        """
        if num_heads < 1 or any(channels % num_heads for channels in self.channels):
            raise ValueError(f"num_heads must divide the channels of every degree of {self}, got {num_heads}")
        tensors = by_degree(tensors, "tensors")
        return torch.cat([tensors[str(d)].unflatten(-2, (num_heads, -1)).flatten(-2) for d in self.degrees], dim=-1)

    def __getitem__(self, degree: int) -> int:
        return self.get(degree, 0)

    def __iter__(self) -> Iterator[FiberEl]:  # type: ignore[override]  # as the package has it
        return iter(self.structure)

    def __add__(self, other: Fiber | int) -> Fiber:
        added = other.get if isinstance(other, Fiber) else lambda degree, default: other
        return Fiber({degree: channels + added(degree, 0) for degree, channels in self})

    def __mul__(self, other: Fiber | int) -> Any:
        if isinstance(other, Fiber):
            return product(self.structure, other.structure)
        return Fiber({degree: channels * other for degree, channels in self})

    def __repr__(self) -> str:
        return f"Fiber({dict(self.items())})"


def plain_fiber(fiber: Any, name: str) -> PlainFiber:
    """The library's own :class:`~equivariant_attention.fibers.Fiber` for a fiber of the package.

    Raises:
        TypeError, ValueError: it is none, or has no degree, or one without channels; the message calls it ``name``.
    """
    if not isinstance(fiber, Fiber):
        raise TypeError(f"{name} must be an equivariant_attention.nvidia.Fiber, got {_type_name(fiber)}")
    if not fiber or min(fiber.values()) < 1:
        raise ValueError(f"{name} must have a degree, and channels of every degree, got {fiber}")
    return PlainFiber(dictionary=dict(fiber.items()))


def edge_fiber(fiber: Any) -> Fiber:
    """A fiber of edge features, empty for None; a TypeError for what is none."""
    if fiber is not None and not isinstance(fiber, Fiber):
        raise TypeError(f"fiber_edge must be an equivariant_attention.nvidia.Fiber or None, got {_type_name(fiber)}")
    return Fiber({}) if fiber is None else fiber


def _whole(number: Any) -> int:
    """Also from text: the package takes the keys of features."""
    return int(number) if isinstance(number, str) else index(number)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
