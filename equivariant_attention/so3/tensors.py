"""Symmetric 3x3 tensors as features of degrees 0 and 2, and back."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checks import check_alike, check_trailing
from ..precision import full_precision
from ..so3.constants import constant
from ..so3.couplings import real_clebsch_gordan

_ASYMMETRY = 1e-4  # of the largest entry: more than rounding in float32


def symmetric_tensor_to_features(tensor: Tensor) -> dict[str, Tensor]:
    r"""A symmetric tensor as its trace (degree 0) and its five traceless components (degree 2).

    .. math:: T = \sum_{l \in \{0, 2\}} \sum_m f^l_m E^l_m, \qquad
              \langle E^l_m, E^{l'}_{m'} \rangle = \delta_{ll'} \delta_{mm'}

    Turned as :math:`R T R^T`, the tensor has features :math:`D^l(R) f^l`. Norms are kept, :math:`|T|^2 = |f^0|^2 +
    |f^2|^2`, and :math:`f^0 = \mathrm{tr} T / \sqrt 3`. The tensor :math:`v v^T` of a unit vector has
    :math:`f^2 = \sqrt{8 \pi / 15} \; Y_2(v)`.

    Args:
        tensor: ``[..., 3, 3]``, float32 or float64, symmetric; gradients flow through.

    Returns:
        ``{'0': [..., 1], '2': [..., 5]}``: of tensors ``[nodes, channels, 3, 3]`` the features of a layer.

    Raises:
        TypeError: ``tensor`` is not of float32 or float64.
        ValueError: it has another shape, is not finite, or is not symmetric to 1e-4 of its largest entry.
    """
    check_trailing(tensor, (3, 3), "tensor")
    value = tensor.detach()
    asymmetry = (value - value.mT).abs().amax((-2, -1))
    if not (asymmetry <= _ASYMMETRY * value.abs().amax((-2, -1))).all():
        raise ValueError(f"tensor must be finite and symmetric, got a difference of {float(asymmetry.max()):.1e}")
    with full_precision(tensor.device):
        return {
            str(l): torch.einsum("...ij,ijm->...m", tensor, _orthonormal(l, tensor.dtype, tensor.device))
            for l in (0, 2)
        }


def features_to_symmetric_tensor(features: Mapping[str, Tensor]) -> Tensor:
    """The symmetric tensor with these features: the inverse of :func:`symmetric_tensor_to_features`.

    Args:
        features: ``{'0': [..., 1], '2': [..., 5]}``; other degrees are not looked at.

    Returns:
        ``[..., 3, 3]``; gradients flow through.

    Raises:
        TypeError: a degree is not of float32 or float64, or they differ in that.
        ValueError: a degree is missing, has another shape, or is on another device than the other.
    """
    if missing := {"0", "2"} - set(features):
        raise ValueError(f"features must have the degrees '0' and '2', got none of degree {min(missing)}")
    scalar, traceless = features["0"], features["2"]
    check_trailing(scalar, (1,), "features['0']")
    check_trailing(traceless, (5,), "features['2']")
    check_alike(traceless, "features['2']", scalar, "features['0']")
    if scalar.shape[:-1] != traceless.shape[:-1]:
        got = f"{list(scalar.shape)} and {list(traceless.shape)}"
        raise ValueError(f"features['0'] and features['2'] must have one shape but for the last dimension, got {got}")
    return _expanded(0, scalar) + _expanded(2, traceless)


def _expanded(degree: int, components: Tensor) -> Tensor:
    with full_precision(components.device):
        return torch.einsum("...m,ijm->...ij", components, _orthonormal(degree, components.dtype, components.device))


@constant
def _orthonormal(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal matrices ``[3, 3, 2l+1]`` that turn as degree l does: 3x3 is degree 1 times degree 1."""
    return (2 * degree + 1) ** 0.5 * torch.from_numpy(real_clebsch_gordan(1, 1, degree)).to(device, dtype)
