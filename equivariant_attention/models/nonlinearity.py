"""The nonlinearities that ready-made models can have between their layers, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ..fibers import Fiber
from ..modules import GGate, GNormSE3

NONLINEARITIES = ("norm", "gate")


def nonlinearity(name: str, num_layers: int = 0) -> Callable[[Fiber], nn.Module]:
    """What makes the nonlinearity of a fiber.

    Args:
        name: 'norm', the published :class:`~equivariant_attention.modules.GNormSE3`, which jumps where a feature
            vanishes; 'gate', the smooth :class:`~equivariant_attention.modules.GGate`, for models of one's own.
        num_layers: linear layers in the networks of 'norm'; that of 'gate' has two.

    Returns:
        a function from fibers to modules.

    Raises:
        ValueError: ``name`` is neither.
    """
    if name not in NONLINEARITIES:
        raise ValueError(f"nonlinearity must be one of {NONLINEARITIES}, got {name!r}")
    return GGate if name == "gate" else lambda fiber: GNormSE3(fiber, num_layers=num_layers)
