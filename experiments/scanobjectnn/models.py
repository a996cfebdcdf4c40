"""Which class: SE(3)-Transformer and tensor field network, told heights or not, and what they are compared with."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention import models
from equivariant_attention.basis import get_basis_and_r
from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import GAvgPooling, GMaxPooling
from equivariant_attention.plan import Plan


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, between the layers, and of the output.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Equivariant(nn.Module):
    r"""Equivariant layers on relative positions, the maximum over the points, and a small network.

    The input is what the appendix of arXiv 2006.10503 says: edges carry the relative position d as a vector. With
    heights ('+z') they also carry its height as a scalar and its horizontal part as a vector, and points their own
    height: turned about z, an object keeps its logits, and tilted it does not.

    Args:
        kind: a model of :mod:`equivariant_attention.models`.
        height: whether it is told heights.
        num_layers, num_degrees, num_channels: layers; degrees 0 to ``num_degrees - 1``; channels of each.
        num_classes: how many.
        options: further arguments of ``kind``.
    """

    def __init__(
        self,
        kind: type[models.SE3Transformer | models.TFN],
        height: bool,
        num_layers: int,
        num_degrees: int,
        num_channels: int,
        num_classes: int,
        **options: Any,
    ) -> None:
        super().__init__()
        self.height, width = height, num_degrees * num_channels
        fibers = {0: 1 + height}, dict.fromkeys(range(num_degrees), num_channels), {0: width}
        options |= {"fiber_edge": {0: 1, 1: 2} if height else {1: 1}, "pooling": "max", "return_type": 0}
        self.layers = kind(*fibers, num_layers, **options)
        self.head = perceptron(width, width, num_classes)

    def forward(self, G: Any, plan: Plan | None = None) -> Tensor:
        """Logits, ``[graphs, classes]``.

        Args:
            G: graph with ``ndata['x']`` ``[nodes, 1, 3]`` and ``edata['d']`` ``[edges, 3]``.
            plan: of ``G`` if it is at hand, to compute its basis by; None to make it.
        """
        G = as_graph(G)
        x, d = G.ndata["x"], G.edata["d"]
        nodes, edges = {"0": torch.ones_like(x[..., :1])}, {"1": d.unsqueeze(1)}
        if self.height:
            horizontal = torch.cat([d[:, :2], torch.zeros_like(d[:, 2:])], dim=1)
            nodes = {"0": torch.cat([nodes["0"], x[..., 2:]], dim=1)}
            edges = {"0": d[:, 2:].unsqueeze(-1), "1": torch.stack([d, horizontal], dim=1)}
        basis_and_r = get_basis_and_r(G, self.layers.max_degree, plan=plan)
        return self.head(self.layers(G, nodes, basis_and_r, edge_features=edges).squeeze(-1))


class SE3Transformer(Equivariant):
    """An SE(3)-Transformer: attention layers, then a convolution.

    Args:
        div: what the channels are divided by for keys and values.
        n_heads: number of attention heads.
        sizes: as of :class:`Equivariant`.
    """

    def __init__(self, *, div: float, n_heads: int, **sizes: Any) -> None:
        super().__init__(models.SE3Transformer, div=div, n_heads=n_heads, **sizes)


class TFN(Equivariant):
    """A tensor field network: convolutions.

    Args:
        sizes: as of :class:`Equivariant`.
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(models.TFN, **sizes)


class PointNet(nn.Module):
    """The same network for each point, which sees its coordinates, and the maximum over the points (arXiv 1612.00593).

    There is none of PointNet's networks that turn the input.

    Args:
        num_layers, num_channels: linear layers for each point, and their width.
        num_classes: how many.
    """

    def __init__(self, num_layers: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.points = perceptron(3, *[num_channels] * num_layers)
        self.pooling = GMaxPooling()
        self.head = perceptron(num_channels, num_channels, num_classes)

    def forward(self, G: Any, plan: Plan | None = None) -> Tensor:
        """Logits, ``[graphs, classes]``.

        Args:
            G: graph with ``ndata['x']`` ``[nodes, 1, 3]``.
            plan: not looked at.
        """
        x = as_graph(G).ndata["x"].squeeze(1)
        return self.head(self.pooling({"0": self.points(x).unsqueeze(-1)}, G=G))


class HeightSet(nn.Module):
    """A DeepSet (arXiv 1703.06114) of heights: it sees of each point how high it is, and no more.

    Args:
        num_layers, num_channels: linear layers for each point, and their width.
        num_classes: how many.
    """

    def __init__(self, num_layers: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.points = perceptron(1, *[num_channels] * num_layers)
        self.pooling = GAvgPooling("0")
        self.head = perceptron(num_channels, num_channels, num_classes)

    def forward(self, G: Any, plan: Plan | None = None) -> Tensor:
        """Logits, ``[graphs, classes]``.

        Args:
            G: graph with ``ndata['x']`` ``[nodes, 1, 3]``.
            plan: not looked at.
        """
        z = as_graph(G).ndata["x"].squeeze(1)[:, 2:]
        return self.head(self.pooling({"0": self.points(z).unsqueeze(-1)}, G=G))
