"""Ready-made models, which are saved and loaded with their configuration."""

from ..models.nonlinearity import NONLINEARITIES, nonlinearity
from ..models.se3_transformer import SE3Transformer
from ..models.tfn import TFN

__all__ = ["NONLINEARITIES", "TFN", "SE3Transformer", "nonlinearity"]
