"""How much arithmetic a forward pass asks for, counted from the model's kernels and the graph's edges."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from equivariant_attention.graphs import Graph
from equivariant_attention.modules import PairwiseConv
from equivariant_attention.modules.radial import HIDDEN
from equivariant_attention.nvidia import ConvSE3


def multiply_adds(model: nn.Module, graph: Graph) -> dict[str, int]:
    """Multiply-adds of all messages of one forward pass.

    Args:
        model: holds the kernels.
        graph: holds the edges.

    Returns:
        ``'radial'``, the last layer of the radial networks on every edge; ``'radial_shared'``, the same where the two
        directions of an undirected edge share it; ``'mixing'``, the product with the features in the edge's frame.
    """
    radial, mixing = 0, 0
    for channels, F in _kernels(model):
        radial += channels * HIDDEN * F
        mixing += channels * (2 * F - 1)  # one product for order 0, four for every pair of orders +m and -m
    src, dst = graph.edges()
    undirected = len((torch.minimum(src, dst) * graph.num_nodes() + torch.maximum(src, dst)).unique())
    return {
        "radial": radial * graph.num_edges(),
        "radial_shared": radial * undirected,
        "mixing": mixing * graph.num_edges(),
    }


def _kernels(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Of every kernel between two degrees: channels in times channels out, and the number of radial functions F."""
    for module in model.modules():
        if isinstance(module, PairwiseConv):
            yield module.nc_in * module.nc_out, module.num_freq
        elif isinstance(module, ConvSE3):
            yield from ((m_in * m_out, 2 * min(k, l) + 1) for k, m_in in module.sent for l, m_out in module.made)
