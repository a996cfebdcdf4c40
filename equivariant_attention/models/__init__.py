"""Ready-made models, which are saved and loaded with their configuration."""

from equivariant_attention.models.nonlinearity import NONLINEARITIES, nonlinearity
from equivariant_attention.models.se3_transformer import SE3Transformer
from equivariant_attention.models.tfn import TFN

__all__ = ["NONLINEARITIES", "TFN", "SE3Transformer", "nonlinearity"]
