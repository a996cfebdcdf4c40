"""The SE(3)-Transformer, ready-made."""

from __future__ import annotations

from typing import Any

from ..checks import check_whole_number
from ..fibers import FiberLike
from ..models.base import NodeModel
from ..models.nonlinearity import nonlinearity as named
from ..modules import GConvSE3, GSE3Res


class SE3Transformer(NodeModel):
    r"""SE(3)-Transformer (arXiv 2006.10503): attention layers with norm nonlinearities, then a convolution.

    .. math:: f \leftarrow \mathrm{Norm}(\mathrm{Attention}(f)) \quad \text{num\_layers times}, \qquad
              y_i = \frac{1}{|N_i|} \sum_{j \in N_i} W(x_i - x_j) f_j + S f_i

    The attention is :class:`~equivariant_attention.modules.GSE3Res`, Norm is
    :class:`~equivariant_attention.modules.GNormSE3`, and the convolution
    :class:`~equivariant_attention.modules.GConvSE3` with self-interaction, as in the published model for QM9 up to its
    pooling. A node without incoming edges gets 0, as published.

    >>> model = SE3Transformer({0: 6}, {0: 16, 1: 16, 2: 16}, {0: 1}, pooling="avg", return_type=0)
    >>> output = model(G, {"0": torch.randn(G.num_nodes(), 6, 1)})  # [graphs, 1, 1]

    Args:
        fiber_in: of the input: a Fiber, ``{degree: channels}`` or ``[(channels, degree), ...]``.
        fiber_hidden: between the layers, at least 2 channels of every degree; it shares a degree with ``fiber_in``.
        fiber_out: of the output.
        num_layers: number of attention layers.
        n_heads: number of attention heads; divides the channels of ``fiber_hidden`` after ``div``.
        div: what the channels are divided by for keys and values.
        edge_dim: number of scalar features ``edata['w']`` per edge.
        pooling: over the nodes of each graph: 'avg', of any degree; 'max', of degree 0 alone; None, the nodes' own.
        return_type: the degree whose tensor is returned by itself; None, a dict of all.
        x_ij: what becomes of relative positions in the attention: None, 'cat' or 'add' (see
            :class:`~equivariant_attention.modules.GConvSE3Partial`).
        selfint: the projection after the attention: '1x1' or, attentive, 'att'.
        learnable_skip: whether a '1x1' projection is trained.
        nonlinearity: 'norm', as published; or 'gate', which is smooth however symmetric the input is (see
            :func:`~equivariant_attention.models.nonlinearity`).

    Attributes:
        layers: the layers, in their order.
        max_degree: up to which a basis is needed.

    Raises:
        TypeError, ValueError: an argument has another value, or the layers refuse the channels.
    """

    def __init__(
        self,
        fiber_in: FiberLike,
        fiber_hidden: FiberLike,
        fiber_out: FiberLike,
        num_layers: int = 4,
        *,
        n_heads: int = 1,
        div: float = 2,
        edge_dim: int = 0,
        pooling: str | None = None,
        return_type: int | None = None,
        x_ij: str | None = None,
        selfint: str = "1x1",
        learnable_skip: bool = True,
        nonlinearity: str = "norm",
    ) -> None:
        super().__init__(fiber_in, fiber_hidden, fiber_out, edge_dim, pooling, return_type)
        check_whole_number(num_layers, 1, "num_layers")
        if selfint == "att" and not learnable_skip:
            raise ValueError("learnable_skip has no effect with selfint='att', whose network is trained always")
        self.num_layers, self.n_heads, self.div, self.x_ij = num_layers, n_heads, float(div), x_ij
        self.selfint, self.learnable_skip, self.nonlinearity = selfint, learnable_skip, nonlinearity
        if x_ij == "cat":
            self.max_degree = max(self.max_degree, 1)  # relative positions are a feature of degree 1
        attention: dict[str, Any] = {"div": div, "n_heads": n_heads, "selfint": selfint, "x_ij": x_ij}
        attention["learnable_skip"] = learnable_skip
        nonlinear, fiber = named(nonlinearity), self.fiber_in
        for _ in range(num_layers):
            self.layers.append(GSE3Res(fiber, self.fiber_hidden, edge_dim=edge_dim, **attention))
            self.layers.append(nonlinear(self.fiber_hidden))
            fiber = self.fiber_hidden
        self.layers.append(GConvSE3(fiber, self.fiber_out, self_interaction=True, edge_dim=edge_dim))
