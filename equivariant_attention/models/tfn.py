"""The Tensor Field Network, ready-made."""

from __future__ import annotations

from typing import Any

from ..checks import check_whole_number
from ..fibers import FiberLike
from ..models.base import NodeModel
from ..models.nonlinearity import nonlinearity as named
from ..modules import GConvSE3


class TFN(NodeModel):
    r"""Tensor Field Network (arXiv 1802.08219): convolutions with norm nonlinearities between them.

    .. math:: f_i \leftarrow \mathrm{Norm} \Big( \frac{1}{|N_i|} \sum_{j \in N_i} W(x_i - x_j) f_j + S f_i \Big)

    without Norm the last time. The convolutions are :class:`~equivariant_attention.modules.GConvSE3` with
    self-interaction, Norm is :class:`~equivariant_attention.modules.GNormSE3` with one linear layer, as in the
    published model for QM9 up to its pooling. A node without incoming edges gets 0, as published.

    Args:
        fiber_in, fiber_hidden, fiber_out, edge_dim, fiber_edge, pooling, return_type: as of
            :class:`~equivariant_attention.models.SE3Transformer`.
        num_layers: number of convolutions, the last included, at least 2.
        flavor: 'skip', S acts on the node as above; 'TFN', on the mean of the messages.
        nonlinearity: 'norm', as published; or 'gate' (see :func:`~equivariant_attention.models.nonlinearity`).

    Attributes:
        layers, max_degree: as of :class:`~equivariant_attention.models.SE3Transformer`.

    Raises:
        TypeError, ValueError: an argument has another value.
    """

    def __init__(
        self,
        fiber_in: FiberLike,
        fiber_hidden: FiberLike,
        fiber_out: FiberLike,
        num_layers: int = 4,
        *,
        edge_dim: int = 0,
        fiber_edge: FiberLike | None = None,
        pooling: str | None = None,
        return_type: int | None = None,
        flavor: str = "skip",
        nonlinearity: str = "norm",
    ) -> None:
        super().__init__(fiber_in, fiber_hidden, fiber_out, edge_dim, fiber_edge, pooling, return_type)
        check_whole_number(num_layers, 2, "num_layers")
        self.num_layers, self.flavor, self.nonlinearity = num_layers, flavor, nonlinearity
        options: dict[str, Any] = {"self_interaction": True, "edge_dim": edge_dim, "flavor": flavor}
        options["f_edge"] = self.fiber_edge
        nonlinear, fiber = named(nonlinearity, num_layers=1), self.fiber_in
        for _ in range(num_layers - 1):
            self.layers.append(GConvSE3(fiber, self.fiber_hidden, **options))
            self.layers.append(nonlinear(self.fiber_hidden))
            fiber = self.fiber_hidden
        self.layers.append(GConvSE3(fiber, self.fiber_out, **options))
