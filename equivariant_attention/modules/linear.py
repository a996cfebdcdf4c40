"""Linear self-interaction: :class:`G1x1SE3`, a linear map of the channels of each degree."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..checks import check_degrees, check_features, of_fiber, with_three_dimensions
from ..contraction import operators_for
from ..fibers import Features, Fiber, by_degree
from ..native import linear
from ..native.operation import split
from ..plain_modules import check_hooks
from ..precision import full_precision
from ..printing import OneLine


class G1x1SE3(OneLine):
    r"""Mix the channels of each degree: :math:`f^l \leftarrow W^l f^l` (section 3.3 of arXiv 2006.10503).

    Args:
        f_in: fiber of the input.
        f_out: fiber of the output; its degrees are among those of ``f_in``.
        learnable: whether the matrices require gradients.

    Raises:
        ValueError: ``f_out`` has a degree that ``f_in`` lacks.
    """

    def __init__(self, f_in: Fiber, f_out: Fiber, learnable: bool = True) -> None:
        super().__init__()
        check_degrees(f_in, f_out)
        self.f_in, self.f_out = f_in, f_out
        self.transform = nn.ParameterDict()
        for m_out, degree in f_out.structure:
            m_in = f_in.dict[degree]
            self.transform[str(degree)] = nn.Parameter(torch.randn(m_out, m_in) / m_in**0.5, requires_grad=learnable)

    def forward(self, features: Features, **kwargs) -> Features:
        """Mix the channels.

        Args:
            features: of fiber ``f_in``, ``{degree: [nodes, m_in, 2 degree + 1]}``; degree 0 may be ``[nodes, m_in]``,
                and other degrees are ignored.

        Returns:
            ``{degree: [nodes, m_out, 2 degree + 1]}`` of fiber ``f_out``.

        Raises:
            TypeError, ValueError: ``features`` is not of fiber ``f_in`` or of the layer's dtype.
        """
        check_hooks(self, "transform")
        features = with_three_dimensions(of_fiber(by_degree(features), self.f_in))
        check_features(features, self.f_in, layer=self)
        return mixed_by_degree(self.transform, features)

    def extra_repr(self) -> str:
        return f"f_in={self.f_in}, f_out={self.f_out}"


def mixed_by_degree(matrices: nn.ParameterDict, features: Features) -> Features:
    """Multiply the channels of each degree by its own matrix, in C++ or on a GPU in Triton where these can run.

    Args:
        matrices: ``{degree: [m_out, m_in]}``.
        features: ``{degree: [nodes, m_in, 2 degree + 1]}``; other degrees than those of the matrices are ignored.

    Returns:
        ``{degree: [nodes, m_out, 2 degree + 1]}``.
    """
    weights, values = [], []
    for degree, W in matrices.items():
        weights.append(W)
        values.append(features[degree].to(W.dtype))
    tensors = [*weights, *values]
    fits = all(W.dim() == 2 and W.shape[1] == v.shape[1] for W, v in zip(weights, values, strict=True))
    operators = operators_for(linear, tensors) if fits else None
    evaluate = operators.linear(_mixed) if operators else _mixed
    return dict(zip(matrices, evaluate(tensors), strict=True))


def mixed_without_joining(matrices: nn.ParameterDict, first: Features, second: Features) -> Features | None:
    """Multiply the concatenated channels of two features by matrices, without a copy of them side by side.

    Args:
        matrices: ``{degree: [m_out, m_first + m_second]}``.
        first: feature with all degrees of the matrices, ``{degree: [nodes, m_first, 2 degree + 1]}``.
        second: feature with some of these degrees, likewise.

    Returns:
        ``{degree: [nodes, m_out, 2 degree + 1]}``; None if only PyTorch can compute it, or the shapes do not fit.
    """
    if not _fit(matrices, first, second):
        return None
    degrees = [degree for degree, _ in matrices.items()]
    tensors = [*matrices.values(), *(first[degree] for degree in degrees), *(second.get(degree) for degree in degrees)]
    operators = operators_for(linear, [v for v in tensors if v is not None])
    return dict(zip(degrees, operators.joined(_joined_and_mixed)(tensors), strict=True)) if operators else None


def _fit(matrices: nn.ParameterDict, first: Features, second: Features) -> bool:
    """Whether both features are on the same nodes, and the matrices have as many columns as both have channels."""
    nodes = next(iter(first.values())).shape[0]
    for degree, W in matrices.items():
        parts = [part[degree] for part in (first, second) if degree in part]
        shapes = [(nodes, v.shape[1], 2 * int(degree) + 1) for v in parts if v.dim() == 3]
        if degree not in first or [tuple(v.shape) for v in parts] != shapes:
            return False
        if W.dim() != 2 or W.shape[1] != sum(v.shape[1] for v in parts):
            return False
    return True


def _joined_and_mixed(tensors: Sequence[Tensor]) -> list[Tensor]:
    weights, values, others = split(tensors, 3)
    joined = (v if o is None else torch.cat([v, o], dim=1) for v, o in zip(values, others, strict=True))
    return [mixed(W, value) for W, value in zip(weights, joined, strict=True)]


def mixed(W: Tensor, value: Tensor) -> Tensor:
    """``W @ value`` in the precision of the matrix, autocast or not: rounding vectors breaks equivariance.

    Args:
        W: ``[..., m_out, m_in]``.
        value: ``[nodes, m_in, 2 degree + 1]``.

    Returns:
        ``[nodes, m_out, 2 degree + 1]``.
    """
    with full_precision(value.device):
        return W @ value.to(W.dtype)


def _mixed(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [mixed(W, value) for W, value in zip(*split(tensors, 2), strict=True)]
