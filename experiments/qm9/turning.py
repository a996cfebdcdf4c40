"""Models of what turns with a molecule: a vector, such as its dipole moment, or a tensor, its polarisability."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from equivariant_attention import models
from equivariant_attention.basis import BasisAndR
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import as_graph, graph_of_node
from equivariant_attention.modules import GAvgPooling, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_sum
from equivariant_attention.so3 import features_to_symmetric_tensor


class SE3TransformerVector(nn.Module):
    r"""SE(3)-Transformer of a vector per molecule, such as the dipole moment.

    .. math:: \frac{1}{N} \sum_i \sum_c \phi_c(s_i) \, v_{ic}

    with the scalars s and the vectors v that :class:`equivariant_attention.models.SE3Transformer` gives for each atom,
    and a small network :math:`\phi` which says how much of each vector counts.

    Args:
        num_layers, atom_feature_size, num_channels, num_degrees: as of
            :class:`~experiments.qm9.models.SE3Transformer`; at least two degrees.
        options: of :class:`equivariant_attention.models.SE3Transformer`.

    Raises:
        ValueError: there is one degree alone, and so no vector, or the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 4,
        **options,
    ) -> None:
        super().__init__()
        if num_degrees < 2:
            raise ValueError(f"num_degrees must be at least 2 for vectors, got {num_degrees}")
        self.num_degrees = num_degrees
        of_atoms = _of_atoms(num_layers, atom_feature_size, num_channels, num_degrees, (0, 1), **options)
        # Kept as a function and by its layers, not as a module: in files of weights these are called Gblock.
        self.of_atoms, self.Gblock = of_atoms.forward, of_atoms.layers
        self.pool = GAvgPooling("1")
        self.weigh = _small_network(num_channels, num_channels)

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """One vector per molecule, ``[molecules, 3]``; arguments as of models of numbers."""
        G = as_graph(G)
        basis_and_r = basis_and_r or get_basis_and_r(G, self.num_degrees - 1, plan=plan)
        h = self.of_atoms(G, {"0": G.ndata["f"]}, basis_and_r)
        weights = self.weigh(h["0"].squeeze(-1))
        vectors = (weights.unsqueeze(-1) * h["1"]).sum(dim=1, keepdim=True)
        return self.pool({"1": vectors}, G=G)["1"].squeeze(1)


class SE3TransformerTensor(nn.Module):
    r"""SE(3)-Transformer of a symmetric 3x3 tensor per molecule, such as the polarisability.

    .. math:: \frac{1}{18} \sum_i \Big( \phi_0(s_i) \, E^0 + \sum_c \phi_c(s_i) \sum_m t_{icm} E^2_m \Big)

    with the scalars s and the features t of degree 2 that :class:`equivariant_attention.models.SE3Transformer` gives
    for each atom, a small network :math:`\phi` of several outputs, and the isotropic and the traceless tensors E of
    :func:`~equivariant_attention.so3.symmetric_tensor_to_features`. Of degree 0 alone there are isotropic ones only.

    Args:
        num_layers, atom_feature_size, num_channels, num_degrees: as of
            :class:`~experiments.qm9.models.SE3Transformer`.
        options: of :class:`equivariant_attention.models.SE3Transformer`.

    Raises:
        ValueError: the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 4,
        **options,
    ) -> None:
        super().__init__()
        degrees = (0, 2) if num_degrees > 1 else (0,)
        self.of_atoms = _of_atoms(num_layers, atom_feature_size, num_channels, num_degrees, degrees, **options)
        self.weigh = _small_network(num_channels, 1 + num_channels)

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """One tensor per molecule, row by row, ``[molecules, 9]``; arguments as of models of numbers."""
        G = as_graph(G)
        basis_and_r = basis_and_r or get_basis_and_r(G, self.of_atoms.max_degree, plan=plan)
        h = self.of_atoms(G, {"0": G.ndata["f"]}, basis_and_r)
        isotropic, weights = self.weigh(h["0"].squeeze(-1)).split([1, h["0"].shape[1]], dim=1)
        traceless = (weights.unsqueeze(-1) * h["2"]).sum(dim=1) if "2" in h else isotropic.new_zeros(len(isotropic), 5)
        of_atoms = torch.cat([isotropic, traceless], dim=1).to(G.edata["d"].dtype)
        total = segment_sum(of_atoms, graph_of_node(G), G.batch_size) / 18
        return features_to_symmetric_tensor({"0": total[:, :1], "2": total[:, 1:]}).flatten(1)


def _of_atoms(
    num_layers: int,
    atom_feature_size: int,
    num_channels: int,
    num_degrees: int,
    degrees: Sequence[int],
    **options,
) -> models.SE3Transformer:
    """The model of the features, of these degrees, of each atom."""
    fibers = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels), dict.fromkeys(degrees, num_channels)
    return models.SE3Transformer(*fibers, num_layers, **options)


def _small_network(num_channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(num_channels, num_channels), nn.SiLU(), nn.Linear(num_channels, outputs))
