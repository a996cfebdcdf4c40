"""Runs backends that compute one pair of degrees at a time, 'edge' and 'oracle', which call the radial networks.

Each pair is computed block by block of edges, checkpointed (computed again in the backward pass), so that only one
block takes memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..contraction.convolution import Convolution, Ends, Pair
from ..contraction.inputs import Inputs
from ..contraction.memory import memory_for
from ..contraction.radial import is_the_same_again
from ..native.private import is_looked_into
from ..unchanged import version

# From scalars to the radial weights R of a pair, [edges, channels out, channels in, F].
Radial = Callable[[Tensor], Tensor]
Message = Callable[[Any, Radial, Inputs, Ends], Tensor]


def messages(message: Message, convolution: Convolution, networks: Sequence[Any], inputs: Inputs) -> list[Tensor]:
    """All messages along every edge.

    Args:
        message: the backend, for one pair, from degree k to degree l. It takes the radial network, a function from
            scalars to the pair's radial weights, the inputs and the pair's ends, and returns the messages,
            ``[edges, channels, 2l+1]``.
        convolution, networks, inputs: as in :func:`equivariant_attention.contraction.contract`.
    """
    called = _called_once(networks) if len(networks) < len(convolution.pairs) else {}
    found = [
        _by_block(message, networks[pair.network], called.get(pair.network), inputs, pair, ends)
        for pair, ends in zip(convolution.pairs, convolution.ends, strict=True)
    ]
    step = len(convolution.features)
    return [reduce(torch.add, found[i : i + step]) for i in range(0, len(found), step)]


def _called_once(networks: Sequence[Any]) -> dict[int, Radial]:
    """For networks that serve several pairs but may be called only once, functions that cache their output."""
    found: dict[int, Radial] = {}
    for i, network in enumerate(networks):
        if is_looked_into() or not is_the_same_again(network):
            found[i] = _Once(network.radial_weights)
    return found


class _Once:
    """A function that caches its first result, whatever it is called with."""

    def __init__(self, function: Radial) -> None:
        self.function = function
        self.values: list[Tensor] = []

    def __call__(self, scalars: Tensor) -> Tensor:
        if not self.values:
            self.values.append(self.function(scalars))
        return self.values[0]


def _by_block(message: Message, network: Any, once: Radial | None, inputs: Inputs, pair: Pair, ends: Ends) -> Tensor:
    radial = partial(radial_weights, once or network.radial_weights, pair, ends)

    def call(some: Inputs) -> Tensor:
        return message(network, radial, some, ends)

    if once or is_looked_into() or not is_the_same_again(network):
        return call(inputs)  # on all edges at once, whatever memory that takes
    # Elements that an edge takes: its kernel, for every J and summed, and as much again for derivatives.
    k, l = ends.degree_in, ends.degree_out
    numbers = 2 * ends.channels_in * ends.channels_out * (2 * k + 1) * (2 * l + 1) * (ends.num_freq + 1)
    size = max(1, memory_for("graph", inputs.src.device) // (4 * numbers))
    W = inputs.basis[f"{k},{l}"]  # formed here, once, rather than in every block
    blocks = [inputs.of(slice(start, start + size)) for start in range(0, len(W), size)]
    if len(blocks) < 2:
        return call(inputs)
    read = [*inputs.features.values(), inputs.src, inputs.scalars, *inputs.on_edges.values(), W, *network.parameters()]
    again = _if_unwritten(call, read)
    return torch.cat([checkpoint(again, block, use_reentrant=False) for block in blocks])


def radial_weights(network: Radial, pair: Pair, ends: Ends, scalars: Tensor) -> Tensor:
    """The radial weights of a pair, ``[edges, channels out, channels in, F]``, by calling its network."""
    R = pair.part(network(scalars), ends)
    return R * R.new_tensor(pair.scales) if pair.scales else R


def _if_unwritten(message: Callable[[Inputs], Tensor], tensors: Sequence[Tensor]) -> Callable[[Inputs], Tensor]:
    """The same function, which raises an error if one of the tensors that it reads was written to in the meantime."""
    before = [version(tensor) for tensor in tensors]

    def checked(inputs: Inputs) -> Tensor:
        if before != [version(tensor) for tensor in tensors]:
            raise RuntimeError("what messages are made from must not be written to before their backward pass")
        return message(inputs)

    return checked
