"""The published models for QM9: one number per molecule."""

from typing import Any

from torch import Tensor, nn

from equivariant_attention.basis import BasisAndR
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import GAvgPooling, GConvSE3, GMaxPooling, GNormSE3, GSE3Res, get_basis_and_r


class SE3Transformer(nn.Module):
    """SE(3)-Transformer: attention layers with norm nonlinearities, a convolution to scalars, pooling, a small network.

    Args:
        num_layers: number of attention layers.
        atom_feature_size: number of scalar features per atom.
        num_channels: channels per degree.
        num_nlayers: accepted and, as published, without effect: the norm nonlinearities have no linear layers.
        num_degrees: degrees 0 to ``num_degrees - 1`` in the middle.
        edge_dim: number of scalar features per edge.
        div: what the channels are divided by for keys and values.
        pooling: 'avg' or 'max', over the atoms of a molecule.
        n_heads: number of attention heads.

    Raises:
        ValueError: ``pooling`` is neither, or the layers refuse the channels (see :class:`GSE3Res`).
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_nlayers: int = 1,
        num_degrees: int = 4,
        edge_dim: int = 4,
        div: float = 4,
        pooling: str = "avg",
        n_heads: int = 1,
        **kwargs,
    ) -> None:
        super().__init__()
        if pooling not in ("avg", "max"):
            raise ValueError(f"pooling must be 'avg' or 'max', got {pooling!r}")
        self.num_degrees = num_degrees
        features = num_degrees * num_channels
        fiber, fiber_mid = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels)
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers.append(GSE3Res(fiber, fiber_mid, edge_dim=edge_dim, div=div, n_heads=n_heads))
            layers.append(GNormSE3(fiber_mid))
            fiber = fiber_mid
        layers.append(GConvSE3(fiber, Fiber(1, features), self_interaction=True, edge_dim=edge_dim))
        layers.append(GAvgPooling() if pooling == "avg" else GMaxPooling())
        self.Gblock = nn.ModuleList(layers)
        self.FCblock = nn.ModuleList([nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1)])

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None) -> Tensor:
        """One number per molecule.

        Args:
            G: molecules with ``ndata['f']`` ``[atoms, atom_feature_size, 1]``, ``edata['d']`` and ``edata['w']``.
            basis_and_r: of ``G`` if they are at hand, from :func:`get_basis_and_r` with a plan made ahead or from a
                :class:`~equivariant_attention.precompute.BasisCache`; None to compute them.

        Returns:
            ``[molecules, 1]``.
        """
        return _forward(G, basis_and_r, self.num_degrees, self.Gblock, self.FCblock)


class TFN(nn.Module):
    """Tensor field network: convolutions with norm nonlinearities, max pooling, a small network.

    Args:
        num_layers: number of convolutions, the last of which makes scalars.
        atom_feature_size: number of scalar features per atom.
        num_channels: channels per degree.
        num_nlayers: linear layers in each norm nonlinearity.
        num_degrees: degrees 0 to ``num_degrees - 1`` in the middle.
        edge_dim: number of scalar features per edge.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_nlayers: int = 1,
        num_degrees: int = 4,
        edge_dim: int = 4,
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        features = num_degrees * num_channels
        fiber, fiber_mid = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels)
        layers: list[nn.Module] = []
        for _ in range(num_layers - 1):
            layers.append(GConvSE3(fiber, fiber_mid, self_interaction=True, edge_dim=edge_dim))
            layers.append(GNormSE3(fiber_mid, num_layers=num_nlayers))
            fiber = fiber_mid
        layers.append(GConvSE3(fiber, Fiber(1, features), self_interaction=True, edge_dim=edge_dim))
        self.block0 = nn.ModuleList(layers)
        self.block1 = nn.ModuleList([GMaxPooling()])
        self.block2 = nn.ModuleList([nn.Linear(features, features), nn.ReLU(), nn.Linear(features, 1)])

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None) -> Tensor:
        """One number per molecule, ``[molecules, 1]``; arguments as of :class:`SE3Transformer`."""
        return _forward(G, basis_and_r, self.num_degrees, [*self.block0, *self.block1], self.block2)


def _forward(G: Any, basis_and_r: BasisAndR | None, num_degrees: int, equivariant: Any, head: Any) -> Tensor:
    G = as_graph(G)
    basis, r = basis_and_r or get_basis_and_r(G, num_degrees - 1)
    h = {"0": G.ndata["f"]}
    for layer in equivariant:
        h = layer(h, G=G, r=r, basis=basis)
    for layer in head:
        h = layer(h)
    return h
