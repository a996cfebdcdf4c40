"""What the radial networks see of an edge: its scalars, and a function of its length."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..fibers import Features, by_degree
from ..so3.vectors import length_and_direction

# Of the lengths, by the name of the option of RoseTTAFold-All-Atom.
LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "lin": lambda r: r,
    "arcsin": lambda r: torch.asinh(r.clamp_min(4) - 4) / 3,
    "log": torch.log1p,
    "zero": torch.zeros_like,
}


def get_populated_edge_features(
    relative_pos: Tensor, edge_features: Mapping[str, Tensor] | None = None, populate_edge: str = "lin"
) -> Features:
    """Edge features with the length of the edge as one more channel of degree 0, the last.

    Args:
        relative_pos: relative positions of the edges, ``[edges, 3]``; gradients flow to them.
        edge_features: ``{degree: [edges, channels, 2 degree + 1]}``; it is not changed. None: there are none.
        populate_edge: what is appended of the length r: 'lin', r itself; 'arcsin', asinh(max(r, 4) - 4) / 3; 'log',
            log(1 + r); 'zero', 0.

    Returns:
        the same, with degree 0.

    Raises:
        ValueError: ``populate_edge`` is none of these.
    """
    check_populate(populate_edge)
    length = LENGTHS[populate_edge](length_and_direction(relative_pos)[0])[:, None]
    features = dict(by_degree(edge_features or {}, "edge_features"))
    features["0"] = torch.cat([features["0"], length], dim=1) if "0" in features else length
    return features


def check_populate(populate_edge: object) -> None:
    """Refuse a ``populate_edge`` that is no name of a function of the length with a ValueError."""
    if populate_edge not in LENGTHS:
        raise ValueError(f"populate_edge must be one of {sorted(LENGTHS)}, got {populate_edge!r}")
