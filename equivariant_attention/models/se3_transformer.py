"""The SE(3)-Transformer, ready-made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..basis import BasisAndR
from ..checks import check_whole_number
from ..fibers import Features, Fiber, FiberLike
from ..models.base import NodeModel
from ..models.nonlinearity import nonlinearity as named
from ..models.radial_basis import RadialBasis
from ..modules import GConvSE3, GSE3Res

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class SE3Transformer(NodeModel):
    r"""SE(3)-Transformer (arXiv 2006.10503): attention layers with norm nonlinearities, then a convolution.

    .. math:: f \leftarrow \mathrm{Norm}(\mathrm{Attention}(f)) \quad \text{num\_layers times}, \qquad
              y_i = \frac{1}{|N_i|} \sum_{j \in N_i} W(x_i - x_j) f_j + S f_i

    The attention is :class:`~equivariant_attention.modules.GSE3Res`, Norm is
    :class:`~equivariant_attention.modules.GNormSE3`, and the convolution
    :class:`~equivariant_attention.modules.GConvSE3` with self-interaction, as in the published model for QM9 up to its
    pooling. A node without incoming edges gets 0, as published.

    >>> fibers = {0: 6}, {0: 16, 1: 16, 2: 16}, {0: 1}
    >>> model = SE3Transformer(*fibers, pooling="avg", return_type=0)
    >>> output = model(G, {"0": torch.randn(G.num_nodes(), 6, 1)})  # [graphs, 1, 1]

    Args:
        fiber_in: of the input: a Fiber, ``{degree: channels}`` or ``[(channels, degree), ...]``.
        fiber_hidden: between the layers, at least 2 channels of every degree; it shares a degree with ``fiber_in``.
        fiber_out: of the output.
        num_layers: number of attention layers.
        n_heads: number of attention heads; divides the channels of ``fiber_hidden`` after ``div``.
        div: what the channels are divided by for keys and values.
        edge_dim: number of scalar features ``edata['w']`` per edge.
        fiber_edge: of features of the edges of any degree, which join what their source nodes send (``f_edge`` of
            :class:`~equivariant_attention.modules.GConvSE3Partial`); None for none.
        pooling: over the nodes of each graph: 'avg' (or 'mean') and 'sum', of any degree; 'max', of degree 0 alone;
            None, the nodes' own.
        return_type: the degree whose tensor is returned by itself; None, a dict of all.
        x_ij: what becomes of relative positions in the attention: None, 'cat' or 'add' (see
            :class:`~equivariant_attention.modules.GConvSE3Partial`).
        selfint: the projection after the attention: '1x1' or, attentive, 'att'.
        learnable_skip: whether a '1x1' projection is trained.
        nonlinearity: 'norm', as published; or 'gate', which is smooth however symmetric the input is (see
            :func:`~equivariant_attention.models.nonlinearity`).
        activation: of the radial networks: 'relu', as published; or 'silu', which is smooth, but not run in C++.
        radial_basis: what these networks see beside distance and edge features: None, nothing, as published; or the
            functions 'bessel' or 'gaussian' of the distance, a :class:`~equivariant_attention.models.RadialBasis`.
        num_radial: how many of them.
        cutoff: how far edges reach, for them; None without them.

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
        fiber_edge: FiberLike | None = None,
        pooling: str | None = None,
        return_type: int | None = None,
        x_ij: str | None = None,
        selfint: str = "1x1",
        learnable_skip: bool = True,
        nonlinearity: str = "norm",
        activation: str = "relu",
        radial_basis: str | None = None,
        num_radial: int = 8,
        cutoff: float | None = None,
    ) -> None:
        super().__init__(fiber_in, fiber_hidden, fiber_out, edge_dim, fiber_edge, pooling, return_type)
        self.num_layers, self.n_heads, self.div, self.x_ij = num_layers, n_heads, float(div), x_ij
        self.selfint, self.learnable_skip, self.nonlinearity = selfint, learnable_skip, nonlinearity
        self.activation, self.radial_basis, self.num_radial = activation, radial_basis, num_radial
        self.cutoff = None if cutoff is None else float(cutoff)
        if (radial_basis is None) != (cutoff is None):
            raise ValueError(f"radial_basis and cutoff must be given together, got {radial_basis!r} and {cutoff}")
        if radial_basis is not None and cutoff is not None:
            self.radial = RadialBasis(radial_basis, num_radial, cutoff)
            edge_dim += num_radial
        if x_ij == "cat":
            self.max_degree = max(self.max_degree, 1)  # relative positions are a feature of degree 1
        radial: dict[str, Any] = {"edge_dim": edge_dim, "f_edge": self.fiber_edge, "act_fn": activation_of(activation)}
        options = {"div": div, "n_heads": n_heads, "selfint": selfint, "x_ij": x_ij, "learnable_skip": learnable_skip}
        layers = attention_layers(self.fiber_in, self.fiber_hidden, num_layers, nonlinearity, **radial, **options)
        self.layers.extend([*layers, GConvSE3(self.fiber_hidden, self.fiber_out, self_interaction=True, **radial)])

    def forward(
        self,
        G: Any,
        features: Features,
        basis_and_r: BasisAndR | None = None,
        return_attention: bool = False,
        *,
        edge_features: Features | None = None,
    ) -> Any:
        """Features of the nodes, or of the graphs where there is pooling.

        Args:
            G, features, basis_and_r, edge_features: as of :class:`~equivariant_attention.models.TFN`.
            return_attention: also return the attention weights.

        Returns:
            what :class:`~equivariant_attention.models.TFN` does; and a list of the weights of every attention layer,
            ``[edges, heads]``, if asked for.

        Raises:
            KeyError, TypeError, ValueError: as of :class:`~equivariant_attention.models.TFN`.
        """
        attention: list[Tensor] | None = [] if return_attention else None
        output = self._evaluate(G, features, basis_and_r, edge_features, attention)
        return output if attention is None else (output, attention)


def activation_of(name: str) -> Callable[[], nn.Module]:
    """What makes the activation of a radial network.

    Args:
        name: 'relu' or 'silu'.

    Returns:
        a module class.

    Raises:
        ValueError: ``name`` is neither.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def attention_layers(
    fiber_in: Fiber, fiber: Fiber, num_layers: int, nonlinearity: str, **options: Any
) -> list[nn.Module]:
    """Attention layers, each with a nonlinearity after it.

    Args:
        fiber_in: of the input of the first.
        fiber: of their output.
        num_layers: how many there are.
        nonlinearity: as of :class:`SE3Transformer`.
        options: further arguments of :class:`~equivariant_attention.modules.GSE3Res`.

    Returns:
        the layers, in their order.

    Raises:
        TypeError, ValueError: an argument has another value, or the layers refuse the channels.
    """
    check_whole_number(num_layers, 1, "num_layers")
    if options["selfint"] == "att" and not options["learnable_skip"]:
        raise ValueError("learnable_skip has no effect with selfint='att', whose network is trained always")
    layers: list[nn.Module] = []
    nonlinear = named(nonlinearity)
    for _ in range(num_layers):
        layers += [GSE3Res(fiber_in, fiber, **options), nonlinear(fiber)]
        fiber_in = fiber
    return layers
