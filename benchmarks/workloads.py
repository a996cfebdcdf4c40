"""What is measured: models and graphs of fixed sizes, with random positions, features and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from equivariant_attention.fibers import Features, Fiber
from equivariant_attention.graphs import Graph, batch
from equivariant_attention.models import SE3Transformer
from equivariant_attention.modules import GAvgPooling, GConvSE3, GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.neighbors import fully_connected_graph, knn_graph
from equivariant_attention.nvidia import Fiber as NvidiaFiber
from equivariant_attention.nvidia import SE3Transformer as NvidiaTransformer
from experiments.nbody import models as nbody_models
from experiments.qm9 import models as qm9_models

ATOMS, ATOM_FEATURES = 18, 6
BODIES = 5
RESIDUE_SCALARS = 32  # of an edge
NEIGHBOURS = 16
TINY_CLOUD = 8  # points
FORWARD, TRAINING, BASIS = "forward", "forward+backward", "basis"
FORCES, FORCES_TRAINED = "forces evaluated", "forces trained"

# From whether to build it tiny (for tests, and to warm up) to a model, which has num_degrees, and the graph it reads.
Build = Callable[[bool], tuple[nn.Module, Graph]]


@dataclass(frozen=True)
class Goal:
    """What a training step is to cost on a CPU.

    Attributes:
        seconds: at 150 GFLOP/s in matrix products.
        bytes: of memory, above the model and the graph; None where that has no goal.
    """

    seconds: float
    bytes: float | None = None


@dataclass(frozen=True)
class Nvidia:
    """How a training step is to compare to one of NVIDIA's package on a CPU.

    Attributes:
        seconds: what NVIDIA's package was measured to take, at 240 GFLOP/s in matrix products.
        times: how many times as fast this library is to be.
    """

    seconds: float
    times: float


@dataclass(frozen=True)
class Workload:
    """One or several cases of one kind.

    Attributes:
        about: what it is, in one line.
        cases: what builds each of them, by its name.
        goal: for a training step, if there is one.
        nvidia: how it is to compare to NVIDIA's package, if that was measured.
        target: another goal, in words.
        modes: what is done with a case, see :func:`benchmarks.steps.make_step`.
    """

    about: str
    cases: Mapping[str, Build]
    goal: Goal | None = None
    nvidia: Nvidia | None = None
    target: str = ""
    modes: Sequence[str] = (FORWARD, TRAINING)


class Layers(nn.Module):
    """Layers one after the other, on features that the graph carries as ``ndata['h0']``, ``ndata['h1']``, ...

    Args:
        fiber: of these features.
        num_degrees: of all layers.
        layers: as many as there are.
        compute_gradients: whether the basis is differentiated too, as forces need it.
    """

    def __init__(self, fiber: Fiber, num_degrees: int, *layers: nn.Module, compute_gradients: bool = False) -> None:
        super().__init__()
        self.fiber, self.num_degrees, self.compute_gradients = fiber, num_degrees, compute_gradients
        self.layers = nn.ModuleList(layers)

    def forward(self, G: Graph) -> Features | Tensor:
        """What the last layer gives."""
        basis, r = get_basis_and_r(G, self.num_degrees - 1, compute_gradients=self.compute_gradients)
        h = {str(degree): G.ndata[f"h{degree}"] for degree in self.fiber.degrees}
        for layer in self.layers:
            h = layer(h, G=G, r=r, basis=basis)
        return h


class NvidiasLayers(nn.Module):
    """A network of NVIDIA's dialect, on features that the graph carries as for :class:`Layers`, and ``edata['w']``."""

    def __init__(self, network: NvidiaTransformer) -> None:
        super().__init__()
        self.network, self.num_degrees = network, network.max_degree + 1

    def forward(self, G: Graph) -> Features | Tensor:
        """What the network gives."""
        node = {str(degree): G.ndata[f"h{degree}"] for degree in self.network.fiber_in.degrees}
        return self.network(G, node, {"0": G.edata["w"].unsqueeze(-1)})


def qm9_bonded(
    tiny: bool, num_channels: int = 32, num_layers: int = 7, num_degrees: int = 4, molecules: int = 32
) -> tuple[nn.Module, Graph]:
    """Molecules with an edge each way along every bond: a random tree and one bond more, which closes a ring."""
    graph = batch([_molecule() for _ in range(1 if tiny else molecules)])
    return _qm9(graph, 4, num_channels, 1 if tiny else num_layers, num_degrees)


def qm9_dense(
    tiny: bool, num_channels: int = 32, num_layers: int = 7, num_degrees: int = 4, molecules: int = 32
) -> tuple[nn.Module, Graph]:
    """Molecules with an edge each way between every two atoms."""
    graph = _fully_connected(1 if tiny else molecules, ATOMS)
    return _qm9(graph, 5, num_channels, 1 if tiny else num_layers, num_degrees)


def nbody(tiny: bool) -> tuple[nn.Module, Graph]:
    """Charged particles, an edge each way between every two of a system."""
    graph = _fully_connected(1 if tiny else 128, BODIES)
    nodes, (src, dst) = graph.num_nodes(), graph.edges()
    charge = torch.randint(2, (nodes, 1)) * 2.0 - 1
    graph.ndata["v"] = torch.randn(nodes, 1, 3)
    graph.edata["w"] = charge[src] * charge[dst]
    model = nbody_models.SE3Transformer(
        num_layers=1 if tiny else 4, num_channels=8, num_degrees=4, div=4, n_heads=2, si_e="att", x_ij="add"
    )
    return model, graph


def cloud(tiny: bool) -> tuple[nn.Module, Graph]:
    """Attention layers, each a quarter as wide inside (div=4, as published), with norm nonlinearities between."""
    one, middle = Fiber(1, 1), Fiber(4, 16)
    layers: list[nn.Module] = [GSE3Res(one, middle, div=4, n_heads=4)]
    for _ in range(1 if tiny else 3):
        layers += [GNormSE3(middle), GSE3Res(middle, middle, div=4, n_heads=4)]
    return Layers(one, 4, *layers), _cloud(TINY_CLOUD if tiny else 1024, one)


def scale(tiny: bool, points: int) -> tuple[nn.Module, Graph]:
    """One attention layer on a cloud of so many points."""
    fiber = Fiber(4, 32)
    return Layers(fiber, 4, GSE3Res(fiber, fiber, div=2, n_heads=8)), _cloud(TINY_CLOUD if tiny else points, fiber)


def connected(tiny: bool, atoms: int, num_channels: int, mutual: bool) -> tuple[nn.Module, Graph]:
    """One attention layer on about 10,000 edges of fully connected graphs, their features alike both ways or not."""
    fiber = Fiber(4, num_channels)
    atoms, graphs = (TINY_CLOUD, 1) if tiny else (atoms, round(10_000 / (atoms * (atoms - 1))))
    graph = _fully_connected(graphs, atoms)
    nodes, (src, dst) = graph.num_nodes(), graph.edges()
    ends = (torch.minimum(src, dst), torch.maximum(src, dst)) if mutual else (src, dst)
    graph.edata["w"] = torch.randn(nodes, nodes, 4)[ends]
    _draw_features(graph, fiber)
    return Layers(fiber, 4, GSE3Res(fiber, fiber, edge_dim=4, div=2, n_heads=4)), graph


def degree(tiny: bool, max_degree: int) -> tuple[nn.Module, Graph]:
    """One convolution between all degrees up to the largest."""
    fiber = Fiber(max_degree + 1, 16)
    return Layers(fiber, max_degree + 1, GConvSE3(fiber, fiber)), _cloud(TINY_CLOUD if tiny else 1024, fiber)


def forces(tiny: bool) -> tuple[nn.Module, Graph]:
    """The energies of molecules, means over their atoms, with an edge each way between every two of these."""
    fiber, hidden = Fiber(1, 16), Fiber(3, 16)
    graph = _fully_connected(1 if tiny else 8, ATOMS)
    _draw_features(graph, fiber)
    transformer = SE3Transformer(fiber, hidden, Fiber(1, 1), 1 if tiny else 3, n_heads=4)
    return Layers(fiber, 3, *transformer.layers, GAvgPooling("0"), compute_gradients=True), graph


def protein(tiny: bool) -> tuple[nn.Module, Graph]:
    """Residues with their nearest neighbours."""
    graph = knn_graph(torch.randn(TINY_CLOUD if tiny else 256, 3), 64)
    return _residues(graph, 32, 1 if tiny else 2)


def protein_full(tiny: bool, residues: int = 200) -> tuple[nn.Module, Graph]:
    """The main block of RFdiffusion: residues with an edge each way between every two."""
    graph = _fully_connected(1, TINY_CLOUD if tiny else residues)
    return _residues(graph, 8, 1)


def in_nvidias_dialect(tiny: bool, build: Build, **options: bool) -> tuple[nn.Module, Graph]:
    """The network of :func:`protein` or :func:`protein_full` as programs make it that embed NVIDIA's package.

    Args:
        tiny: as of a :data:`Build`.
        build: one of these.
        options: other arguments of the model.
    """
    published, graph = build(tiny)
    attention = [layer for layer in published.modules() if isinstance(layer, GSE3Res)]
    fiber_in = NvidiaFiber({l: m for m, l in attention[0].f_in.structure})
    output, hidden = NvidiaFiber({0: 8, 1: 2}), NvidiaFiber.create(2, 32)
    edges = NvidiaFiber({0: RESIDUE_SCALARS})
    network = NvidiaTransformer(len(attention), fiber_in, hidden, output, 4, 4, edges, **options)
    graph.edata["rel_pos"] = graph.edata["d"]
    return NvidiasLayers(network), graph


def _residues(graph: Graph, num_scalars: int, num_layers: int) -> tuple[nn.Module, Graph]:
    """RFdiffusion's network, of so many scalars and three atoms, and the graph with features that differ both ways."""
    fiber, hidden, output = Fiber({0: num_scalars, 1: 3}), Fiber(2, 32), Fiber({0: 8, 1: 2})
    graph.edata["w"] = torch.randn(graph.num_edges(), RESIDUE_SCALARS)
    _draw_features(graph, fiber)
    transformer = SE3Transformer(fiber, hidden, output, num_layers, n_heads=4, div=4, edge_dim=RESIDUE_SCALARS)
    return Layers(fiber, 2, *transformer.layers), graph


def _qm9(graph: Graph, num_bonds: int, num_channels: int, num_layers: int, num_degrees: int) -> tuple[nn.Module, Graph]:
    """The published model, and the graph with random atoms and kinds of bonds."""
    nodes, (src, dst) = graph.num_nodes(), graph.edges()
    # Looked up by the smaller and the larger end: a bond is of the same kind both ways.
    kinds = torch.randint(num_bonds, (nodes, nodes))[torch.minimum(src, dst), torch.maximum(src, dst)]
    graph.ndata["f"] = torch.randn(nodes, ATOM_FEATURES, 1)
    graph.edata["w"] = nn.functional.one_hot(kinds, num_bonds).float()
    model = qm9_models.SE3Transformer(
        num_layers, ATOM_FEATURES, num_channels, 0, num_degrees, edge_dim=num_bonds, div=2, pooling="max", n_heads=8
    )
    return model, graph


def _fully_connected(graphs: int, points: int) -> Graph:
    """Random points, so many in each graph of a batch, with an edge each way between every two of a graph."""
    return fully_connected_graph(torch.randn(graphs * points, 3), torch.arange(graphs).repeat_interleave(points))


def _molecule() -> Graph:
    bonded = torch.zeros(ATOMS, ATOMS, dtype=torch.bool)
    for atom in range(1, ATOMS):
        bonded[torch.randint(atom, ()), atom] = True
    possible = (~bonded).triu(1).nonzero()
    bonded[tuple(possible[torch.randint(len(possible), ())])] = True
    a, b = bonded.nonzero().T
    graph, x = Graph(torch.cat([a, b]), torch.cat([b, a]), ATOMS), torch.randn(ATOMS, 3)
    src, dst = graph.edges()
    graph.edata["d"] = x[dst] - x[src]
    return graph


def _cloud(points: int, fiber: Fiber) -> Graph:
    """Random points, one in a unit of volume however many there are, and their neighbours; with random features."""
    graph = knn_graph(torch.rand(points, 3) * points ** (1 / 3), NEIGHBOURS)
    _draw_features(graph, fiber)
    return graph


def _draw_features(graph: Graph, fiber: Fiber) -> None:
    for channels, l in fiber.structure:
        graph.ndata[f"h{l}"] = torch.randn(graph.num_nodes(), channels, 2 * l + 1)


WORKLOADS: dict[str, Workload] = {
    "qm9-bonded": Workload(
        "32 molecules of 18 atoms and 36 directed bonds; SE3Transformer of 7 layers, 32 channels, 4 degrees, 8 heads",
        {"32 molecules": qm9_bonded},
        Goal(0.7, 0.4e9),
    ),
    "qm9-dense": Workload(
        "qm9-bonded with all atoms of a molecule connected (9,792 edges)",
        {"32 molecules": qm9_dense},
        Goal(4, 0.9e9),
    ),
    "qm9-dense-16": Workload(
        "qm9-dense with 4 layers and 16 channels",
        {"32 molecules": partial(qm9_dense, num_channels=16, num_layers=4)},
    ),
    "qm9-homo": Workload(
        "qm9-bonded and qm9-dense with the model of `run.py --preset small`: 4 layers, 16 channels, 3 degrees",
        {
            "bonded": partial(qm9_bonded, num_channels=16, num_layers=4, num_degrees=3),
            "dense": partial(qm9_dense, num_channels=16, num_layers=4, num_degrees=3),
        },
    ),
    "nbody": Workload(
        "128 systems of 5 particles, fully connected; SE3Transformer of 4 layers, 8 channels, 4 degrees, 2 heads",
        {"128 systems": nbody},
        Goal(0.12, 0.1e9),
        Nvidia(0.179, 5),
    ),
    "forces": Workload(
        "8 molecules of 18 atoms, fully connected; 3 layers, 16 channels, 3 degrees, 4 heads; energies and forces",
        {"8 molecules": forces},
        target="forces trained at most 4 times the time and 3 times the memory of a step on energies alone",
        modes=(TRAINING, FORCES, FORCES_TRAINED),
    ),
    "protein": Workload(
        "256 residues with 64 neighbours and 32 scalars an edge; 2 layers, 32 channels, 2 degrees, 4 heads, div=4",
        {"256 residues": protein},
        Goal(0.104),
        Nvidia(0.652, 10),
        modes=(TRAINING,),
    ),
    "protein-full": Workload(
        "RFdiffusion's main block: 200 residues, fully connected (39,800 edges); 1 layer, otherwise as protein",
        {"200 residues": protein_full},
        Goal(0.15),
        Nvidia(0.748, 8),
    ),
    "nvidia": Workload(
        "protein and protein-full in NVIDIA's dialect, which RFdiffusion speaks, the latter also of 600 residues",
        {
            "protein": partial(in_nvidias_dialect, build=protein),
            "protein-full": partial(in_nvidias_dialect, build=protein_full),
            "600 residues": partial(in_nvidias_dialect, build=partial(protein_full, residues=600)),
        },
        target="at most 1.1 times the time of these workloads; 600 residues within 1.5 GB forward and 3 GB in training",
    ),
    "cloud": Workload(
        "1,024 points with 16 neighbours; 4 attention layers, 16 channels, 4 degrees, 4 heads",
        {"1,024 points": cloud},
    ),
    "connected": Workload(
        "one attention layer, 4 degrees, 4 heads, on 10,000 edges of fully connected graphs; w alike both ways or not",
        {
            f"{atoms} atoms, {channels} channels{'' if mutual else ', w differs'}": partial(
                connected, atoms=atoms, num_channels=channels, mutual=mutual
            )
            for atoms, channels in ((18, 32), (40, 32), (80, 32), (40, 64), (40, 8))
            for mutual in (True, False)
        },
        target="the default at most 1.25 times as slow as the fastest backend",
        modes=(TRAINING,),
    ),
    "scale": Workload(
        "one attention layer, 32 channels, 4 degrees, 8 heads, on 1,000 to 1,000,000 edges",
        {
            "1k edges": partial(scale, points=63),
            "10k edges": partial(scale, points=625),
            "100k edges": partial(scale, points=6_250),
            "1M edges": partial(scale, points=62_500),
        },
        target="per edge at 1M edges at most 1.3 times the time and memory at 10k; at most 16 GB in all at 1M",
    ),
    "degree": Workload(
        "one convolution, 16 channels, 1,024 points with 16 neighbours, largest degree 1 to 6",
        {f"degree {l}": partial(degree, max_degree=l) for l in range(1, 7)},
    ),
    "basis": Workload(
        "the share of the equivariant basis and the edges' frames in a training step",
        {"qm9-bonded": qm9_bonded, "qm9-dense": qm9_dense},
        target="at most 2 % of a training step",
        modes=(BASIS, TRAINING),
    ),
}
