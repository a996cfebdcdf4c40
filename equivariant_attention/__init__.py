"""Graph layers that are exactly equivariant to rotations and translations in 3D."""

__version__ = "0.1.0"
