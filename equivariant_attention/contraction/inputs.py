"""What messages are made from."""

from __future__ import annotations

from collections.abc import Mapping

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
        vector: if given, ``[edges, 3]``, added on every edge to one degree-1 channel of what the source node sends.
        channel: which channel that is.
    """

    def __init__(
        self,
        features: Features,
        src: Tensor,
        scalars: Tensor,
        basis: Mapping[str, Tensor],
        vector: Tensor | None = None,
        channel: int = 0,
    ) -> None:
        self.features, self.src, self.scalars, self.basis = features, src, scalars, basis
        self.vector, self.channel = vector, channel
        self._sent: dict[int, Tensor] = {}
        self._aligned: dict[int, tuple[Tensor, Tensor]] = {}

    def sent(self, degree: int) -> Tensor:
        """What the source node of each edge sends in one degree, ``[edges, channels, 2 degree + 1]``."""
        if degree not in self._sent:
            sent = self.features[str(degree)][self.src]
            if degree == 1 and self.vector is not None:
                before, one, after = sent.tensor_split((self.channel, self.channel + 1), dim=1)
                sent = torch.cat([before, one + self.vector[:, None].to(sent.dtype), after], dim=1)
            self._sent[degree] = sent
        return self._sent[degree]

    def aligned(self, degree: int) -> tuple[Tensor, Tensor]:
        """What is sent in one degree, in the frame of the edge, ready to be mixed.

        Returns:
            order 0, ``[edges, channels, 1]``, and orders m = 1 .. degree, ``[m, edges, 2 channels, 2]``: with
            :math:`f_{\\pm m}` of every channel, first the rows :math:`(f_m, f_{-m})`, then :math:`(f_{-m}, -f_m)`.
        """
        if degree not in self._aligned:
            turned = self.sent(degree) @ self.basis.frames[degree].mT
            positive = turned[..., degree + 1 :].permute(2, 0, 1)
            negative = turned[..., :degree].flip(-1).permute(2, 0, 1)
            rows = torch.cat([torch.stack([positive, negative], -1), torch.stack([negative, -positive], -1)], dim=2)
            self._aligned[degree] = turned[..., degree : degree + 1], rows
        return self._aligned[degree]

    def check_basis(self, fiber_in: Fiber, fiber_out: Fiber) -> None:
        """Refuse a basis that lacks a pair of degrees, or that is of another graph.

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
