"""
Your own data: plain arrays and COO edges
=========================================

You have positions, features of nodes, features of edges and a list of edges, all as
plain arrays, and want a vector for every node. This page goes from there to a trained
model in a file: graphs, batches, a training loop in plain PyTorch.

The example is made up of balls joined by springs; wanted is the acceleration of every
ball. Ten seconds on one core.
"""

import tempfile
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from equivariant_attention.graphs import Graph, batch
from equivariant_attention.models import SE3Transformer
from equivariant_attention.testing import assert_equivariant
from torch.utils.data import DataLoader

torch.manual_seed(0)
rng = np.random.default_rng(0)

# %%
# The data
# --------
# A sample is a dict of NumPy arrays. Its edges are in COO form, ``[2, edges]``: row 0
# has the node at which an edge starts, row 1 the one at which it ends. Messages go
# along edges, so a spring, which pulls at both ends, is two edges.


def sample():
    """Four to eight balls in a chain with a few springs more, masses, stiffnesses."""
    n = rng.integers(4, 9)
    pairs = {(i, i + 1) for i in range(n - 1)} | {
        tuple(sorted(rng.choice(n, 2, replace=False))) for _ in range(3)
    }
    i, j = np.array(sorted(pairs)).T
    position, mass = rng.normal(size=(n, 3)), rng.uniform(0.5, 2, size=n)
    edges, stiffness = (
        np.stack([np.r_[i, j], np.r_[j, i]]),
        np.tile(rng.uniform(0.5, 1.5, size=len(i)), 2),
    )
    # The force on the ball at the end of an edge, of a spring of rest length 1.
    d = position[edges[1]] - position[edges[0]]
    r = np.linalg.norm(d, axis=1)
    force = np.zeros((n, 3))
    np.add.at(force, edges[1], (stiffness * (1 - r) / r)[:, None] * d)
    return {
        "position": position,
        "mass": mass,
        "edges": edges,
        "stiffness": stiffness,
        "acceleration": force / mass[:, None],
    }


train, test = [sample() for _ in range(512)], [sample() for _ in range(128)]
for name, array in train[0].items():
    print(f"{name:13} {array.shape}")

# %%
# Graphs
# ------
# A ``Graph`` is made of the two rows of the edges and the number of nodes. Everything
# else is a field, a tensor with one row per node (``ndata``) or edge (``edata``), under
# names of your choice, but for these:
#
# - ``edata['d']`` is the relative position, end minus start, and layers need it;
# - ``edata['w']`` has the features of edges, ``[edges, number of features]``, if there
#   are any. They are scalars.
#
# PyTorch wants float32 here, NumPy made float64. The target rides along as one more
# field.


def to_graph(arrays):
    """A Graph from a sample."""
    src, dst = torch.from_numpy(arrays["edges"])
    x, mass, stiffness, acceleration = (
        torch.from_numpy(arrays[name]).float()
        for name in ("position", "mass", "stiffness", "acceleration")
    )
    G = Graph(src, dst, num_nodes=len(x))
    G.ndata["x"] = x
    G.ndata["mass"] = mass[:, None, None]
    G.ndata["acceleration"] = acceleration
    G.edata["d"] = x[dst] - x[src]
    G.edata["w"] = stiffness[:, None]
    return G


G = to_graph(train[0])
print(G.num_nodes(), "nodes,", G.num_edges(), "edges")
print(G.ndata)
print(G.edata)

# %%
# Mistakes are named, early:

try:
    G.edata["w"] = G.edata["w"][1:]
except ValueError as error:
    print(error)

# %%
# Batches
# -------
# ``batch`` joins graphs of any sizes to one; as ``collate_fn`` it is all that PyTorch's
# ``DataLoader`` needs.

loader = DataLoader(
    [to_graph(arrays) for arrays in train],
    batch_size=32,
    shuffle=True,
    collate_fn=batch,
)
G = next(iter(loader))
print(f"{G.batch_size} graphs with {G.num_nodes()} nodes and {G.num_edges()} edges")

# %%
# The model
# ---------
# A feature of degree 0 is a scalar, one of degree 1 a vector. In: one scalar (the mass)
# per node, in the shape of all features, ``[nodes, channels, 2 degree + 1]``. In the
# middle: eight channels each of degrees 0, 1 and 2. Out: one vector.
#
# Attention and convolutions take means over a node's edges. Accelerations are sums, so
# we multiply by the number of edges.

model = SE3Transformer(
    {0: 1},
    {0: 8, 1: 8, 2: 8},
    {1: 1},
    num_layers=1,
    n_heads=2,
    edge_dim=1,
    return_type=1,
)
print(f"{sum(p.numel() for p in model.parameters())} parameters")


def accelerations(model, G):
    """Of every node, [nodes, 3]."""
    _, dst = G.edges()
    number_of_edges = torch.bincount(dst, minlength=G.num_nodes())
    return number_of_edges[:, None] * model(G, {"0": G.ndata["mass"]}).squeeze(1)


# %%
# Is it equivariant, with these fields in and vectors out? It fails with a message if
# not.

errors = assert_equivariant(
    partial(accelerations, model), G, output_degree=1, tolerance=1e-4
)
for name, error in errors.items():
    print(f"{name:12} {error:.0e}")

# %%
# Training
# --------
# As any other model. On springs that it was not trained on, its error (root mean
# square) is less than a third of what predicting zero gives: 0.94, and 3.25.

optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
EPOCHS = 15
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * len(loader))
test_graphs = batch([to_graph(arrays) for arrays in test])


def error():
    """Root mean square error of the accelerations in the test set."""
    with torch.no_grad():
        return float(
            (accelerations(model, test_graphs) - test_graphs.ndata["acceleration"])
            .square()
            .sum(-1)
            .mean()
            .sqrt()
        )


errors = [error()]
for _ in range(EPOCHS):
    for G in loader:
        loss = (
            (accelerations(model, G) - G.ndata["acceleration"]).square().sum(-1).mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    errors.append(error())

zero = float(test_graphs.ndata["acceleration"].square().sum(-1).mean().sqrt())
print(f"error {errors[-1]:.3f}, that of predicting zero {zero:.3f}")

plt.figure(figsize=(6, 3.5), layout="constrained")
plt.plot(errors, label="model")
plt.axhline(zero, color="black", linestyle=":", label="zero")
plt.gca().set(xlabel="epoch", ylabel="error of accelerations", yscale="log")
plt.legend()
plt.show()

# %%
# Saving
# ------
# One file has the weights and the arguments that the model was made with. It holds no
# code, and loading it runs none.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "accelerations.pt"
    model.save_pretrained(path)
    again = SE3Transformer.from_pretrained(path)
with torch.no_grad():
    assert torch.equal(
        accelerations(again, test_graphs), accelerations(model, test_graphs)
    )
