"""What messages are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..basis import Basis
from ..checks import check_alike, check_of_graph
from ..fibers import Features, Fiber


class Inputs:
    """What the messages along the edges are made from; keys and values of one layer share it.

    Args:
        features: of the nodes, ``{degree: [nodes, channels, 2 degree + 1]}``.
        src: the node that each edge comes from, int64 ``[edges]``.
        scalars: what the radial networks see, edge features and then the distance, ``[edges, edge_dim + 1]``.
        basis: the equivariant basis, ``{'k,l': [edges, 1, 2l+1, 1, 2k+1, F]}``.
        pairs_share: whether the pairs of edges of the plan have equal ``scalars``.
        vector: if given, ``[edges, 3]``, added on every edge to one degree-1 channel of what the source node sends.
        channel: which channel that is.
    """

    def __init__(
        self,
        features: Features,
        src: Tensor,
        scalars: Tensor,
        basis: Mapping[str, Tensor],
        pairs_share: bool = False,
        vector: Tensor | None = None,
        channel: int = 0,
    ) -> None:
        self.features, self.src, self.scalars, self.basis = features, src, scalars, basis
        self.pairs_share = pairs_share
        self.vector, self.channel = vector, channel

    def of(self, edges: slice | Tensor) -> Inputs:
        """The same for some of the edges, with the basis of these as a plain dict that is formed when asked for."""
        vector = None if self.vector is None else self.vector[edges]
        basis = _Part(self.basis, edges)
        return Inputs(self.features, self.src[edges], self.scalars[edges], basis, vector=vector, channel=self.channel)

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same with features, scalars and vector in a dtype, such as that of the parameters under autocast."""
        features = {degree: value.to(dtype) for degree, value in self.features.items()}
        vector = None if self.vector is None else self.vector.to(dtype)
        scalars = self.scalars.to(dtype)
        return Inputs(features, self.src, scalars, self.basis, self.pairs_share, vector, self.channel)

    def sent(self, degree: int) -> Tensor:
        """What the source node of each edge sends in one degree, ``[edges, channels, 2 degree + 1]``."""
        sent = self.features[str(degree)].index_select(0, self.src)  # which refuses negative numbers
        if degree == 1 and self.vector is not None:
            before, one, after = sent.tensor_split((self.channel, self.channel + 1), dim=1)
            sent = torch.cat([before, one + self.vector[:, None].to(sent.dtype), after], dim=1)
        return sent

    def check_basis(self, fiber_in: Fiber, fiber_out: Fiber) -> None:
        """Refuse a basis that lacks a pair of degrees of ``fiber_in`` and ``fiber_out``, or that is of other edges.

        Raises:
            TypeError: it has another dtype than the distances, except under autocast.
            ValueError: it is as said, or on another device.
        """
        edges = self.src.shape[0]
        for k in fiber_in.degrees:
            for l in fiber_out.degrees:
                check_pair(self.basis, k, l)
                if not isinstance(self.basis, Basis):
                    W = checked_tensor(self.basis, k, l, edges)
                    check_alike(W, f"basis['{k},{l}']", self.scalars, "r")
        if isinstance(self.basis, Basis):
            check_of_graph("basis", ("edges", edges, len(self.basis.direction)))
            check_alike(self.basis.direction, "basis", self.scalars, "r")


def check_pair(basis: Mapping[str, Tensor], k: int, l: int) -> None:
    """Refuse a basis that lacks a pair of degrees with a ValueError."""
    if f"{k},{l}" not in basis:
        raise ValueError(
            f"basis must hold '{k},{l}': get_basis_and_r needs max_degree of at least {max(k, l)} for this layer"
        )


def checked_tensor(basis: Mapping[str, Tensor], k: int, l: int, edges: int) -> Tensor:
    """What a basis holds for a pair of degrees, or a ValueError if that is missing or of another shape."""
    check_pair(basis, k, l)
    W, shape = basis[f"{k},{l}"], (edges, 1, 2 * l + 1, 1, 2 * k + 1, 2 * min(k, l) + 1)
    if tuple(W.shape) != shape:
        raise ValueError(f"basis['{k},{l}'] must have shape {list(shape)}, got {list(W.shape)}")
    return W


class _Part(Mapping[str, Tensor]):
    """A basis of some of the edges."""

    def __init__(self, basis: Mapping[str, Tensor], edges: slice | Tensor) -> None:
        self._basis, self._edges = basis, edges

    def __getitem__(self, pair: str) -> Tensor:
        return self._basis[pair][self._edges]

    def __iter__(self) -> Iterator[str]:
        return iter(self._basis)

    def __len__(self) -> int:
        return len(self._basis)
