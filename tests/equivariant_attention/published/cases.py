"""A client of the published code: its signs, the cache it keeps them in, and a model with its weights."""

import gzip
import pickle

import torch
from torch import nn

from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3, GNormBias, GSE3Res, get_basis_and_r
from equivariant_attention.published.tables import triples
from equivariant_attention.so3 import coupling
from tests.cases import random_features, random_graph

HIDDEN = Fiber(2, 4)


class Client(nn.Module):
    """Two layers, as clients stack them, from scalars and vectors to both."""

    def __init__(self, hidden=HIDDEN):
        super().__init__()
        attention = GSE3Res(Fiber(2, 2), hidden, div=2, n_heads=2)
        convolution = GConvSE3(hidden, Fiber(2, 2), self_interaction=True)
        self.Gblock = nn.ModuleList([attention, GNormBias(hidden), convolution])

    def forward(self, features, G, basis, r):
        for layer in self.Gblock:
            features = layer(features, G=G, r=r, basis=basis)
        return features


def inputs(max_degree=1, dtype=torch.float32):
    G = random_graph(dtype)
    basis, r = get_basis_and_r(G, max_degree)
    return {"features": random_features(Fiber(2, 2), G.num_nodes(), dtype), "G": G, "basis": basis, "r": r}


def random_signs(max_degree):
    degrees = range(max_degree + 1)
    every = [triple for k in degrees for l in degrees for triple in triples(k, l)]
    return {triple: 1 - 2 * int(torch.randint(2, ())) if any(triple) else 1 for triple in every}


def published_coupling(triple, sign=1):
    """Q_J as the published code has it, ``[(2l+1)(2k+1), 2J+1]``: its harmonics are (-1)^J times this library's."""
    k, l, J = triple
    return sign * (-1) ** J * coupling(l, k, J).flatten(0, 1)


def write_cache(folder, signs, form=torch.Tensor.float, protocol=3):
    """The folder that the published code would leave: an index by (J, k, l), and an array in each file."""
    folder.mkdir(exist_ok=True)
    index = {}
    for number, ((k, l, J), sign) in enumerate(signs.items()):
        index[J, k, l] = name = f"{number}.pkl.gz"
        write_array(folder / name, form(published_coupling((k, l, J), sign)), protocol)
    (folder / "index.pkl").write_bytes(pickle.dumps(index, protocol))
    return folder


def write_array(path, value, protocol=3):
    with gzip.open(path, "wb") as file:
        pickle.dump(value, file, protocol)
