"""The published models for QM9 and NVIDIA's, of numbers per molecule; models of a vector and of a tensor; units."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equivariant_attention import models, nvidia
from equivariant_attention.basis import BasisAndR
from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import as_graph, graph_of_node, with_edge_fields
from equivariant_attention.models import nonlinearity as named
from equivariant_attention.modules import GAvgPooling, GConvSE3, GMaxPooling, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_sum
from equivariant_attention.so3 import features_to_symmetric_tensor
from experiments.qm9.config import Config
from experiments.qm9.data import ATOM_FEATURES, Neighbours
from experiments.qm9.polarizability import isotropic_and_anisotropy
from experiments.qm9.targets import ELEMENTS, TARGETS


class MaxAndSum(nn.Module):
    r"""Maximum of the scalars over the atoms of each molecule beside their sum, :math:`\frac{1}{18} \sum_i f_i^0`.

    A maximum tells what is somewhere in a molecule, as its highest orbital is, and a sum how much there is, as for what
    grows with a molecule. QM9's have 18 atoms on average, so that both are numbers of one size.
    """

    def forward(self, features: Features, G: Any = None, **kwargs) -> Tensor:
        """``[molecules, 2 m]``.

        Args:
            features: ``{'0': [atoms, m, 1]}``.
            G: the molecules.
        """
        total = as_graph(G).batch_num_nodes().unsqueeze(1) / 18 * GAvgPooling()(features, G=G)
        return torch.cat([GMaxPooling()(features, G=G), total], dim=1)


POOLINGS = {"avg": GAvgPooling, "max": GMaxPooling, "both": MaxAndSum}


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
        pooling: 'avg' or 'max', over the atoms of a molecule, or 'both': see :class:`MaxAndSum`.
        n_heads: number of attention heads.
        nonlinearity: 'norm', as published, or 'gate' (see :func:`~equivariant_attention.models.nonlinearity`).
        output_dim: number of targets.

    Raises:
        ValueError: ``pooling`` is another, or the layers refuse the channels (see :class:`GSE3Res`).
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
        nonlinearity: str = "norm",
        output_dim: int = 1,
        **kwargs,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be 'avg', 'max' or 'both', got {pooling!r}")
        self.num_degrees = num_degrees
        features = num_degrees * num_channels
        fiber, fiber_mid = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels)
        nonlinear, layers = named(nonlinearity), list[nn.Module]()
        for _ in range(num_layers):
            layers.append(GSE3Res(fiber, fiber_mid, edge_dim=edge_dim, div=div, n_heads=n_heads))
            layers.append(nonlinear(fiber_mid))
            fiber = fiber_mid
        layers.append(GConvSE3(fiber, Fiber(1, features), self_interaction=True, edge_dim=edge_dim))
        layers.append(POOLINGS[pooling]())
        self.Gblock = nn.ModuleList(layers)
        pooled = 2 * features if pooling == "both" else features
        self.FCblock = nn.ModuleList([nn.Linear(pooled, features), nn.ReLU(), nn.Linear(features, output_dim)])

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """The targets of each molecule.

        Args:
            G: molecules with ``ndata['f']`` ``[atoms, atom_feature_size, 1]``, ``edata['d']`` and ``edata['w']``.
            basis_and_r: of ``G`` if they are at hand, from :func:`get_basis_and_r` with a plan made ahead or from a
                :class:`~equivariant_attention.precompute.BasisCache`; None to compute them.
            plan: of ``G`` if it is at hand, to compute them by; None to make it.

        Returns:
            ``[molecules, output_dim]``.
        """
        return _forward(G, basis_and_r, plan, self.num_degrees, self.Gblock, self.FCblock)


class SE3TransformerSeveral(SE3Transformer):
    r"""SE(3)-Transformer of several numbers per molecule, each read out as what it is.

    With the scalars s and the vectors v of each atom, and a small network :math:`\phi` of the scalars, a target is

    - 'pooled': of the small network after the pooling, as of :class:`SE3Transformer`;
    - 'sum': what the atoms have of it, :math:`\frac{1}{18} \sum_i \phi_t(s_i)`;
    - 'length': :math:`\big| \frac{1}{18} \sum_i \sum_c \phi_{tc}(s_i) \, v_{ic} \big|`, which is 0 where a symmetry
      makes it so.

    Args:
        num_layers, atom_feature_size, num_channels, num_degrees, edge_dim, div, n_heads, nonlinearity: as of
            :class:`SE3Transformer`; with lengths, at least two degrees.
        readouts: of each target.

    Raises:
        ValueError: there are lengths and one degree alone, and so no vector, or the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 4,
        readouts: Sequence[Literal["length", "sum", "pooled"]] = (),
        **options,
    ) -> None:
        counts = Counter(readouts)
        if counts["length"] and num_degrees < 2:
            raise ValueError(f"num_degrees must be at least 2 for lengths of vectors, got {num_degrees}")
        options |= {"pooling": "both", "output_dim": counts["pooled"] or 1}
        super().__init__(num_layers, atom_feature_size, num_channels, num_degrees=num_degrees, **options)
        self.readouts, scalars = tuple(readouts), num_degrees * num_channels
        self.sizes = counts["sum"], num_channels * counts["length"]
        if not counts["pooled"]:
            self.FCblock = nn.ModuleList()
        self.of_atoms = nn.ModuleList()
        if any(self.sizes):
            self.of_atoms.extend([nn.Linear(scalars, scalars), nn.SiLU(), nn.Linear(scalars, sum(self.sizes))])

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """The targets of each molecule, ``[molecules, targets]``; arguments as of :class:`SE3Transformer`."""
        G = as_graph(G)
        basis, r = basis_and_r or get_basis_and_r(G, self.num_degrees - 1, plan=plan)
        *attention, to_scalars, pooling = self.Gblock
        h = _forward(G, (basis, r), plan, self.num_degrees, attention, ())
        scalars = to_scalars(h, G=G, r=r, basis=basis)
        found = dict[str, Tensor]()
        if self.FCblock:
            found["pooled"] = _through(self.FCblock, pooling(scalars, G=G))
        if self.of_atoms:
            sums, weights = _through(self.of_atoms, scalars["0"].squeeze(-1)).split(self.sizes, dim=1)
            owner = graph_of_node(G)
            found["sum"] = segment_sum(sums, owner, G.batch_size) / 18
            if self.sizes[1]:
                vectors = torch.einsum("atc,acm->atm", weights.unflatten(1, (-1, h["1"].shape[1])), h["1"])
                found["length"] = (segment_sum(vectors, owner, G.batch_size) / 18).norm(dim=2)
        columns = {readout: iter(values.unbind(1)) for readout, values in found.items()}
        return torch.stack([next(columns[readout]) for readout in self.readouts], dim=1)


class TFN(nn.Module):
    """Tensor field network: convolutions with norm nonlinearities, max pooling, a small network.

    Args:
        num_layers: number of convolutions, the last of which makes scalars.
        atom_feature_size: number of scalar features per atom.
        num_channels: channels per degree.
        num_nlayers: linear layers in each norm nonlinearity.
        num_degrees: degrees 0 to ``num_degrees - 1`` in the middle.
        edge_dim: number of scalar features per edge.
        nonlinearity, output_dim: as of :class:`SE3Transformer`.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_nlayers: int = 1,
        num_degrees: int = 4,
        edge_dim: int = 4,
        nonlinearity: str = "norm",
        output_dim: int = 1,
        **kwargs,
    ) -> None:
        super().__init__()
        self.num_degrees = num_degrees
        features = num_degrees * num_channels
        fiber, fiber_mid = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels)
        nonlinear, layers = named(nonlinearity, num_nlayers), list[nn.Module]()
        for _ in range(num_layers - 1):
            layers.append(GConvSE3(fiber, fiber_mid, self_interaction=True, edge_dim=edge_dim))
            layers.append(nonlinear(fiber_mid))
            fiber = fiber_mid
        layers.append(GConvSE3(fiber, Fiber(1, features), self_interaction=True, edge_dim=edge_dim))
        self.block0 = nn.ModuleList(layers)
        self.block1 = nn.ModuleList([GMaxPooling()])
        self.block2 = nn.ModuleList([nn.Linear(features, features), nn.ReLU(), nn.Linear(features, output_dim)])

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """The targets of each molecule, ``[molecules, output_dim]``; arguments as of :class:`SE3Transformer`."""
        return _forward(G, basis_and_r, plan, self.num_degrees, [*self.block0, *self.block1], self.block2)


def _forward(
    G: Any, basis_and_r: BasisAndR | None, plan: Plan | None, num_degrees: int, equivariant: Any, head: Any
) -> Tensor:
    G = as_graph(G)
    basis, r = basis_and_r or get_basis_and_r(G, num_degrees - 1, plan=plan)
    h = {"0": G.ndata["f"]}
    for layer in equivariant:
        h = layer(h, G=G, r=r, basis=basis)
    return _through(head, h)


def _through(layers: Iterable[nn.Module], value: Any) -> Any:
    for layer in layers:
        value = layer(value)
    return value


class SE3TransformerVector(nn.Module):
    r"""SE(3)-Transformer of a vector per molecule, such as the dipole moment.

    .. math:: \frac{1}{N} \sum_i \sum_c \phi_c(s_i) \, v_{ic}

    with the scalars s and the vectors v that :class:`equivariant_attention.models.SE3Transformer` gives for each atom,
    and a small network :math:`\phi` which says how much of each vector counts.

    Args:
        num_layers, atom_feature_size, num_channels, num_degrees, edge_dim, div, n_heads, nonlinearity: as of
            :class:`SE3Transformer`; at least two degrees.

    Raises:
        ValueError: there is one degree alone, and so no vector, or the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 4,
        edge_dim: int = 4,
        div: float = 4,
        n_heads: int = 1,
        nonlinearity: str = "norm",
        **kwargs,
    ) -> None:
        super().__init__()
        if num_degrees < 2:
            raise ValueError(f"num_degrees must be at least 2 for vectors, got {num_degrees}")
        self.num_degrees = num_degrees
        fibers = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels), Fiber(2, num_channels)
        options = {"n_heads": n_heads, "div": div, "edge_dim": edge_dim, "nonlinearity": nonlinearity}
        of_atoms = models.SE3Transformer(*fibers, num_layers, **options)
        # Kept as a function and by its layers, not as a module: in files of weights these are called Gblock.
        self.of_atoms, self.Gblock = of_atoms.forward, of_atoms.layers
        self.pool = GAvgPooling("1")
        self.weigh = nn.Sequential(
            nn.Linear(num_channels, num_channels), nn.SiLU(), nn.Linear(num_channels, num_channels)
        )

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """One vector per molecule, ``[molecules, 3]``; arguments as of :class:`SE3Transformer`."""
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
        num_layers, atom_feature_size, num_channels, num_degrees, edge_dim, div, n_heads, nonlinearity: as of
            :class:`SE3Transformer`.

    Raises:
        ValueError: the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 4,
        edge_dim: int = 4,
        div: float = 4,
        n_heads: int = 1,
        nonlinearity: str = "norm",
        **kwargs,
    ) -> None:
        super().__init__()
        degrees = (0, 2) if num_degrees > 1 else (0,)
        fibers = Fiber(1, atom_feature_size), Fiber(num_degrees, num_channels), dict.fromkeys(degrees, num_channels)
        options = {"n_heads": n_heads, "div": div, "edge_dim": edge_dim, "nonlinearity": nonlinearity}
        self.of_atoms = models.SE3Transformer(*fibers, num_layers, **options)
        self.weigh = nn.Sequential(
            nn.Linear(num_channels, num_channels), nn.SiLU(), nn.Linear(num_channels, 1 + num_channels)
        )

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """One tensor per molecule, row by row, ``[molecules, 9]``; arguments as of :class:`SE3Transformer`."""
        G = as_graph(G)
        basis_and_r = basis_and_r or get_basis_and_r(G, self.of_atoms.max_degree, plan=plan)
        h = self.of_atoms(G, {"0": G.ndata["f"]}, basis_and_r)
        isotropic, weights = self.weigh(h["0"].squeeze(-1)).split([1, h["0"].shape[1]], dim=1)
        traceless = (weights.unsqueeze(-1) * h["2"]).sum(dim=1) if "2" in h else isotropic.new_zeros(len(isotropic), 5)
        of_atoms = torch.cat([isotropic, traceless], dim=1).to(G.edata["d"].dtype)
        total = segment_sum(of_atoms, graph_of_node(G), G.batch_size) / 18
        return features_to_symmetric_tensor({"0": total[:, :1], "2": total[:, 1:]}).flatten(1)


class SE3TransformerPooled(nn.Module):
    """NVIDIA's model for QM9, with norm nonlinearities and radial networks that are shared as far as they go.

    Args:
        num_layers, atom_feature_size, num_channels, num_degrees, edge_dim, div, pooling, n_heads: as of
            :class:`SE3Transformer`.
        nonlinearity: 'norm', as in NVIDIA's package.
        output_dim: as of :class:`SE3Transformer`.

    Raises:
        ValueError: ``nonlinearity`` is another, or the layers refuse the channels.
    """

    def __init__(
        self,
        num_layers: int,
        atom_feature_size: int,
        num_channels: int,
        num_degrees: int = 4,
        edge_dim: int = 4,
        div: float = 2,
        pooling: str = "max",
        n_heads: int = 8,
        nonlinearity: str = "norm",
        output_dim: int = 1,
        **kwargs,
    ) -> None:
        super().__init__()
        if nonlinearity != "norm":
            raise ValueError(f"nonlinearity must be 'norm' in NVIDIA's model, got {nonlinearity!r}")
        self.num_degrees, self.output_dim = num_degrees, output_dim
        self.model = nvidia.SE3TransformerPooled(
            fiber_in=nvidia.Fiber({0: atom_feature_size}),
            fiber_out=nvidia.Fiber({0: num_degrees * num_channels}),
            fiber_edge=nvidia.Fiber({0: edge_dim}),
            num_degrees=num_degrees,
            num_channels=num_channels,
            output_dim=output_dim,
            num_layers=num_layers,
            num_heads=n_heads,
            channels_div=div,
            pooling=pooling,
            tensor_cores=True,  # as its recipe runs on a GPU
        )

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """The targets of each molecule, ``[molecules, output_dim]``; arguments as of :class:`SE3Transformer`."""
        G = as_graph(G)
        molecules = with_edge_fields(G, {"rel_pos": G.edata["d"]})
        edges = {"0": G.edata["w"].unsqueeze(-1)}
        basis_and_r = basis_and_r or get_basis_and_r(G, self.num_degrees - 1, plan=plan)
        return self.model(molecules, {"0": G.ndata["f"]}, edges, basis_and_r).reshape(-1, self.output_dim)


class Scaled(nn.Module):
    r"""A network whose outputs come in the unit of the target.

    .. math:: y = \mathrm{mean} + \mathrm{std} \cdot f(G), \qquad \text{per atom:} \quad
              y = \frac{N}{\bar N} \, (\mathrm{mean} + \mathrm{std} \cdot f(G))

    with the number of atoms N of a molecule, and its mean over the training set.

    Args:
        net: f, of one number or vector per molecule.
        per_atom: whether the target grows with the molecule, which a mean over the atoms does not show.

    Attributes:
        mean, std: of what is left for the network to learn, in the unit of the target; 0 and 1 before :meth:`fit`.
        size: mean number of atoms, where it counts.
        parity: if given, what is predicted in evaluation is the mean of a molecule and its mirror image, whose target
            is this, 1 or -1, times that of the molecule. Models of SO(3) tell them from each other.
    """

    parity: int | None = None

    def __init__(self, net: nn.Module, per_atom: bool = False) -> None:
        super().__init__()
        self.net, self.per_atom = net, per_atom
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))
        self.register_buffer("size", torch.ones(()))
        self.register_load_state_dict_pre_hook(_accept_published)

    def fit(self, targets: Tensor, element_counts: Tensor) -> None:
        """Take mean and standard deviation of a training set. Vectors have no mean, which would point somewhere.

        Args:
            targets: ``[molecules, 1]``, or ``[molecules, 3]`` for vectors.
            element_counts: atoms of each element, ``[molecules, elements]``.

        Raises:
            ValueError: all targets are the same.
        """
        if self.per_atom:
            num_atoms = element_counts.sum(dim=1)
            size = num_atoms.double().mean()
            self.size.copy_(size)
            targets = targets * (size / num_atoms).unsqueeze(1)
        if targets.shape[1] == 1:
            self.mean.copy_(targets.mean())
            targets = targets - targets.mean()
        std = targets.square().sum(dim=1).mean().sqrt()
        if not std > 0:
            raise ValueError("targets: expected more than one value to learn from")
        self.std.copy_(std)

    def without_network(self, element_counts: Tensor) -> Tensor:
        """What it predicts where the network gives 0: the mean of the training set, ``[molecules, 1]``.

        Args:
            element_counts: atoms of each element, ``[molecules, elements]``.
        """
        num_atoms = element_counts.sum(dim=1)
        factor = num_atoms / self.size if self.per_atom else torch.ones_like(num_atoms)
        return self.mean * factor.unsqueeze(1)

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """``[molecules, 1]`` or ``[molecules, 3]``, in the unit of the target; arguments as of the network."""
        y = self.mean + self.std * self.of_network(G, basis_and_r, plan)
        if not self.per_atom:
            return y
        return y * (as_graph(G).batch_num_nodes() / self.size).unsqueeze(1)

    def of_network(self, G: Any, basis_and_r: BasisAndR | None, plan: Plan | None) -> Tensor:
        """f, or its mean with that of the mirror images."""
        y = self.net(G, basis_and_r, plan)
        if self.training or self.parity is None:
            return y
        graph = as_graph(G)
        mirrored = with_edge_fields(graph, {**graph.edata, "d": -graph.edata["d"]})
        mirrored.ndata["f"] = graph.ndata["f"]
        return (y + self.parity * self.net(mirrored, plan=plan)) / 2


def linear_in_atoms(element_counts: Tensor, targets: Tensor) -> Tensor:
    """A constant and a contribution of each atom, by its element alone, fitted by least squares.

    Args:
        element_counts: atoms of each element, ``[molecules, elements]``.
        targets: ``[molecules, targets]``.

    Returns:
        ``[1 + elements, targets]``, the constant first.
    """
    ones_and_counts = nn.functional.pad(element_counts.to(targets.dtype), (1, 0), value=1.0)
    # This driver is for any rank: of an element there may be none.
    return torch.linalg.lstsq(ones_and_counts, targets, driver="gelsd").solution


class ScaledTogether(Scaled):
    r"""A network of several numbers per molecule, each in the unit of its target.

    .. math:: y_t = \mathrm{mean}_t + \sum_e n_e w_{et} + \mathrm{std}_t f_t(G)

    with the number :math:`n_e` of atoms of each element, which alone tells most of what grows with a molecule.

    Args:
        net: f, of one number per molecule and target.
        targets: how many.
        lengths: which targets f gives as lengths of vectors: of them, y is std times f, and std that of them whole.

    Attributes:
        mean, per_element: constant and w of a least-squares fit, ``[targets]`` and ``[elements, targets]``.
        std: of what it leaves for the network to learn, ``[targets]``.
    """

    def __init__(self, net: nn.Module, targets: int, lengths: Sequence[int] = ()) -> None:
        super().__init__(net)
        self.register_buffer("lengths", torch.tensor(list(lengths), dtype=torch.int64), persistent=False)
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("per_element", torch.zeros(len(ELEMENTS), targets))
        self.register_buffer("std", torch.ones(targets))

    def fit(self, targets: Tensor, element_counts: Tensor) -> None:
        """Fit what is linear in the atoms to a training set, and take the standard deviation of what is left.

        Args:
            targets: ``[molecules, targets]``.
            element_counts: atoms of each element, ``[molecules, elements]``.

        Raises:
            ValueError: of one target nothing is left.
        """
        fitted = linear_in_atoms(element_counts, targets)
        left = targets - fitted[0] - element_counts.to(targets.dtype) @ fitted[1:]
        left[:, self.lengths] = targets[:, self.lengths]
        std = left.square().mean(dim=0).sqrt()
        if not (std > 1e-6 * targets.abs().amax(dim=0)).all():
            raise ValueError("targets: expected more of each than what is linear in the atoms")
        for buffer, value in ((self.mean, fitted[0]), (self.per_element, fitted[1:]), (self.std, std)):
            buffer.copy_(value)

    def without_network(self, element_counts: Tensor) -> Tensor:
        """What is linear in the atoms, ``[molecules, targets]``.

        Args:
            element_counts: atoms of each element, ``[molecules, elements]``.
        """
        return self.mean + element_counts.to(self.mean.dtype) @ self.per_element

    def forward(self, G: Any, basis_and_r: BasisAndR | None = None, plan: Plan | None = None) -> Tensor:
        """``[molecules, targets]``, each in the unit of its target; arguments as of the network."""
        graph = as_graph(G)
        is_element = graph.ndata["f"][:, : len(ELEMENTS), 0]
        counts = segment_sum(is_element, graph_of_node(graph), graph.batch_size)
        known = self.without_network(counts).index_fill(1, self.lengths, 0)
        return known + self.std * self.of_network(G, basis_and_r, plan)


class ScaledTensor(ScaledTogether):
    r"""A network of one tensor per molecule, in the unit of the target.

    .. math:: T = \big( \mathrm{mean} + \sum_e n_e w_e \big) 1 + \mathrm{std} \cdot f(G)

    Args:
        net: f.

    Attributes:
        mean, per_element: constant and w of a least-squares fit to a third of the trace, ``[1]`` and ``[elements, 1]``.
        std: of what it leaves for the network to learn, by the norm of the tensors, ``[1]``.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, 1)

    def fit(self, targets: Tensor, element_counts: Tensor) -> None:
        """Fit the isotropic part to a training set, and take the standard deviation of what is left.

        Args:
            targets: the tensors that each may have, which all have one trace, ``[molecules, 4, 3, 3]``.
            element_counts: atoms of each element, ``[molecules, elements]``.

        Raises:
            ValueError: nothing is left.
        """
        tensors = targets[:, 0].flatten(1)
        isotropic, _ = isotropic_and_anisotropy(tensors)
        fitted = linear_in_atoms(element_counts, isotropic.unsqueeze(1))
        self.mean.copy_(fitted[0])
        self.per_element.copy_(fitted[1:])
        std = (tensors - self.without_network(element_counts)).square().sum(dim=1).mean().sqrt()
        if not std > 0:
            raise ValueError("targets: expected more of each than what is linear in the atoms")
        self.std.copy_(std)

    def without_network(self, element_counts: Tensor) -> Tensor:
        """What it predicts where the network gives 0: isotropic tensors, ``[molecules, 9]``.

        Args:
            element_counts: atoms of each element, ``[molecules, elements]``.
        """
        one = torch.eye(3, dtype=self.mean.dtype, device=self.mean.device).flatten()
        return super().without_network(element_counts) * one


def _accept_published(module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
    """Let weights of the network alone, as the published code saves them, be those of a Scaled one."""
    own = {f"{prefix}{name}" for name in module.state_dict()}
    if own & state_dict.keys():
        return
    for name in [name for name in state_dict if name.startswith(prefix)]:
        state_dict[f"{prefix}net.{name.removeprefix(prefix)}"] = state_dict.pop(name)
    metadata = getattr(state_dict, "_metadata", {})  # says whose signs the weights have
    for name in [name for name in metadata if name.startswith(prefix)]:
        metadata.setdefault(f"{prefix}net.{name.removeprefix(prefix)}", metadata[name])
    for name, _ in module.named_buffers(recurse=False):
        state_dict[prefix + name] = getattr(module, name)


MODELS = {
    "SE3Transformer": SE3Transformer,
    "TFN": TFN,
    "SE3TransformerPooled": SE3TransformerPooled,
}
TURNING = {"vector": SE3TransformerVector, "tensor": SE3TransformerTensor}


def neighbours_of(config: Config) -> Neighbours:
    """Which atoms the model has edges between.

    Args:
        config: of the run.

    Raises:
        ValueError: they contradict each other.
    """
    return Neighbours(config.fully_connected, config.cutoff, config.envelope, config.edge_features == "extended")


def make_model(config: Config) -> Scaled:
    """The untrained model.

    Args:
        config: of the run.

    Raises:
        ValueError: there is no such model.
    """
    targets, target = len(config.tasks), TARGETS[config.tasks[0]]
    readouts = [TARGETS[task].readout for task in config.tasks] if config.has_own_readouts else []
    if target.kind in TURNING and config.model != "SE3Transformer":
        raise ValueError(f"--task {config.task}: expected --model SE3Transformer, {target.kind}s have no other")
    of_numbers = SE3TransformerSeveral if readouts else MODELS[config.model]
    net = {**TURNING, "number": of_numbers}[target.kind](
        num_layers=config.num_layers,
        atom_feature_size=ATOM_FEATURES,
        num_channels=config.num_channels,
        num_nlayers=config.num_nlayers,
        num_degrees=config.num_degrees,
        edge_dim=neighbours_of(config).features.number,
        div=config.div,
        pooling="both" if readouts or (targets > 1 and config.model == "SE3Transformer") else config.pooling,
        n_heads=config.head,
        nonlinearity=config.nonlinearity,
        output_dim=targets,
        readouts=readouts,
    )
    if target.kind == "tensor":
        model: Scaled = ScaledTensor(net)
    elif targets > 1 or readouts:
        model = ScaledTogether(net, targets, [i for i, readout in enumerate(readouts) if readout == "length"])
    else:
        model = Scaled(net, config.per_atom and target.grows)
    if config.mirror:
        model.parity = -1 if target.kind == "vector" else 1
    return model
