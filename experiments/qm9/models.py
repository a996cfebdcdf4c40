"""The published models for QM9 and NVIDIA's, of numbers per molecule; which model a run trains."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equivariant_attention import nvidia
from equivariant_attention.basis import BasisAndR
from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import as_graph, graph_of_node, with_edge_fields
from equivariant_attention.models import nonlinearity as named
from equivariant_attention.modules import GAvgPooling, GConvSE3, GMaxPooling, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.segments import segment_sum
from experiments.qm9.config import Config
from experiments.qm9.data import ATOM_FEATURES, Neighbours
from experiments.qm9.scaling import Scaled, ScaledTensor, ScaledTogether
from experiments.qm9.targets import TARGETS
from experiments.qm9.turning import SE3TransformerTensor, SE3TransformerVector


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
            of_atoms = _through(self.of_atoms, scalars["0"].squeeze(-1)).to(G.edata["d"].dtype)
            sums, weights = of_atoms.split(self.sizes, dim=1)
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
    options: dict[str, Any] = {
        "num_layers": config.num_layers,
        "atom_feature_size": ATOM_FEATURES,
        "num_channels": config.num_channels,
        "num_degrees": config.num_degrees,
        "edge_dim": neighbours_of(config).features.number,
        "div": config.div,
        "n_heads": config.head,
        "nonlinearity": config.nonlinearity,
    }
    if target.kind in TURNING:
        net = TURNING[target.kind](**options)
    elif readouts:
        net = SE3TransformerSeveral(**options, readouts=readouts)
    else:
        pooling = "both" if targets > 1 and config.model == "SE3Transformer" else config.pooling
        net = MODELS[config.model](**options, num_nlayers=config.num_nlayers, pooling=pooling, output_dim=targets)
    if target.kind == "tensor":
        model: Scaled = ScaledTensor(net)
    elif targets > 1 or readouts:
        model = ScaledTogether(net, targets, [i for i, readout in enumerate(readouts) if readout == "length"])
    else:
        model = Scaled(net, config.per_atom and target.grows)
    if config.mirror:
        model.parity = -1 if target.kind == "vector" else 1
    return model
