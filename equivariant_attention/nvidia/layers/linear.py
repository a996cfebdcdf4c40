"""NVIDIA's linear layer."""

from typing import Any

import torch
from torch import nn

from ...checks import check_degrees, check_features, of_fiber
from ...fibers import Features, by_degree
from ...modules.linear import mixed_by_degree
from ...nvidia.fiber import Fiber, plain_fiber
from ...plain_modules import check_hooks


class LinearSE3(nn.Module):
    r"""Mix the channels of each degree: :math:`f^l \leftarrow W^l f^l`.

    Args:
        fiber_in: fiber of the input.
        fiber_out: fiber of the output; its degrees are among those of ``fiber_in``.

    Attributes:
        weights: W of each degree, ``[m_out, m_in]``.

    Raises:
        TypeError, ValueError: a fiber has no channels, or ``fiber_out`` has a degree that ``fiber_in`` lacks.
    """

    def __init__(self, fiber_in: Fiber, fiber_out: Fiber) -> None:
        super().__init__()
        self._plain_in = plain_fiber(fiber_in, "fiber_in")
        check_degrees(self._plain_in, plain_fiber(fiber_out, "fiber_out"))
        self.fiber_in, self.fiber_out = fiber_in, fiber_out
        self.weights = nn.ParameterDict()
        for degree, m_out in zip(fiber_out.degrees, fiber_out.channels, strict=True):
            m_in = fiber_in[degree]
            self.weights[str(degree)] = nn.Parameter(torch.randn(m_out, m_in) / m_in**0.5)

    def forward(self, features: Features, *args: Any, **kwargs) -> Features:
        """Mix the channels.

        Args:
            features: ``{degree: [nodes, m_in, 2 degree + 1]}`` of fiber ``fiber_in``; other degrees are ignored.
            args: not looked at.

        Returns:
            ``{degree: [nodes, m_out, 2 degree + 1]}`` of fiber ``fiber_out``.

        Raises:
            TypeError, ValueError: ``features`` is not of fiber ``fiber_in`` or of the layer's dtype.
        """
        check_hooks(self, "weights")
        features = of_fiber(by_degree(features), self._plain_in)
        check_features(features, self._plain_in, layer=self)
        return mixed_by_degree(self.weights, features)

    def extra_repr(self) -> str:
        return f"fiber_in={self.fiber_in}, fiber_out={self.fiber_out}"
