"""Graphs and features that the tests share."""

import torch

from equivariant_attention.contraction import BACKENDS, cpp
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph, as_graph
from equivariant_attention.kernels import launch
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.native.calls import not_built

# 'triton' runs on CUDA, or on a CPU in its interpreter; those in C++ where there is a compiler.
MISSING = {name: bool(not_built(source)) for name, source in cpp.SOURCES.items()}
MISSING["triton"] = bool(launch.missing(torch.device("cpu")))
BACKENDS_HERE = sorted(b for b in BACKENDS if not MISSING.get(b))
SCALARS = Fiber(structure=[(6, 0)])
VECTORS = Fiber(structure=[(2, 1)])
MIXED = Fiber(structure=[(4, 0), (3, 1), (2, 2)])
FULL = Fiber(4, 4)


def random_features(fiber, rows, dtype):
    return {str(d): torch.randn(rows, m, 2 * d + 1, dtype=dtype) for m, d in fiber.structure}


def random_graph(dtype=torch.float64, edge_dim=0, kind="own", sizes=(5, 4, 6)):
    """A batch of random graphs: node 0 of each has no incoming edges, and an edge is repeated."""
    src, dst, first = [], [], 0
    for n in sizes:
        i = torch.arange(n)
        pairs = torch.cartesian_prod(i[1:], i)  # destination, source
        pairs = pairs[(pairs[:, 0] != pairs[:, 1]) & (torch.rand(len(pairs)) < 0.7)]
        pairs = torch.cat([pairs, torch.tensor([[1, 0], [1, 0]])])
        dst.append(first + pairs[:, 0])
        src.append(first + pairs[:, 1])
        first += n
    return build_graph(
        torch.randn(first, 3, dtype=dtype), torch.cat(src), torch.cat(dst), edge_dim, kind, sizes, [len(s) for s in src]
    )


def awkward_graph(dtype=torch.float64, edge_dim=0, kind="own"):
    """Edges along every axis both ways and near them, of length zero, repeated, a self-loop; two isolated nodes."""
    axes = torch.eye(3, dtype=dtype)
    near = axes + 1e-3 * torch.tensor([[0, 1, -1], [1, 0, 1], [-1, 1, 0]], dtype=dtype)
    x = torch.cat([torch.zeros(2, 3, dtype=dtype), axes, -axes, near, -near, torch.ones(2, 3, dtype=dtype)])
    around = list(range(2, 14))
    src = torch.tensor([*around, *[0] * 12, 1, 0, 2, 3])
    dst = torch.tensor([*[0] * 12, *around, 0, 1, 0, 3])
    return build_graph(x, src, dst, edge_dim, kind, (len(x),), (len(src),))


def build_graph(x, src, dst, edge_dim, kind, node_sizes, edge_sizes):
    G = Graph(src, dst, num_nodes=len(x))
    G.set_batch_num_nodes(torch.tensor(node_sizes))
    G.set_batch_num_edges(torch.tensor(edge_sizes))
    G.ndata["x"] = x.unsqueeze(1)
    G.edata["d"] = x[dst] - x[src]
    if edge_dim:
        G.edata["w"] = torch.randn(len(src), edge_dim, dtype=x.dtype)
    return as_kind(G, kind)


def as_kind(G, kind):
    if kind == "dgl":
        return G.to_dgl()
    if kind == "pyg":
        from torch_geometric.data import Batch, Data

        graph_of = torch.repeat_interleave(torch.arange(G.batch_size), G.batch_num_nodes())
        ptr = torch.cat([torch.zeros(1, dtype=torch.int64), G.batch_num_nodes().cumsum(0)])
        kind_of_data = Batch if G.batch_size > 1 else Data
        data = kind_of_data(edge_index=torch.stack(G.edges()), num_nodes=G.num_nodes(), batch=graph_of, ptr=ptr)
        view = as_graph(data)
        view.ndata.update(G.ndata)
        view.edata.update(G.edata)
        return data
    return G


def with_features(G, features):
    """The graph with the features as fields ``h0``, ``h1``, ... of its nodes, and their degrees by name."""
    graph = as_graph(G)
    for degree, value in features.items():
        graph.ndata[f"h{degree}"] = value
    return G, {f"h{degree}": int(degree) for degree in features}


def on_graph(layer, fiber, max_degree=3):
    """The layer as a function of a graph that carries its input features."""

    def model(G):
        basis, r = get_basis_and_r(G, max_degree)
        graph = as_graph(G)
        return layer({str(d): graph.ndata[f"h{d}"] for d in fiber.degrees}, G=G, r=r, basis=basis)

    return model
