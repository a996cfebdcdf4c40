"""Ready-made models, which are saved and loaded with their configuration."""

from ..models.se3_transformer import SE3Transformer
from ..models.tfn import TFN

__all__ = ["TFN", "SE3Transformer"]
