"""Mathematics of rotations: spherical harmonics, Wigner matrices, couplings. No graphs and no layers here.

The basis is that of e3nn: degree 1 is ``(x, y, z)`` itself, orders run from -l to l, and the polar axis is y.
"""

from ..so3.couplings import aligned_coupling, coupling
from ..so3.harmonics import spherical_harmonics
from ..so3.tensors import features_to_symmetric_tensor, symmetric_tensor_to_features
from ..so3.wigner import (
    aligning_matrices,
    aligning_rotation,
    random_rotation,
    wigner_d,
    wigner_matrices,
)

__all__ = [
    "aligned_coupling",
    "aligning_matrices",
    "aligning_rotation",
    "coupling",
    "features_to_symmetric_tensor",
    "random_rotation",
    "spherical_harmonics",
    "symmetric_tensor_to_features",
    "wigner_d",
    "wigner_matrices",
]
