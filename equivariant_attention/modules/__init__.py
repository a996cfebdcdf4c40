"""The layers of SE(3)-Transformers (arXiv 2006.10503) and tensor field networks, under their published names."""

from ..basis import Basis, get_basis, get_basis_and_r, get_r
from ..modules.attention import GMABSE3
from ..modules.combine import GCat, GSum
from ..modules.convolution import GConvSE3, GConvSE3Partial
from ..modules.gate import GGate
from ..modules.linear import G1x1SE3
from ..modules.norm import GNormBias, GNormSE3
from ..modules.pairwise import PairwiseConv
from ..modules.pooling import GAvgPooling, GMaxPooling
from ..modules.radial import BN, RadialFunc
from ..modules.residual import GSE3Res
from ..modules.self_interaction import GAttentiveSelfInt

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
