"""What messages are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from equivariant_attention.basis import Basis
from equivariant_attention.fibers import Features, Fiber


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
        sent = self.features[str(degree)][self.src]
        if degree == 1 and self.vector is not None:
            before, one, after = sent.tensor_split((self.channel, self.channel + 1), dim=1)
            sent = torch.cat([before, one + self.vector[:, None].to(sent.dtype), after], dim=1)
        return sent

    def check_basis(self, fiber_in: Fiber, fiber_out: Fiber) -> None:
        """Refuse a basis that lacks a pair of degrees of ``fiber_in`` and ``fiber_out``, or that is of another graph.

        Raises:
            ValueError: as said.
        """
        for k in fiber_in.degrees:
            for l in fiber_out.degrees:
                if f"{k},{l}" not in self.basis:
                    raise ValueError(
                        f"basis must hold '{k},{l}': "
                        f"get_basis_and_r needs max_degree of at least {max(k, l)} for this layer"
                    )
        edges = (self.basis.direction if isinstance(self.basis, Basis) else next(iter(self.basis.values()))).shape[0]
        if edges != self.src.shape[0]:
            raise ValueError(f"basis must be of this graph, with {self.src.shape[0]} edges, got one of {edges} edges")


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
