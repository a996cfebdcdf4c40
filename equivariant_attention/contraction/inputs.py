"""The record of all tensors that messages are made from, and checks of the basis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..basis import Basis
from ..checks import check_alike, check_of_graph
from ..contraction.convolution import Convolution
from ..fibers import Features


@dataclass(frozen=True)
class Inputs:
    """The tensors that messages are made from, in one record that values and keys of a layer share.

    Attributes:
        features: features of the nodes, ``{degree: [nodes, channels, 2 degree + 1]}``.
        src: source node of each edge, int64 ``[edges]``.
        scalars: what the radial networks see, edge features and then the distance, ``[edges, edge_dim + 1]``.
        basis: the equivariant basis, ``{'k,l': [edges, 1, 2l+1, 1, 2k+1, F]}``.
        pairs_share: whether the pairs of edges of the plan have equal ``scalars``, and so share radial weights.
        on_edges: features of the edges themselves, ``{degree: [edges, channels, 2 degree + 1]}``, which are added to
            those of the source nodes.
        first: for each degree of ``on_edges``, the channel that its first channel is added to. If that is the number of
            channels of the nodes, features of the edges are appended.
    """

    features: Features
    src: Tensor
    scalars: Tensor
    basis: Mapping[str, Tensor]
    pairs_share: bool = False
    on_edges: Features = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)

    def of(self, edges: slice | Tensor) -> Inputs:
        """The same for some of the edges; their part of the basis is taken when it is read."""
        on_edges = {degree: value[edges] for degree, value in self.on_edges.items()}
        basis = _Part(self.basis, edges)
        return Inputs(self.features, self.src[edges], self.scalars[edges], basis, False, on_edges, self.first)

    def to(self, dtype: torch.dtype) -> Inputs:
        """The same in the dtype of the parameters: under autocast, features and scalars may have another."""
        features, on_edges = ({d: v.to(dtype) for d, v in part.items()} for part in (self.features, self.on_edges))
        return replace(self, features=features, on_edges=on_edges, scalars=self.scalars.to(dtype))

    def on_nodes(self, degree: int, channels: int) -> Tensor:
        """What nodes send in one degree, ``[nodes, channels, 2 degree + 1]``; zero in channels that only edges have."""
        own = self.features.get(str(degree))
        if own is None:
            nodes = next(iter(self.features.values())).shape[0]
            return self.scalars.new_zeros(nodes, channels, 2 * degree + 1)
        return own if own.shape[1] == channels else pad(own, (0, 0, 0, channels - own.shape[1]))

    def sent(self, degree: int, channels: int) -> Tensor:
        """What is sent along each edge in one degree, ``[edges, channels, 2 degree + 1]``."""
        sent = self.on_nodes(degree, channels).index_select(0, self.src)  # unlike indexing, it refuses negative indices
        own = self.on_edges.get(str(degree))
        if own is None:
            return sent
        first = self.first[str(degree)]
        return sent + pad(own.to(sent.dtype), (0, 0, first, channels - first - own.shape[1]))

    def check_basis(self, convolution: Convolution) -> None:
        """Refuse a basis that lacks a pair of degrees of a convolution, or that belongs to other edges.

        Raises:
            TypeError: it has another dtype than the distances, except under autocast.
            ValueError: it lacks a pair of degrees, belongs to other edges, or is on another device.
        """
        edges = self.src.shape[0]
        if isinstance(self.basis, Basis):
            highest = convolution.degrees[-1]
            check_pair(self.basis, highest, highest)
            check_of_graph("basis", ("edges", edges, self.basis.direction.shape[0]))
            check_alike(self.basis.direction, "basis", self.scalars, "r")
            return
        for k, l in {(ends.degree_in, ends.degree_out) for ends in convolution.ends}:
            W = checked_tensor(self.basis, k, l, edges)
            check_alike(W, f"basis['{k},{l}']", self.scalars, "r")


def check_pair(basis: Mapping[str, Tensor], k: int, l: int) -> None:
    """Raise a ValueError if a basis lacks a pair of degrees."""
    if f"{k},{l}" not in basis:
        raise ValueError(
            f"basis must hold '{k},{l}': get_basis_and_r needs max_degree of at least {max(k, l)} for this layer"
        )


def checked_tensor(basis: Mapping[str, Tensor], k: int, l: int, edges: int) -> Tensor:
    """What a basis holds for a pair of degrees; raises a ValueError if that is missing or has another shape."""
    check_pair(basis, k, l)
    W, shape = basis[f"{k},{l}"], (edges, 1, 2 * l + 1, 1, 2 * k + 1, 2 * min(k, l) + 1)
    if tuple(W.shape) != shape:
        raise ValueError(f"basis['{k},{l}'] must have shape {list(shape)}, got {list(W.shape)}")
    return W


class _Part(Mapping[str, Tensor]):
    """The basis of some of the edges."""

    def __init__(self, basis: Mapping[str, Tensor], edges: slice | Tensor) -> None:
        self._basis, self._edges = basis, edges

    def __getitem__(self, pair: str) -> Tensor:
        return self._basis[pair][self._edges]

    def __iter__(self) -> Iterator[str]:
        return iter(self._basis)

    def __len__(self) -> int:
        return len(self._basis)
