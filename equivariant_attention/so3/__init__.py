"""Mathematics of rotations: spherical harmonics, Wigner matrices, couplings. No graphs and no layers here.

The basis is that of e3nn: degree 1 is ``(x, y, z)`` itself, orders run from -l to l, and the polar axis is y.
"""

from equivariant_attention.so3.couplings import coupling
from equivariant_attention.so3.harmonics import spherical_harmonics
from equivariant_attention.so3.wigner import random_rotation, wigner_d

__all__ = ["coupling", "random_rotation", "spherical_harmonics", "wigner_d"]
