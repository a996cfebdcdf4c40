"""
DGL, PyTorch Geometric and the library's own graphs
===================================================

Layers take any of three kinds of graph, and give the same numbers for the same weights.
The library's own ``Graph`` is always there; `DGL <https://www.dgl.ai>`_ and `PyTorch
Geometric <https://pyg.org>`_ only if you install them. The parts of this page for which
they are missing say so and are skipped. A few seconds.
"""

import torch
from equivariant_attention.graphs import Graph, as_graph, batch
from equivariant_attention.models import SE3Transformer

try:
    import dgl
except (ImportError, OSError):
    dgl = None
try:
    import torch_geometric
    from torch_geometric.loader import DataLoader
except ImportError:
    torch_geometric = None

torch.manual_seed(0)

# %%
# What a layer needs
# ------------------
# Edges from sources to destinations; on every edge the relative position ``d``,
# :math:`x_{dst} - x_{src}`; and whatever features there are, here a scalar per node and
# one per edge. Nothing is computed from positions behind your back: where there are
# periodic boundaries, say, you decide what ``d`` is.


def ring(num_nodes):
    """A ring with random positions and features: edges both ways, as plain tensors."""
    i = torch.arange(num_nodes)
    j = (i + 1) % num_nodes
    src, dst = torch.cat([i, j]), torch.cat([j, i])
    x = torch.randn(num_nodes, 3)
    return src, dst, x, torch.randn(num_nodes, 1, 1), torch.rand(len(src), 1)


rings = [ring(n) for n in (5, 8, 6)]

# %%
# One model
# ---------
# From a scalar per node, and one per edge, to three numbers and two vectors per graph.
# ``as_graph`` gives every kind of graph the same names (those of DGL); with your own
# kind alone you can read fields as you are used to.

model = SE3Transformer(
    {0: 1},
    {0: 8, 1: 8, 2: 8},
    {0: 3, 1: 2},
    num_layers=2,
    n_heads=2,
    edge_dim=1,
    pooling="avg",
).eval()


@torch.no_grad()
def predict(G):
    """Outputs by degree, [graphs, channels, 2 degree + 1]."""
    return model(G, {"0": as_graph(G).ndata["feature"]})


# %%
# The library's own graphs
# ------------------------
# ``Graph`` is a small class with DGL's names: ``ndata``, ``edata``, ``edges()``.
# ``batch`` joins graphs to one.


def own(src, dst, x, feature, weight):
    """The library's Graph."""
    G = Graph(src, dst, num_nodes=len(x))
    G.ndata["x"], G.ndata["feature"] = x, feature
    G.edata["d"], G.edata["w"] = x[dst] - x[src], weight
    return G


G = batch([own(*arrays) for arrays in rings])
print(G)
expected = predict(G)
print({degree: list(value.shape) for degree, value in expected.items()})


def compare(name, output):
    """Largest difference from what the library's own graph gives."""
    for degree, value in output.items():
        torch.testing.assert_close(value, expected[degree])
    difference = max(
        float((output[degree] - expected[degree]).abs().max()) for degree in expected
    )
    print(f"{name}: the same to {difference:.0e}")


# %%
# DGL
# ---
# A ``dgl.DGLGraph`` is used as it is. ``Graph.from_dgl(G)`` and ``G.to_dgl()`` convert
# either way and share the tensors; PyPI's DGL cannot use a GPU, but
# ``Graph.from_dgl(G).to('cuda')`` can.


def with_dgl(src, dst, x, feature, weight):
    """A DGLGraph."""
    G = dgl.graph((src, dst), num_nodes=len(x))
    G.ndata["x"], G.ndata["feature"] = x, feature
    G.edata["d"], G.edata["w"] = x[dst] - x[src], weight
    return G


if dgl:
    G = dgl.batch([with_dgl(*arrays) for arrays in rings])
    compare("DGL", predict(G))
    compare("DGL, converted", predict(Graph.from_dgl(G)))
else:
    print("DGL is not installed: this part is skipped")

# %%
# PyTorch Geometric
# -----------------
# In a ``Data``, attributes whose first dimension is the number of nodes are fields of
# the nodes, and those with the number of edges fields of the edges. Positions are its
# ``pos``, which ``as_graph`` calls ``x``. Set ``d``, which is not computed from them.
# PyG's ``DataLoader`` batches as always.


def with_pyg(src, dst, x, feature, weight):
    """A Data of PyTorch Geometric."""
    return torch_geometric.data.Data(
        edge_index=torch.stack([src, dst]),
        pos=x,
        feature=feature,
        d=x[dst] - x[src],
        w=weight,
    )


if torch_geometric:
    loader = DataLoader([with_pyg(*arrays) for arrays in rings], batch_size=3)
    compare("PyTorch Geometric", predict(next(iter(loader))))
else:
    print("PyTorch Geometric is not installed: this part is skipped")

# %%
# Which one?
# ----------
# The one your data is in already. If there is none, ``Graph``: it needs nothing, is on
# any device, and ``knn_graph``, ``radius_graph`` and ``fully_connected_graph`` of
# ``equivariant_attention.neighbors`` make it from positions. Without DGL and with it,
# the arithmetic is the library's own, and so is the speed.
