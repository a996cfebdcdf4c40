"""NVIDIA's layers."""

from ...nvidia.layers.attention import AttentionBlockSE3, AttentionSE3
from ...nvidia.layers.convolution import ConvSE3
from ...nvidia.layers.linear import LinearSE3
from ...nvidia.layers.norm import NormSE3
from ...nvidia.layers.pooling import GPooling
from ...nvidia.layers.radial import RadialProfile, VersatileConvSE3

__all__ = [
    "AttentionBlockSE3",
    "AttentionSE3",
    "ConvSE3",
    "GPooling",
    "LinearSE3",
    "NormSE3",
    "RadialProfile",
    "VersatileConvSE3",
]
