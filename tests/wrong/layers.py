"""What layers must refuse when they are called: wrong features, and a graph, distances or a basis of something else."""

import torch

from equivariant_attention.graphs import Graph
from equivariant_attention.modules import get_basis_and_r


def changed(features, change):
    """The features with their first degree changed."""
    first = next(iter(features))
    return {d: change(v) if d == first else v for d, v in features.items()}


# what is wrong with the features, which the error names: (the features, error)
FEATURES = {
    "no dict": (lambda h: list(h.values()), TypeError),
    "other keys": (lambda h: {float(d): v for d, v in h.items()}, ValueError),
    "a degree twice": (lambda h: {**h, **{int(d): v for d, v in h.items()}}, ValueError),
    "one channel more": (lambda h: {d: torch.cat([v, v[:, :1]], 1) for d, v in h.items()}, ValueError),
    "another degree too": (lambda h: {**h, "7": torch.zeros(len(h["1"]), 1, 15)}, ValueError),
    "one node more": (lambda h: changed(h, lambda v: torch.cat([v, v[:1]])), ValueError),
    "no tensor": (lambda h: changed(h, lambda v: v.tolist()), TypeError),
    "whole numbers": (lambda h: changed(h, lambda v: v.long()), TypeError),
    "float32": (lambda h: {d: v.float() for d, v in h.items()}, TypeError),
    "one degree of float32": (lambda h: {d: v.float() if d == "1" else v for d, v in h.items()}, TypeError),
    "another device": (lambda h: {d: v.to("meta") for d, v in h.items()}, ValueError),
    "one degree elsewhere": (lambda h: {d: v.to("meta") if d == "1" else v for d, v in h.items()}, ValueError),
}


def edges_elsewhere(G):
    src, dst = G.edges()
    other = Graph(src, dst, G.num_nodes())
    other.edata["d"], other.edata["w"] = -G.edata["d"], G.edata["w"]
    return other


def one_node_more(G):
    other = Graph(*G.edges(), G.num_nodes() + 1)
    other.edata.update(G.edata)
    return other


# what is wrong: (arguments of the layer, error, the argument that the error names first)
CONTEXT = {
    "no graph": (lambda G, r, basis: (None, r, basis), TypeError, "G"),
    "no basis": (lambda G, r, basis: (G, r, None), TypeError, "r and basis"),
    "basis and r exchanged": (lambda G, r, basis: (G, basis, r), TypeError, "r and basis"),
    "r of one dimension": (lambda G, r, basis: (G, r[:, 0], basis), ValueError, "r"),
    "r of float32": (lambda G, r, basis: (G, r.float(), basis), TypeError, "r"),
    "r elsewhere": (lambda G, r, basis: (G, r.to("meta"), basis), ValueError, "r"),
    "graph elsewhere": (lambda G, r, basis: (G.to("meta"), r, basis), ValueError, "graph"),
    "degrees missing": (lambda G, r, basis: (G, r, get_basis_and_r(G, 1)[0]), ValueError, "basis"),
    "degrees missing in a dict": (lambda G, r, basis: (G, r, dict(get_basis_and_r(G, 1)[0])), ValueError, "basis"),
    "an empty dict": (lambda G, r, basis: (G, r, {}), ValueError, "basis"),
    "basis of other nodes": (lambda G, r, basis: (G, r, get_basis_and_r(one_node_more(G), 3)[0]), ValueError, "basis"),
    "basis of other positions": (
        lambda G, r, basis: (G, r, get_basis_and_r(edges_elsewhere(G), 3)[0]), RuntimeError, "basis",
    ),
    "dict of other edges": (lambda G, r, basis: (G, r, {k: v[1:] for k, v in basis.items()}), ValueError, "basis"),
    "dict of float32": (lambda G, r, basis: (G, r, {k: v.float() for k, v in basis.items()}), TypeError, "basis"),
    "dict elsewhere": (lambda G, r, basis: (G, r, {k: v.to("meta") for k, v in basis.items()}), ValueError, "basis"),
}  # fmt: skip
