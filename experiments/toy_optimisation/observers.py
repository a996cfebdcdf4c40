"""What goes on inside a model, seen from outside by hooks: the gradients between its blocks, its attention weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention.modules import GSE3Res
from experiments.toy_optimisation.models import Iterative


class GradientFlow:
    r"""How much gradient enters each block but the first on either of two ways, after every backward pass.

    Block i gets from the blocks before it directions of edges :math:`n`, of which it makes its equivariant basis, and
    features :math:`f`. With the loss L, and with the way of the other held fixed,

    .. math:: \mathrm{basis}_i = \| \partial L / \partial n \|, \qquad
              \mathrm{network}_i = \| \partial L / \partial f \|

    over all edges, nodes, channels and components. (Distances, potentials and relative positions as features reach back
    to the positions as well, and are in neither.)

    Args:
        model: gets the hooks; they act only where gradients are recorded, and change nothing.
    """

    def __init__(self, model: Iterative) -> None:
        self._squares: dict[str, Tensor] = {}
        for i, block in enumerate(model.blocks):
            if i > 0:
                block[0].register_forward_pre_hook(partial(self._watch, i), with_kwargs=True)

    def norms(self) -> dict[str, Tensor]:
        """``'basis_gradient_I'`` (none, if gradients do not flow there) and ``'network_gradient_I'``, a number each."""
        return {name: square.sqrt() for name, square in self._squares.items()}

    def _watch(self, i: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        ways = {f"basis_gradient_{i}": [kwargs["basis"].direction], f"network_gradient_{i}": args[0].values()}
        for name, tensors in ways.items():
            self._squares.pop(name, None)
            for tensor in tensors:
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._add, name))

    def _add(self, name: str, gradient: Tensor) -> None:
        self._squares[name] = self._squares.get(name, 0) + gradient.detach().square().sum()


@torch.no_grad()
def attention_weights(model: Iterative, G: Any) -> list[list[Tensor]]:
    """The attention weights of every layer of every block.

    Args:
        model: moves the points of ``G``.
        G: batch of one graph.

    Returns:
        per block and layer the mean weights over the heads, ``[points, points]``: row i has those with which point i
        attends to the others, which sum to 1. Pairs without an edge have 0.
    """
    n = G.num_nodes()
    found: list[list[Tensor]] = [[] for _ in model.blocks]

    def ask(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "return_attention": True}

    def keep(block: int, layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: tuple) -> Any:
        features, attention = output
        src, dst = kwargs["G"].edges()
        weights = attention.new_zeros(n, n)
        found[block].append(weights.index_put_((dst.long(), src.long()), attention.mean(dim=1)))
        return features

    hooks = []
    for i, block in enumerate(model.blocks):
        for layer in block:
            if isinstance(layer, GSE3Res):
                hooks.append(layer.register_forward_pre_hook(ask, with_kwargs=True))
                hooks.append(layer.register_forward_hook(partial(keep, i), with_kwargs=True))
    try:
        model(G)
    finally:
        for hook in hooks:
            hook.remove()
    return found
