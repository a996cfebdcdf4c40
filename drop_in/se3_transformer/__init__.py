"""NVIDIA's SE3Transformer package by its module names: everything in it is ``equivariant_attention.nvidia``."""

import sys

from equivariant_attention.nvidia.drop_in import fill

fill(sys.modules[__name__])
