"""Fibers: which degrees a feature has, with how many channels each, and tensors laid out accordingly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import index
from typing import Any

import torch
from torch import Tensor

Features = dict[str, Tensor]


class Fiber:
    """The degrees of a feature and the number of channels (multiplicity) of each.

    Exactly one of these describes it, except that numbers beside a ``structure`` are ignored, as published:

    Args:
        num_degrees, num_channels: degrees ``0 .. num_degrees - 1`` with ``num_channels`` channels each.
        structure: ``[(multiplicity, degree), ...]`` in any order.
        dictionary: ``{degree: multiplicity}``; may also come first, ``Fiber({0: 16, 1: 8})``.

    Attributes:
        structure: ``[(multiplicity, degree), ...]``, sorted by degree.
        degrees, multiplicities: the two columns of ``structure``, as tuples.
        min_degree, max_degree: smallest and largest degree.
        structure_dict, dict: ``{degree: multiplicity}``.
        n_features: sum of ``multiplicity * (2 degree + 1)``, the length of the flattened feature.
        feature_indices: ``{degree: (start, end)}`` in the flattened feature.

    Raises:
        TypeError: a degree or multiplicity is not a whole number, or the description is of another form.
        ValueError: none or several descriptions are given, a degree is negative or given twice, a multiplicity is not
            positive, or there is no degree at all.
    """

    def __init__(
        self,
        num_degrees: int | Mapping[int, int] | None = None,
        num_channels: int | None = None,
        structure: Iterable[tuple[int, int]] | None = None,
        dictionary: Mapping[int, int] | None = None,
    ) -> None:
        if isinstance(num_degrees, Mapping) and dictionary is None:
            num_degrees, dictionary = None, num_degrees
        if structure is not None and dictionary is None:
            num_degrees = num_channels = None
        by_number = num_degrees is not None or num_channels is not None
        if by_number + (structure is not None) + (dictionary is not None) != 1:
            raise ValueError(
                "a Fiber takes num_degrees and num_channels, or structure, or dictionary; got num_degrees="
                f"{num_degrees}, num_channels={num_channels}, structure={structure}, dictionary={dictionary}"
            )
        if by_number:
            if num_degrees is None or num_channels is None:
                raise ValueError(
                    f"num_degrees and num_channels go together, got {num_degrees} and {num_channels}; pairs are given "
                    "as structure=[(multiplicity, degree), ...]"
                )
            structure = [(num_channels, degree) for degree in range(_whole(num_degrees, "num_degrees"))]
        elif dictionary is not None:
            if not isinstance(dictionary, Mapping):
                raise TypeError(f"dictionary must be {{degree: multiplicity}}, got {dictionary!r}")
            structure = [(multiplicity, degree) for degree, multiplicity in dictionary.items()]
        self.structure = sorted(_checked_pairs(structure), key=lambda pair: pair[1])
        self._validate()
        self._identity = tuple(self.structure)
        self.multiplicities: tuple[int, ...] = tuple(m for m, _ in self.structure)
        self.degrees: tuple[int, ...] = tuple(d for _, d in self.structure)
        self.min_degree, self.max_degree = self.degrees[0], self.degrees[-1]
        self.structure_dict = {d: m for m, d in self.structure}
        self.dict = self.structure_dict
        self.feature_indices: dict[int, tuple[int, int]] = {}
        end = 0
        for multiplicity, degree in self.structure:
            start, end = end, end + multiplicity * (2 * degree + 1)
            self.feature_indices[degree] = (start, end)
        self.n_features = end

    def _validate(self) -> None:
        if not self.structure:
            raise ValueError("a Fiber must have at least one degree, got none")
        for multiplicity, degree in self.structure:
            if degree < 0 or multiplicity < 1:
                raise ValueError(
                    f"a Fiber must have degrees >= 0 and multiplicities >= 1, got multiplicity {multiplicity} "
                    f"for degree {degree}"
                )
        degrees = [degree for _, degree in self.structure]
        if len(set(degrees)) != len(degrees):
            raise ValueError(f"a Fiber names each degree once, got degrees {degrees}")

    def copy_me(self, multiplicity: int | None = None) -> Fiber:
        """A copy; with ``multiplicity``, every degree gets that many channels."""
        return Fiber(structure=[(m if multiplicity is None else multiplicity, d) for m, d in self.structure])

    @staticmethod
    def combine(f1: Fiber, f2: Fiber) -> Fiber:
        """Degrees of ``f1`` or ``f2``; multiplicities added."""
        _check_both(f1, f2)
        return Fiber(dictionary={d: f1.dict.get(d, 0) + f2.dict.get(d, 0) for d in {*f1.degrees, *f2.degrees}})

    @staticmethod
    def combine_max(f1: Fiber, f2: Fiber) -> Fiber:
        """Degrees of ``f1`` or ``f2``; the larger multiplicity of the two."""
        _check_both(f1, f2)
        return Fiber(dictionary={d: max(f1.dict.get(d, 0), f2.dict.get(d, 0)) for d in {*f1.degrees, *f2.degrees}})

    @staticmethod
    def combine_selectively(f1: Fiber, f2: Fiber) -> Fiber:
        """Degrees of ``f1`` only; multiplicities added where ``f2`` has the degree too."""
        _check_both(f1, f2)
        return Fiber(dictionary={d: m + f2.dict.get(d, 0) for d, m in f1.dict.items()})

    @staticmethod
    def combine_fibers(val1: Features, struct1: Fiber, val2: Features, struct2: Fiber) -> Features:
        """Features ``val1`` of fiber ``struct1``, then ``val2`` of ``struct2``, their channels concatenated."""
        _check_channels(val1, struct1, "val1")
        _check_channels(val2, struct2, "val2")
        combined = {}
        for degree in Fiber.combine(struct1, struct2).degrees:
            parts = [v[str(degree)] for v, f in ((val1, struct1), (val2, struct2)) if degree in f.dict]
            combined[str(degree)] = torch.cat(parts, dim=-2)
        return combined

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fiber) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return f"Fiber({self.dict})"


FiberLike = Fiber | Mapping[int, int] | Iterable[tuple[int, int]]


def as_fiber(value: FiberLike, name: str) -> Fiber:
    """A Fiber, from what describes one.

    Args:
        value: a Fiber, ``{degree: channels}`` or ``[(channels, degree), ...]``.
        name: of the argument, for the message.

    Returns:
        the Fiber.

    Raises:
        TypeError, ValueError: it describes none.
    """
    if isinstance(value, Fiber):
        return value
    try:
        return Fiber(dictionary=value) if isinstance(value, Mapping) else Fiber(structure=value)
    except (TypeError, ValueError) as error:
        expected = "a Fiber, {degree: channels} or [(channels, degree), ...]"
        raise type(error)(f"{name} must be {expected}, got {value!r}: {error}") from error


def _whole(number: Any, name: str) -> int:
    try:
        return index(number)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {number!r}") from None


def _checked_pairs(structure: Any) -> list[tuple[int, int]]:
    """Multiplicities and degrees."""
    try:
        pairs = [(multiplicity, degree) for multiplicity, degree in structure]
    except (TypeError, ValueError):
        raise TypeError(f"structure must be [(multiplicity, degree), ...], got {structure!r}") from None
    return [(_whole(m, f"the multiplicity of degree {d!r}"), _whole(d, "a degree")) for m, d in pairs]


def check_fiber(fiber: Any, name: str) -> None:
    """Refuse a ``fiber`` that is no Fiber with a TypeError that calls it ``name``."""
    if not isinstance(fiber, Fiber):
        raise TypeError(f"{name} must be a Fiber, got {type(fiber).__name__}")


def _check_both(f1: Any, f2: Any) -> None:
    check_fiber(f1, "f1")
    check_fiber(f2, "f2")


def by_degree(F: Any, name: str = "features") -> Any:
    """Features as layers have them inside, every degree a string: ``{0: ...}`` becomes ``{'0': ...}``.

    Args:
        F: features keyed by degrees, ints or strings; whatever else, for checks to refuse.
        name: of the argument, for the message.

    Returns:
        the features, or what else it is, as it is.

    Raises:
        ValueError: a degree is there as an int and as a string.
    """
    if not isinstance(F, Mapping) or all(isinstance(degree, str) for degree in F):
        return F
    found = {str(degree) if type(degree) is int else degree: value for degree, value in F.items()}
    if len(found) < len(F):
        raise ValueError(f"{name} must have every degree once, got {list(F)}")
    return found


def check_keys(F: Any, fiber: Fiber, name: str) -> None:
    """Refuse features ``F``, called ``name``, whose keys are not the degrees of ``fiber``.

    Raises:
        TypeError: ``F`` is not a mapping, or ``fiber`` not a Fiber.
        ValueError: a degree is missing or not in the fiber.
    """
    check_fiber(fiber, f"the fiber of {name}")
    if not isinstance(F, Mapping):
        raise TypeError(f"{name} must be a dict of tensors keyed by the degree as a string, got {type(F).__name__}")
    expected = {str(degree) for degree in fiber.degrees}
    if set(F) != expected:
        got = sorted(map(repr, F))
        raise ValueError(f"{name} must have the degrees {sorted(expected)} of {fiber}, got [{', '.join(got)}]")


def _check_channels(F: Any, fiber: Fiber, name: str) -> None:
    """Refuse features that are not ``{degree: [..., multiplicity, 2 degree + 1]}`` for the degrees of a fiber."""
    check_keys(F, fiber, name)
    for multiplicity, degree in fiber.structure:
        value = F[str(degree)]
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}['{degree}'] must be a tensor, got {type(value).__name__}")
        if tuple(value.shape[-2:]) != (multiplicity, 2 * degree + 1):
            shape = f"[..., {multiplicity}, {2 * degree + 1}]"
            raise ValueError(f"{name}['{degree}'] must have shape {shape}, got {list(value.shape)}")


def get_fiber_dict(
    F: Tensor, struct: Fiber, mask: Fiber | None = None, return_struct: bool = False
) -> Features | tuple[Features, Fiber]:
    """Cut a flattened feature into its degrees.

    Args:
        F: ``[..., struct.n_features]``.
        struct: the fiber of ``F``.
        mask: keep only the degrees of this fiber.
        return_struct: also return the fiber of what was kept.

    Returns:
        ``{degree: [..., multiplicity, 2 degree + 1]}``, and its Fiber if asked for.

    Raises:
        TypeError: ``F`` is not a tensor, or ``struct`` or ``mask`` is not a Fiber.
        ValueError: the last dimension of ``F`` is not ``struct.n_features``, or ``mask`` keeps none of its degrees.
    """
    check_fiber(struct, "struct")
    if mask is not None:
        check_fiber(mask, "mask")
        if not {*mask.degrees} & {*struct.degrees}:
            raise ValueError(f"mask must have a degree of struct, got {mask} for {struct}")
    if not isinstance(F, Tensor):
        raise TypeError(f"F must be a tensor, got {type(F).__name__}")
    if F.shape[-1:] != (struct.n_features,):
        raise ValueError(f"F must have last dimension {struct.n_features} for {struct}, got shape {list(F.shape)}")
    kept = [(m, d) for m, d in struct.structure if mask is None or d in mask.dict]
    features = {}
    for multiplicity, degree in kept:
        start, end = struct.feature_indices[degree]
        features[str(degree)] = F[..., start:end].unflatten(-1, (multiplicity, 2 * degree + 1))
    return (features, Fiber(structure=kept)) if return_struct else features


def get_fiber_tensor(F: Mapping[str, Tensor], struct: Fiber) -> Tensor:
    """Flatten features F of fiber ``struct``: ``{degree: [..., multiplicity, 2 degree + 1]}`` to ``[..., n_features]``.

    Raises:
        TypeError, ValueError: ``F`` has other degrees or channels than the fiber says, or no tensors.
    """
    _check_channels(F, struct, "F")
    return torch.cat([F[str(degree)].flatten(-2) for degree in struct.degrees], dim=-1)


def fiber2tensor(F: Mapping[str, Tensor], structure: Fiber, squeeze: bool = False) -> Tensor:
    """Flatten F of fiber ``structure``: ``[..., n_features]`` with ``squeeze``, else ``[..., n_features, 1]``."""
    tensor = get_fiber_tensor(F, structure)
    return tensor if squeeze else tensor.unsqueeze(-1)


def fiber2head(F: Mapping[str, Tensor], h: int, structure: Fiber, squeeze: bool = False) -> Tensor:
    """Share the channels of each degree among heads, in order, and flatten per head.

    Args:
        F: ``{degree: [..., multiplicity, 2 degree + 1]}``.
        h: number of heads; divides every multiplicity.
        structure: the fiber of ``F``.
        squeeze: leave out the trailing dimension of one.

    Returns:
        ``[..., h, n_features / h]`` with ``squeeze``, ``[..., h, n_features / h, 1]`` without.

    Raises:
        TypeError, ValueError: ``h`` does not divide a multiplicity, or ``F`` has other degrees or channels than the
            fiber says.
    """
    check_heads(structure, h, "structure")
    _check_channels(F, structure, "F")
    tensor = torch.cat([F[str(d)].unflatten(-2, (h, -1)).flatten(-2) for d in structure.degrees], dim=-1)
    return tensor if squeeze else tensor.unsqueeze(-1)


def check_heads(fiber: Fiber, n_heads: int, name: str) -> None:
    """Refuse ``n_heads`` that do not divide all channels of ``fiber`` with a ValueError that calls it ``name``."""
    check_fiber(fiber, name)
    n_heads = _whole(n_heads, "n_heads")
    for multiplicity, degree in fiber.structure:
        if n_heads < 1 or multiplicity % n_heads:
            raise ValueError(
                f"n_heads must divide the channels of every degree of {name}: "
                f"{n_heads} heads do not divide {multiplicity} channels of degree {degree}"
            )
