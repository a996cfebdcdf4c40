"""The layers, under their published names."""

from equivariant_attention.basis import Basis, get_basis, get_basis_and_r, get_r
from equivariant_attention.modules.attention import GMABSE3
from equivariant_attention.modules.combine import GCat, GSum
from equivariant_attention.modules.convolution import GConvSE3, GConvSE3Partial
from equivariant_attention.modules.gate import GGate
from equivariant_attention.modules.linear import G1x1SE3
from equivariant_attention.modules.norm import GNormBias, GNormSE3
from equivariant_attention.modules.pairwise import PairwiseConv
from equivariant_attention.modules.pooling import GAvgPooling, GMaxPooling
from equivariant_attention.modules.radial import BN, RadialFunc
from equivariant_attention.modules.residual import GSE3Res
from equivariant_attention.modules.self_interaction import GAttentiveSelfInt

__all__ = [
    "BN",
    "GMABSE3",
    "Basis",
    "G1x1SE3",
    "GAttentiveSelfInt",
    "GAvgPooling",
    "GCat",
    "GConvSE3",
    "GConvSE3Partial",
    "GGate",
    "GMaxPooling",
    "GNormBias",
    "GNormSE3",
    "GSE3Res",
    "GSum",
    "PairwiseConv",
    "RadialFunc",
    "get_basis",
    "get_basis_and_r",
    "get_r",
]
