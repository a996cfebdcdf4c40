"""Norm nonlinearities, :class:`GNormSE3` and :class:`GNormBias`: they change norms of features and keep directions."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_features, check_makes_module, check_whole_number
from ..contraction import operators_for, runs_in_cpp
from ..fibers import Features, Fiber, by_degree, check_fiber
from ..modules.layer_norm import LayerNorm, layer_norm
from ..modules.radial import BN, made
from ..native import norm
from ..native.operation import split
from ..plain_modules import check_hooks, has_hooks_of_all, is_plain
from ..printing import OneLine

SMALLEST_NORM = 1e-12
# A vector below this fraction of the largest norm of its node is taken for rounding noise. Vectors that vanish by
# symmetry do so only as exactly as positions are symmetric, and files often give six digits. By chance, one vector in
# 10^12 is that short, but one scalar in 10^4: for scalars the limit is lower (_noise).
VANISHING = 2**-13


class GNormSE3(OneLine):
    r"""Norm nonlinearity: :math:`f^l \leftarrow \mathrm{MLP}(|f^l|) \; f^l / |f^l|` (section 3.3 of arXiv 2006.10503).

    The MLP sees the norms of all channels of one degree at once. Norms below 1e-12 are raised to it, and there the
    derivative is defined as 0.

    Unless the MLP maps norm 0 to 0, the published function is discontinuous at f = 0. Where symmetry makes a feature
    zero, such as a vector at the centre of a tetrahedron, rounding leaves a tiny vector in an arbitrary direction, and
    the layer rescales it to a vector of ordinary length. Here norms that are rounding noise count as zero, in value and
    in derivative: norms below ``8 eps`` times the largest norm of their node for degree 0 (``eps`` as of
    ``torch.finfo``), below 1 / 8192 of it for other degrees. So the layer is equivariant at exactly symmetric nodes.
    Elsewhere its relative error of equivariance is rounding error over norm: about 1e-4 in float32 for a vector a
    thousand times shorter than the largest. The jump itself remains, at the threshold; :class:`GGate` has none.

    Args:
        fiber: fiber of input and output.
        nonlin: the nonlinearity: a module class, or one module, which is then shared by all places.
        num_layers: how often (LayerNorm, nonlinearity, Linear) is repeated in the MLP, with a bias in the last Linear
            only; for 0, it is LayerNorm and nonlinearity.

    Raises:
        TypeError: ``fiber`` is not a Fiber, or ``nonlin`` makes no module.
        ValueError: ``num_layers`` is not a whole number of at least 0.
    """

    def __init__(
        self, fiber: Fiber, nonlin: nn.Module | Callable[[], nn.Module] = nn.ReLU, num_layers: int = 0
    ) -> None:
        super().__init__()
        check_fiber(fiber, "fiber")
        check_makes_module(nonlin, "nonlin")
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
        check_hooks(self, "transform")
        features = by_degree(features)
        check_features(features, self.fiber, layer=self)
        degrees, norms = list(self.transform), [] if self.num_layers else _plain_norms(self.transform)
        if norms:
            weights, biases = [n.weight for n in norms], [n.bias for n in norms]
            if (output := normalised(features, degrees, weights, biases, norms[0].eps)) is not None:
                return output
        return with_norms(features, degrees, _each(self.transform.values()))

    def extra_repr(self) -> str:
        return f"fiber={self.fiber}, num_layers={self.num_layers}"


class GNormBias(OneLine):
    r"""Norm nonlinearity with a bias: :math:`f^l \leftarrow \mathrm{ReLU}(|f^l| + b^l) \; f^l / |f^l|`.

    Norms below 1e-12 are raised to it, and there the derivative is defined as 0. The published function is
    discontinuous at f = 0 where a bias is positive. Here norms that are rounding noise count as zero, as for
    :class:`GNormSE3`.

    Args:
        fiber: fiber of input and output.
        nonlin: the nonlinearity, a module class or a module.
        num_layers: has no effect, as published.

    Raises:
        TypeError: ``fiber`` is not a Fiber, or ``nonlin`` makes no module.
        ValueError: ``num_layers`` is not a whole number of at least 0.
    """

    def __init__(
        self, fiber: Fiber, nonlin: nn.Module | Callable[[], nn.Module] = nn.ReLU, num_layers: int = 0
    ) -> None:
        super().__init__()
        check_whole_number(num_layers, 0, "num_layers")
        check_fiber(fiber, "fiber")
        check_makes_module(nonlin, "nonlin")
        self.fiber = fiber
        self.nonlin = made(nonlin)
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
        check_hooks(self, "bias")
        features = by_degree(features)
        check_features(features, self.fiber, layer=self)
        values, biases = [features[degree] for degree in self.bias], list(self.bias.values())
        plain = is_plain(self.nonlin, nn.ReLU) and not has_hooks_of_all()
        if plain and (operators := _operators(values, biases)):
            zero = norm.Zero(SMALLEST_NORM, [_noise(v) for v in values])
            output = operators.biased(zero, self._plain)([*values, *biases])
            return dict(zip(self.bias, output, strict=True))
        functions = [partial(self._biased, bias) for bias in biases]
        return with_norms(features, list(self.bias), _each(functions), keepdim=True)

    def _plain(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        values, biases = split(tensors, 2)
        found = _norms_and_phases(SMALLEST_NORM, values)
        return _products([self._biased(b, n) for b, (n, _) in zip(biases, found, strict=True)], found)

    def _biased(self, bias: Tensor, norm: Tensor) -> Tensor:
        return self.nonlin(norm + bias.unsqueeze(-1))

    def extra_repr(self) -> str:
        return f"fiber={self.fiber}"


def _plain_norms(transform: nn.ModuleDict) -> list[nn.LayerNorm]:
    """The LayerNorms of the MLPs, if each is just LayerNorm and ReLU, without hooks; otherwise an empty list."""
    norms = []
    network: Any
    for network in transform.values():
        modules = list(network._modules.values())
        if not is_plain(network, nn.Sequential) or list(map(type, modules)) != [BN, nn.ReLU]:
            return []
        layer = modules[0].bn
        if not all(map(is_plain, (*modules, layer), (BN, nn.ReLU, LayerNorm))) or layer.weight is None:
            return []
        norms.append(layer)
    same_eps = len({layer.eps for layer in norms}) == 1
    return norms if same_eps and not has_hooks_of_all() else []


def _operators(values: Sequence[Tensor], parameters: Sequence[Tensor]) -> Any:
    """The module with operations in C++ or Triton that can take these tensors; None if only PyTorch can."""
    channels = [v.shape[1] for v in values] * (len(parameters) // len(values))
    fit = [p.numel() for p in parameters] == channels
    return operators_for(norm, [*values, *parameters]) if fit else None


def _norm_network(m: int, nonlin: nn.Module | Callable[[], nn.Module], num_layers: int) -> nn.Sequential:
    if num_layers == 0:
        return nn.Sequential(BN(m), made(nonlin))
    layers: list[nn.Module] = []
    for i in range(num_layers):
        linear = nn.Linear(m, m, bias=i == num_layers - 1)
        nn.init.kaiming_uniform_(linear.weight)
        layers += [BN(m), made(nonlin), linear]
    return nn.Sequential(*layers)


def normalised(
    features: Features,
    degrees: Sequence[str],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: float,
    smallest: float = SMALLEST_NORM,
) -> Features | None:
    """Features rescaled to ReLU(LayerNorm(norms)), in C++ or in Triton; None where neither can run.

    Args:
        features, degrees, smallest: as of :func:`with_norms`.
        weights, biases: parameters of the LayerNorm of each degree, ``[channels]``.
        eps: ``eps`` of all LayerNorms.
    """
    values, parameters = [features[degree] for degree in degrees], [*weights, *biases]
    operators = _operators(values, parameters)
    if not operators:
        return None
    zero = norm.Zero(smallest, [_noise(v) for v in values])
    output = operators.normalised(zero, eps, partial(_normalised, smallest, eps))([*values, *parameters])
    return dict(zip(degrees, output, strict=True))


def _normalised(smallest: float, eps: float, tensors: Sequence[Tensor]) -> list[Tensor]:
    n = len(tensors) // 3
    found = _norms_and_phases(smallest, tensors[:n])
    parts = zip(_shaped(False, found), tensors[n : 2 * n], tensors[2 * n :], strict=True)
    return _products([layer_norm(v, v.shape[1:], w, b, eps).relu() for v, w, b in parts], found)


def with_norms(
    features: Features,
    degrees: Sequence[str],
    change: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    keepdim: bool = False,
    smallest: float = SMALLEST_NORM,
) -> Features:
    """Rescale features to other norms, and keep their directions.

    Args:
        features: ``{degree: [nodes, channels, 2 degree + 1]}``.
        degrees: the degrees that are rescaled and returned.
        change: takes the norms of these degrees, in this order, and returns the new ones: each ``[nodes, channels]``,
            or ``[nodes, channels, 1]`` with ``keepdim``.
        keepdim: whether norms keep a last dimension of 1.
        smallest: norms below it are raised to it, and there the derivative is 0. Norms that are rounding noise count as
            zero, as :class:`GNormSE3` says.

    Returns:
        ``{degree: [nodes, channels, 2 degree + 1]}`` of ``degrees``.
    """
    values = [features[degree] for degree in degrees]
    if runs_in_cpp(norm.SOURCE, values):
        zero = norm.Zero(smallest, [_noise(v) for v in values])
        changed = _changed(change, norm.norms(zero, keepdim, partial(_norms, smallest, keepdim))(values))
        tensors, rescaled = [*values, *changed], partial(_rescaled, smallest)
        output = (norm.rescaled(zero, rescaled) if runs_in_cpp(norm.SOURCE, tensors) else rescaled)(tensors)
    else:
        found = _norms_and_phases(smallest, values)
        output = _products(_changed(change, _shaped(keepdim, found)), found)
    return dict(zip(degrees, output, strict=True))


def _each(functions: Iterable[Callable[[Tensor], Tensor]]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """The function of the norms of all degrees that applies one function to each."""
    return lambda norms: [function(n) for function, n in zip(functions, norms, strict=True)]


def _changed(change: Callable[[Sequence[Tensor]], Sequence[Tensor]], norms: Sequence[Tensor]) -> list[Tensor]:
    """The changed norms, in the dtype of the norms and expanded to their shape: ``change`` may return fewer."""
    changed = [c.to(n.dtype) for c, n in zip(change(norms), norms, strict=True)]
    return [c if c.shape == n.shape else c.expand_as(n) for c, n in zip(changed, norms, strict=True)]


NormsAndPhases = Sequence[tuple[Tensor, Tensor]]  # for each degree, [nodes, channels, 1] and [nodes, channels, 2l+1]


def _norms(smallest: float, keepdim: bool, values: Sequence[Tensor]) -> list[Tensor]:
    return _shaped(keepdim, _norms_and_phases(smallest, values))


def _shaped(keepdim: bool, found: NormsAndPhases) -> list[Tensor]:
    return [n if keepdim else n.squeeze(-1) for n, _ in found]


def _rescaled(smallest: float, tensors: Sequence[Tensor]) -> list[Tensor]:
    values, norms = split(tensors, 2)
    return _products(norms, _norms_and_phases(smallest, values))


def _products(norms: Sequence[Tensor], found: NormsAndPhases) -> list[Tensor]:
    return [n.reshape(*p.shape[:2], 1) * p for n, (_, p) in zip(norms, found, strict=True)]


def _norms_and_phases(smallest: float, values: Sequence[Tensor]) -> NormsAndPhases:
    """The norms of features, and their phases: the features divided by their norms."""
    # float16 would round the smallest norm to 0.
    wide = [v.to(torch.promote_types(v.dtype, torch.float32)) for v in values]
    squares = [v.square().sum(-1, keepdim=True) for v in wide]
    largest = torch.cat([square.detach().amax(1) for square in squares], dim=1).amax(1)[:, None, None]
    found = []
    for value, v, square in zip(values, wide, squares, strict=True):
        is_noise = square < _noise(value) ** 2 * largest
        constant = is_noise | (square < smallest**2)
        # Masked before the root and the quotient, so that all derivatives are finite at zero. The derivative of the
        # phase is set to 0 there: 1 / smallest would multiply gradients in each layer, until they overflow.
        norm = square.masked_fill(constant, smallest**2).sqrt()
        phase = torch.where(constant, v.detach(), v).masked_fill(is_noise, 0) / norm
        found.append((norm.to(value.dtype), phase.to(value.dtype)))
    return found


def _noise(value: Tensor) -> float:
    """The fraction of the largest norm of a node below which a norm of ``value`` is taken for rounding noise."""
    rounding = 8 * torch.finfo(value.dtype).eps
    return rounding if value.shape[-1] == 1 else max(rounding, VANISHING)
