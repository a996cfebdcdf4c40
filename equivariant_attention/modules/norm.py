"""Nonlinearities that act on the norms of features and keep their directions."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..checks import check_features, check_module_class, check_whole_number
from ..contraction import runs_in_cpp
from ..fibers import Features, Fiber, check_fiber
from ..modules.radial import BN
from ..native import norm
from ..native.operation import halves

SMALLEST_NORM = 1e-12


class GNormSE3(nn.Module):
    r"""Norm nonlinearity: :math:`f^l \leftarrow \mathrm{MLP}(|f^l|) \; f^l / |f^l|` (section 3.3 of arXiv 2006.10503).

    The network sees the norms of all channels of one degree at once. Norms below 1e-12 are raised to it, and there the
    derivative is defined as 0.

    Args:
        fiber: fiber of input and output.
        nonlin: the nonlinearity, a module class.
        num_layers: the network is this many times (LayerNorm, nonlinearity, Linear), with a bias in the last Linear
            only; for 0, LayerNorm and nonlinearity.

    Raises:
        TypeError: ``fiber`` is not a Fiber, or ``nonlin`` makes no module.
        ValueError: ``num_layers`` is not a whole number of at least 0.
    """

    def __init__(self, fiber: Fiber, nonlin: Callable[[], nn.Module] = nn.ReLU, num_layers: int = 0) -> None:
        super().__init__()
        check_fiber(fiber, "fiber")
        check_module_class(nonlin, "nonlin")
        check_whole_number(num_layers, 0, "num_layers")
        self.fiber, self.num_layers = fiber, num_layers
        self.transform = nn.ModuleDict({str(d): _norm_network(m, nonlin, num_layers) for m, d in fiber.structure})

    def forward(self, features: Features, **kwargs) -> Features:
        """Change the norms and keep the directions.

        Args:
            features: of fiber ``fiber``, ``{degree: [nodes, m, 2 degree + 1]}``.

        Returns:
            the same degrees and shapes; a zero feature stays zero.

        Raises:
            TypeError, ValueError: ``features`` is not of the fiber or of the layer's dtype.
        """
        check_features(features, self.fiber, layer=self)
        return _with_norms(features, dict(self.transform.items()))

    def extra_repr(self) -> str:
        return f"fiber={self.fiber}, num_layers={self.num_layers}"


class GNormBias(nn.Module):
    r"""Norm nonlinearity with a bias: :math:`f^l \leftarrow \mathrm{ReLU}(|f^l| + b^l) \; f^l / |f^l|`.

    Norms below 1e-12 are raised to it, and there the derivative is defined as 0.

    Args:
        fiber: fiber of input and output.
        nonlin: the nonlinearity, a module class.

    Raises:
        TypeError: ``fiber`` is not a Fiber, or ``nonlin`` makes no module.
    """

    def __init__(self, fiber: Fiber, nonlin: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        check_fiber(fiber, "fiber")
        check_module_class(nonlin, "nonlin")
        self.fiber = fiber
        self.nonlin = nonlin()
        self.bias = nn.ParameterDict({str(d): nn.Parameter(torch.randn(1, m)) for m, d in fiber.structure})

    def forward(self, features: Features, **kwargs) -> Features:
        """Change the norms and keep the directions.

        Args:
            features: of fiber ``fiber``, ``{degree: [nodes, m, 2 degree + 1]}``.

        Returns:
            the same degrees and shapes; a zero feature stays zero.

        Raises:
            TypeError, ValueError: ``features`` is not of the fiber or of the layer's dtype.
        """
        check_features(features, self.fiber, layer=self)
        return _with_norms(
            features, {degree: partial(self._biased, bias) for degree, bias in self.bias.items()}, keepdim=True
        )

    def _biased(self, bias: Tensor, norm: Tensor) -> Tensor:
        return self.nonlin(norm + bias.unsqueeze(-1))

    def extra_repr(self) -> str:
        return f"fiber={self.fiber}"


def _norm_network(m: int, nonlin: Callable[[], nn.Module], num_layers: int) -> nn.Sequential:
    if num_layers == 0:
        return nn.Sequential(BN(m), nonlin())
    layers: list[nn.Module] = []
    for i in range(num_layers):
        linear = nn.Linear(m, m, bias=i == num_layers - 1)
        nn.init.kaiming_uniform_(linear.weight)
        layers += [BN(m), nonlin(), linear]
    return nn.Sequential(*layers)


def _with_norms(
    features: Features, functions: Mapping[str, Callable[[Tensor], Tensor]], keepdim: bool = False
) -> Features:
    """The features with other norms, which are functions of all norms of a degree.

    These are ``[nodes, channels]``, or ``[nodes, channels, 1]`` with ``keepdim``.
    """
    values = [features[degree] for degree in functions]
    if runs_in_cpp(norm.SOURCE, values):
        norms = norm.norms(SMALLEST_NORM, keepdim, partial(_norms, keepdim))(values)
        changed = [_for_all(f(n), n) for f, n in zip(functions.values(), norms, strict=True)]
        return dict(zip(functions, norm.rescaled(SMALLEST_NORM, _rescaled)([*values, *changed]), strict=True))
    output = {}
    for (degree, function), value in zip(functions.items(), values, strict=True):
        size, phase = _norm_and_phase(value)
        output[degree] = (function(size) if keepdim else function(size.squeeze(-1)).unsqueeze(-1)) * phase
    return output


def _for_all(changed: Tensor, norms: Tensor) -> Tensor:
    """Norms of which one may stand for many, as many as ``norms`` and of their dtype."""
    changed = changed.to(norms.dtype)
    return changed if changed.shape == norms.shape else changed.expand_as(norms)


def _norms(keepdim: bool, values: Sequence[Tensor]) -> list[Tensor]:
    norms = [_norm_and_phase(v)[0] for v in values]
    return norms if keepdim else [n.squeeze(-1) for n in norms]


def _rescaled(tensors: Sequence[Tensor]) -> list[Tensor]:
    values, norms = halves(tensors)
    return [n.reshape(*v.shape[:2], 1) * _norm_and_phase(v)[1] for v, n in zip(values, norms, strict=True)]


def _norm_and_phase(value: Tensor) -> tuple[Tensor, Tensor]:
    wide = value.to(torch.promote_types(value.dtype, torch.float32))  # float16 would round the smallest norm to 0
    square = wide.square().sum(-1, keepdim=True)
    norm = square.clamp_min(SMALLEST_NORM**2).sqrt()  # raised before the root: all derivatives are finite at zero
    # A zero feature (of a node without edges, say) has no direction to change. Its derivative, 1 / SMALLEST_NORM, would
    # grow by that factor from layer to layer until it overflows.
    phase = wide / norm
    phase = torch.where(square < SMALLEST_NORM**2, phase.detach(), phase)
    return norm.to(value.dtype), phase.to(value.dtype)
