import pytest
import torch
from torch import nn

from equivariant_attention.contraction import BACKENDS, Inputs, contract, cpp, use_backend
from equivariant_attention.contraction.convolution import Convolution, Pair
from equivariant_attention.contraction.radial import Anatomy
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.native.calls import not_built
from equivariant_attention.neighbors import fully_connected_graph
from tests.cases import MIXED, awkward_graph, random_features
from tests.equivariant_attention.contraction.test_cpp import check_layer, graph

reason = not_built(cpp.SOURCES["cpp-node"])
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)


def edges(src, dst, num_nodes, dtype, edge_dim=2):
    """A graph of these edges, those from a node to itself of length zero."""
    G, x = Graph(src, dst, num_nodes), torch.randn(num_nodes, 3, dtype=dtype)
    src, dst = G.edges()
    G.edata["d"], G.edata["w"] = x[dst] - x[src], torch.randn(len(src), edge_dim, dtype=dtype)
    return G


def check(G, dtype, fiber=MIXED, out=MIXED, edge_dim=2, x_ij="cat"):
    check_layer(GConvSE3Partial(fiber, out, edge_dim=edge_dim, x_ij=x_ij).to(dtype), fiber, G, dtype, "cpp-node")


@pytest.mark.parametrize("leaves", [1, 15, 16, 17, 31, 32, 33, 64, 65, 200])
def test_a_node_of_very_many_edges_beside_one_of_a_single_edge(leaves, dtype):
    check(edges([*[0] * leaves, 1], [*range(1, leaves + 1), 0], leaves + 1, dtype), dtype)


def test_nodes_without_edges_and_without_out_edges(dtype):
    check(edges([3, 3, 7], [5, 7, 3], 12, dtype), dtype)
    check(edges([], [], 4, dtype), dtype)


def test_edges_repeated_and_of_length_zero(dtype):
    check(edges([0, 0, 0, 1, 2, 2, 1], [1, 1, 1, 0, 2, 2, 1], 3, dtype), dtype, x_ij=None)


@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17, 33])
def test_any_number_of_channels(channels, dtype):
    check(graph(4, 50, dtype=dtype), dtype, Fiber(3, channels), Fiber(3, channels), x_ij=None)


@pytest.mark.parametrize("fiber", [Fiber(1, 3), Fiber(structure=[(2, 2)]), Fiber(structure=[(70, 0), (2, 3), (1, 5)])])
def test_any_degrees(fiber, dtype):
    check(graph(4, 40, dtype=dtype), dtype, fiber, MIXED)
    check(graph(4, 40, dtype=dtype), dtype, MIXED, fiber)


@pytest.mark.parametrize("edge_dim", [0, 15, 31, 32, 40, 64])
def test_any_number_of_edge_features(edge_dim, dtype):
    check(graph(5, 40, edge_dim, dtype), dtype, edge_dim=edge_dim)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("num_edges", [1, 40, 700])
def test_any_number_of_edges_and_threads(num_edges, threads, dtype):
    """Where a node is shared by two threads, both make a part of its derivatives."""
    torch.set_num_threads(threads)
    try:
        check(graph(9, num_edges, dtype=dtype), dtype, x_ij="add")
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("memory", [1, 100_000])
def test_few_blocks_at_a_time(memory, dtype):
    with use_backend(None, memory=memory):
        check(graph(9, 300, dtype=dtype), dtype)


class Shared(nn.Module):
    """A radial network that has no LayerNorm and no bias of its last layer, and may serve several pairs."""

    def __init__(self, scalars, rows):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(scalars, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, rows, bias=False)
        )

    forms_kernels = False

    def radial_weights(self, scalars):
        return self.net(scalars)

    def radial_modules(self):
        return self, self.net, *self.net


Shared.anatomy = Anatomy(
    names=("", ".net", *(f".net.{i}" for i in range(5))),
    classes=(Shared, nn.Sequential, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear),
    linears=(2, 4, 6),
    norms=(),
    has_bias=False,
)


def shared(channels_in, out):
    """A convolution of a network for each message, of which every feature has some J, scaled."""
    pairs, rows = [], []
    for number, (l, channels_out) in enumerate(out):
        counts = [2 * min(k, l) + 1 for k in range(3)]
        step = sum(counts)
        for k, F in enumerate(counts):
            scales = tuple(0.5 + J for J in range(F))
            pairs.append(Pair(k, number, number, sum(counts[:k]), channels_in * step, step, scales))
        rows.append(channels_out * channels_in * step)
    features = tuple((k, channels_in) for k in range(3))
    return Convolution(features, out, tuple(pairs), tuple(rows), has_norm=False, has_bias=False)


def test_shared_networks_and_channels_of_edges_alone(dtype):
    """Of degree 1 some channels are of edges alone and some of both, of degree 2 all are of edges alone."""
    G, convolution = awkward_graph(dtype, 2), shared(4, ((0, 3), (1, 2), (2, 3)))
    num_edges, d = G.num_edges(), G.edata["d"].clone().requires_grad_()
    G.edata["d"] = d
    networks = [Shared(3, rows).to(dtype) for rows in convolution.rows]
    features = random_features(Fiber(structure=[(4, 0), (3, 1)]), G.num_nodes(), dtype)
    on_edges = random_features(Fiber(structure=[(2, 1), (4, 2)]), num_edges, dtype)
    leaves = [*features.values(), *on_edges.values(), d, *(p for network in networks for p in network.parameters())]
    for leaf in leaves:
        leaf.requires_grad_()
    found = []
    for backend in ("frame", "cpp-node"):
        basis, r = get_basis_and_r(G, 2, compute_gradients=True)
        scalars = torch.cat([G.edata["w"], r], dim=1)
        inputs = Inputs(features, G.edges()[0], scalars, basis, False, on_edges, {"1": 2, "2": 0})
        messages = contract(convolution, networks, inputs, backend)
        found.append([*messages, *torch.autograd.grad(sum(v.square().sum() for v in messages), leaves)])
    for expected, value in zip(*found, strict=True):
        largest = float(expected.detach().abs().max())
        torch.testing.assert_close(value, expected, rtol=0, atol=largest * (3e-5 if dtype == torch.float32 else 1e-12))


def test_the_same_again():
    """No sum depends on which thread comes first."""
    G, fiber = graph(20, 600, dtype=torch.float32), Fiber(3, 8)
    layer = GSE3Res(fiber, fiber, edge_dim=2, div=2, n_heads=2)
    features = random_features(fiber, 20, torch.float32)
    basis, r = get_basis_and_r(G, 2)
    found = []
    torch.set_num_threads(2)
    try:
        for _ in range(3):
            with use_backend("cpp-node"):
                output = layer(features, G=G, r=r, basis=basis)
            found.append(torch.autograd.grad(sum(v.square().sum() for v in output.values()), [*layer.parameters()]))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def ran_by_default(monkeypatch):
    """The backends that a layer on a dense graph ran in."""
    ran = []
    for name, order in [*BACKENDS.items()]:
        monkeypatch.setitem(BACKENDS, name, lambda *a, name=name, order=order: ran.append(name) or order(*a))
    fiber, G = Fiber(2, 32), fully_connected_graph(torch.randn(40, 3), torch.zeros(40, dtype=torch.int64))
    basis, r = get_basis_and_r(G, 1)
    GConvSE3Partial(fiber, fiber)(random_features(fiber, 40, torch.float32), G=G, r=r, basis=basis)
    return ran


def test_it_is_chosen_where_it_is_faster(monkeypatch):
    assert ran_by_default(monkeypatch) == ["cpp-node"]


def test_edges_come_first_where_it_cannot_be_built(monkeypatch):
    kept = cpp.missing
    monkeypatch.setattr(cpp, "missing", lambda name, *a: "no compiler" if name == "cpp-node" else kept(name, *a))
    assert ran_by_default(monkeypatch) == ["cpp"]
