"""Graph layers that are exactly equivariant to rotations and translations in 3D."""

from . import modules  # with it come the operators that exported programs are made of

__all__ = ["__version__", "modules"]
__version__ = "0.1.0"
