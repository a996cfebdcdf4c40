"""How much arithmetic a forward pass asks for, counted from the model's kernels and the graph's edges."""

from __future__ import annotations

import torch
from torch import nn

from equivariant_attention.graphs import Graph
from equivariant_attention.modules import PairwiseConv
from equivariant_attention.modules.radial import HIDDEN


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
    for kernel in (module for module in model.modules() if isinstance(module, PairwiseConv)):
        channels, F = kernel.nc_in * kernel.nc_out, kernel.num_freq
        radial += channels * HIDDEN * F
        mixing += channels * (2 * F - 1)  # one product for order 0, four for every pair of orders +m and -m
    src, dst = graph.edges()
    undirected = len((torch.minimum(src, dst) * graph.num_nodes() + torch.maximum(src, dst)).unique())
    return {
        "radial": radial * graph.num_edges(),
        "radial_shared": radial * undirected,
        "mixing": mixing * graph.num_edges(),
    }
