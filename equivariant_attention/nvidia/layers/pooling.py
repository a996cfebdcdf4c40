"""NVIDIA's pooling."""

from typing import Any

from torch import Tensor, nn

from ...checks import check_whole_number
from ...fibers import Features
from ...modules.pooling import GAvgPooling, GMaxPooling


class GPooling(nn.Module):
    """Maximum or mean of the features of one degree over the nodes of each graph.

    Args:
        feat_type: the degree.
        pool: 'max', for degree 0 alone, or 'avg'.

    Raises:
        ValueError: an argument has another value.
    """

    def __init__(self, feat_type: int = 0, pool: str = "max") -> None:
        super().__init__()
        check_whole_number(feat_type, 0, "feat_type")
        if pool not in ("max", "avg"):
            raise ValueError(f"pool must be 'max' or 'avg', got {pool!r}")
        if pool == "max" and feat_type != 0:
            raise ValueError(f"pool='max' is for degree 0 alone, the others have no maximum; got degree {feat_type}")
        self.feat_type, self.pool = feat_type, pool

    def forward(self, features: Features, graph: Any, **kwargs) -> Tensor:
        """Pool.

        Args:
            features: ``{degree: [nodes, m, 2 degree + 1]}``; other degrees are not looked at.
            graph: the graph.

        Returns:
            ``[graphs, m]`` for degree 0, else ``[graphs, m, 2 degree + 1]``; 0 for a graph without nodes.

        Raises:
            TypeError, ValueError: the features lack the degree, or are not on the nodes of ``graph``.
        """
        if self.pool == "max":
            return GMaxPooling()(features, G=graph)
        pooled = GAvgPooling(str(self.feat_type))(features, G=graph)
        return pooled if isinstance(pooled, Tensor) else pooled[str(self.feat_type)]

    def extra_repr(self) -> str:
        return f"feat_type={self.feat_type}, pool={self.pool!r}"
