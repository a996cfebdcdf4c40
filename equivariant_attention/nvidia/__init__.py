"""NVIDIA's dialect: its SE3Transformer package under its names, with its numbers and checkpoints, on this library.

RFdiffusion, RoseTTAFold2, RoseTTAFold-All-Atom and others embed that package. Everything here is computed by the
layers of this library; nothing needs DGL or CUDA.
"""

from ..nvidia.basis import get_all_clebsch_gordon, get_basis, get_spherical_harmonics, update_basis_with_fused
from ..nvidia.conversion import converted, to_published
from ..nvidia.drop_in import install_as
from ..nvidia.edge_features import get_populated_edge_features
from ..nvidia.fiber import Fiber, FiberEl
from ..nvidia.layers import (
    AttentionBlockSE3,
    AttentionSE3,
    ConvSE3,
    GPooling,
    LinearSE3,
    NormSE3,
    RadialProfile,
    VersatileConvSE3,
)
from ..nvidia.layout import ConvSE3FuseLevel
from ..nvidia.transformer import SE3Transformer, SE3TransformerPooled, Sequential
from ..nvidia.utils import (
    aggregate_residual,
    degree_to_dim,
    get_local_rank,
    seed_everything,
    str2bool,
    to_cuda,
    unfuse_features,
    using_tensor_cores,
)

__all__ = [
    "AttentionBlockSE3",
    "AttentionSE3",
    "ConvSE3",
    "ConvSE3FuseLevel",
    "Fiber",
    "FiberEl",
    "GPooling",
    "LinearSE3",
    "NormSE3",
    "RadialProfile",
    "SE3Transformer",
    "SE3TransformerPooled",
    "Sequential",
    "VersatileConvSE3",
    "aggregate_residual",
    "converted",
    "degree_to_dim",
    "get_all_clebsch_gordon",
    "get_basis",
    "get_local_rank",
    "get_populated_edge_features",
    "get_spherical_harmonics",
    "install_as",
    "seed_everything",
    "str2bool",
    "to_cuda",
    "to_published",
    "unfuse_features",
    "update_basis_with_fused",
    "using_tensor_cores",
]
