"""Gated nonlinearity: smooth everywhere, so it stays equivariant where features nearly vanish by symmetry."""

from __future__ import annotations

import torch
from torch import nn

from ..checks import check_features
from ..fibers import Features, Fiber, by_degree, check_fiber
from ..modules.radial import BN
from ..plain_modules import check_hooks
from ..precision import full_precision
from ..printing import OneLine


class GGate(OneLine):
    r"""Gated nonlinearity: each channel is multiplied by a learnt function of all invariants of its node.

    .. math:: f^l_c \leftarrow \frac{\mathrm{MLP}(s)^l_c}{\sqrt{1 + |f^l_c|^2}} \; f^l_c, \qquad
              s^0_c = f^0_c, \quad s^l_c = \sqrt{1 + |f^l_c|^2} - 1

    The MLP is LayerNorm, Linear, SiLU, Linear. It sees the scalars and the (smoothed) norms of all channels of all
    degrees. A feature with a norm far above 1 is rescaled to the norm that the MLP gives, as by :class:`GNormSE3`. A
    feature that vanishes (by symmetry, say) stays zero, and a small one stays small: neither the value nor a derivative
    jumps anywhere.

    Args:
        fiber: fiber of input and output.

    Raises:
        TypeError: ``fiber`` is not a Fiber.
    """

    def __init__(self, fiber: Fiber) -> None:
        super().__init__()
        check_fiber(fiber, "fiber")
        self.fiber = fiber
        channels = sum(fiber.multiplicities)
        self.net = nn.Sequential(BN(channels), nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, features: Features, **kwargs) -> Features:
        """Scale every channel.

        Args:
            features: of fiber ``fiber``, ``{degree: [nodes, m, 2 degree + 1]}``.

        Returns:
            the same degrees and shapes; a zero feature stays zero.

        Raises:
            TypeError, ValueError: ``features`` is not of the fiber or of the layer's dtype.
        """
        check_hooks(self)
        features = by_degree(features)
        check_features(features, self.fiber, layer=self)
        values = [features[str(degree)] for degree in self.fiber.degrees]
        with full_precision(values[0].device):  # rounding vectors to low precision breaks equivariance
            squares = [v.square().sum(-1) for v in values]
            roots = [(1 + square).sqrt() for square in squares]
            invariants = [
                v.squeeze(-1) if degree == 0 else square / (root + 1)  # root - 1, without cancellation
                for degree, v, square, root in zip(self.fiber.degrees, values, squares, roots, strict=True)
            ]
        gates = self.net(torch.cat(invariants, dim=1)).split(self.fiber.multiplicities, dim=1)
        return {
            degree: (gate.to(v.dtype) / root).unsqueeze(-1) * v
            for degree, gate, root, v in zip(map(str, self.fiber.degrees), gates, roots, values, strict=True)
        }

    def extra_repr(self) -> str:
        return f"fiber={self.fiber}"
