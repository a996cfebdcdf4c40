"""Graph layers that are exactly equivariant to rotations and translations in 3D."""

import sys

if sys.argv[:1] != ["-m"]:  # as while Python looks for a command of this package: help need not wait for PyTorch
    from . import modules  # with it come the operators that exported programs are made of

__all__ = ["__version__", "modules"]
__version__ = "0.1.0"
