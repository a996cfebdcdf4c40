"""NVIDIA's norm nonlinearity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import check_features, of_fiber
from ...fibers import Features, by_degree
from ...modules.layer_norm import LayerNorm
from ...modules.norm import normalised, with_norms
from ...nvidia.fiber import Fiber, plain_fiber
from ...plain_modules import check_hooks, has_hooks_of_all, is_plain

SMALLEST_NORM = 2**-24


class NormSE3(nn.Module):
    r"""Norm nonlinearity: :math:`f^l \leftarrow \mathrm{ReLU}(\mathrm{LN}(|f^l|)) \; f^l / |f^l|`.

    LN is over the channels of a degree: one GroupNorm, if all degrees have equally many, else a LayerNorm for each.
    Norms below 2^-24 are raised to it. Those that are rounding noise beside the largest of their node count as zero, as
    :class:`~equivariant_attention.modules.GNormSE3` says. For unequal channels the package divides the new norms by
    features and not by norms, which is not equivariant; here, as in its forks, it is as above.

    Args:
        fiber: fiber of input and output.
        nonlinearity: in place of ReLU, a module.

    Attributes:
        group_norm, layer_norms: of these there is one.

    Raises:
        TypeError, ValueError: ``fiber`` is no Fiber, or has no channels.
    """

    NORM_CLAMP = SMALLEST_NORM

    def __init__(self, fiber: Fiber, nonlinearity: nn.Module | None = None) -> None:
        super().__init__()
        self._plain = plain_fiber(fiber, "fiber")
        self.fiber = fiber
        self.nonlinearity = nn.ReLU() if nonlinearity is None else nonlinearity
        self._degrees = [str(degree) for degree in fiber.degrees]
        if len(set(fiber.channels)) == 1:
            self.group_norm = nn.GroupNorm(len(fiber.degrees), sum(fiber.channels))
        else:
            self.layer_norms = nn.ModuleDict({str(degree): LayerNorm(m) for degree, m in fiber})

    def forward(self, features: Features, *args: Any, **kwargs) -> Features:
        """Change the norms and keep the directions.

        Args:
            features: ``{degree: [nodes, channels, 2 degree + 1]}`` of fiber ``fiber``; other degrees are ignored.
            args: not looked at.

        Returns:
            the same degrees and shapes; a zero feature stays zero.

        Raises:
            TypeError, ValueError: ``features`` is not of the fiber or of the layer's dtype.
        """
        check_hooks(self, *({"layer_norms"} & {*self._modules}))
        features = of_fiber(by_degree(features), self._plain)
        check_features(features, self._plain, layer=self)
        if (parameters := self._plain_parameters()) is not None:
            output = normalised(features, self._degrees, *parameters, SMALLEST_NORM)
            if output is not None:
                return output
        return with_norms(features, self._degrees, self._changed, smallest=SMALLEST_NORM)

    def _plain_parameters(self) -> tuple[Sequence[Tensor], Sequence[Tensor], float] | None:
        """Weights and biases by degree, and epsilon, of norms that are just as they are made, before a ReLU."""
        if not is_plain(self.nonlinearity, nn.ReLU) or has_hooks_of_all():
            return None
        if "group_norm" in self._modules:
            norm, m = self.group_norm, self.fiber.channels[0]
            return (norm.weight.split(m), norm.bias.split(m), norm.eps) if is_plain(norm, nn.GroupNorm) else None
        norms: list[Any] = [self.layer_norms[degree] for degree in self._degrees]
        if not all(is_plain(norm, LayerNorm) for norm in norms) or len({norm.eps for norm in norms}) > 1:
            return None
        return [norm.weight for norm in norms], [norm.bias for norm in norms], norms[0].eps

    def _changed(self, norms: Sequence[Tensor]) -> list[Tensor]:
        if "group_norm" in self._modules:
            together = self.nonlinearity(self.group_norm(torch.cat([*norms], dim=1)))
            return list(together.split(self.fiber.channels, dim=1))
        return [self.nonlinearity(self.layer_norms[d](n)) for d, n in zip(self._degrees, norms, strict=True)]

    def extra_repr(self) -> str:
        return f"fiber={self.fiber}"
