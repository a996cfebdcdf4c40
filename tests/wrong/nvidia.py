"""Layers and models of NVIDIA's dialect with one wrong argument or input, and which argument the error must name."""

from functools import partial

import torch

from equivariant_attention.nvidia import AttentionBlockSE3, ConvSE3, Fiber, GPooling, SE3Transformer, converted

TWO = Fiber({0: 4, 1: 4})
FIBERS = {"fiber_in": TWO, "fiber_hidden": Fiber({0: 8, 1: 8}), "fiber_out": TWO, "fiber_edge": Fiber({0: 3})}


def transformer(**options):
    return SE3Transformer(**FIBERS, **{"num_layers": 2, "num_heads": 2, "channels_div": 2, **options})


def signed(weights, signs):
    return converted(weights, ConvSE3(TWO, TWO, max_degree=1), signs)


NO_FIBER = {
    "a number": (3, TypeError),
    "channels alone": ([1, 2], TypeError),
    "a fraction": ({0: 1.5}, TypeError),
    "None": ({0: None}, TypeError),
    "text": ({"a": 1}, TypeError),
    "three numbers": ([(0, 1, 2)], TypeError),
    "negative": ({0: -1}, ValueError),
    "a negative degree": ({-1: 4}, ValueError),
    "a degree twice": ([(0, 1), (0, 2)], ValueError),
}

# call: (what is called, error, the argument that the error names first)
WRONG = {
    **{f"Fiber: {name}": (partial(Fiber, given), error, "structure") for name, (given, error) in NO_FIBER.items()},
    "heads that divide nothing": (lambda: AttentionBlockSE3(TWO, TWO, num_heads=3), ValueError, "num_heads"),
    "no heads": (lambda: AttentionBlockSE3(TWO, TWO, num_heads=0), ValueError, "num_heads"),
    "a divisor of one degree": (
        lambda: AttentionBlockSE3(TWO, TWO, channels_div={"0": 2}),
        ValueError,
        "channels_div",
    ),
    "no divisor": (lambda: AttentionBlockSE3(TWO, TWO, channels_div=0), ValueError, "channels_div"),
    "ConvSE3: nothing in": (lambda: ConvSE3(Fiber({}), TWO, max_degree=1), ValueError, "fiber_in"),
    "ConvSE3: nothing out": (lambda: ConvSE3(TWO, Fiber({0: 0}), max_degree=1), ValueError, "fiber_out"),
    "ConvSE3: max_degree": (lambda: ConvSE3(TWO, TWO, max_degree=0), ValueError, "max_degree"),
    "GPooling: maximum of vectors": (lambda: GPooling(1, "max"), ValueError, "pool"),
    "GPooling: sum": (lambda: GPooling(0, "sum"), ValueError, "pool"),
    "GPooling: degree": (lambda: GPooling(-1, "avg"), ValueError, "feat_type"),
    "SE3Transformer: no such degree": (lambda: transformer(return_type=2), ValueError, "return_type"),
    "SE3Transformer: pooling of what": (lambda: transformer(pooling="avg"), ValueError, "return_type"),
    "SE3Transformer: maximum of vectors": (lambda: transformer(pooling="max", return_type=1), ValueError, "pool"),
    "SE3Transformer: sum": (lambda: transformer(pooling="sum", return_type=0), ValueError, "pool"),
    "SE3Transformer: final_layer": (lambda: transformer(final_layer="mlp"), ValueError, "final_layer"),
    "SE3Transformer: populate_edge": (lambda: transformer(populate_edge="exp"), ValueError, "populate_edge"),
    "SE3Transformer: num_layers": (lambda: transformer(num_layers=-1), ValueError, "num_layers"),
    "SE3Transformer: several divisors": (
        lambda: transformer(channels_div={0: 2, 1: 2}, final_layer="att"),
        ValueError,
        "channels_div",
    ),
    "converted: no such signs": (lambda: signed({}, "e3nn-0.2"), ValueError, "signs"),
    "converted: no such coupling": (lambda: signed({}, {(1, 1, 5): 1}), ValueError, "signs"),
    "converted: no weights": (lambda: signed({}, "e3nn-0.3"), ValueError, "state_dict"),
    "converted: list": (lambda: signed([1], "e3nn-0.3"), TypeError, "state_dict"),
}

# What is wrong with what a ConvSE3 is called with: (changes node and edge features, error, the argument named first).
FEATURES = {
    "a degree of nodes missing": (lambda node, edge: node.pop("0"), ValueError, "node_feats"),
    "channels of nodes": (lambda node, edge: node.update({"0": node["0"][:, :1]}), ValueError, "node_feats['0']"),
    "dtype of nodes": (lambda node, edge: node.update({"0": node["0"].float()}), TypeError, "node_feats['0']"),
    "dtype of edges": (lambda node, edge: edge.update({"0": edge["0"].float()}), TypeError, "edge_feats['0']"),
    "scalars of edges missing": (lambda node, edge: edge.pop("0"), ValueError, "edge_feats['0']"),
    "channels of edges": (lambda node, edge: edge.update({"0": edge["0"][:, :1]}), ValueError, "edge_feats['0']"),
    "vectors of edges missing": (lambda node, edge: edge.pop("1"), ValueError, "edge_feats"),
}
# The same of an SE3Transformer, whose graph may be changed too.
INPUTS = {
    "a degree of nodes missing": (lambda G, node, edge: node.pop("1"), ValueError, "node_feats"),
    "no features of edges": (lambda G, node, edge: edge.clear(), ValueError, "edge_feats"),
    "vectors of edges": (lambda G, node, edge: edge.update({"1": node["1"]}), ValueError, "edge_feats"),
    "an edge missing": (lambda G, node, edge: edge.update({"0": edge["0"][:-1]}), ValueError, "edge_feats['0']"),
    "dtype of edges": (lambda G, node, edge: edge.update({"0": edge["0"].float()}), TypeError, "edge_feats['0']"),
    "no positions": (lambda G, node, edge: G.edata.pop("rel_pos"), KeyError, "the graph"),
    "shape of positions": (lambda G, node, edge: G.edata.update(rel_pos=edge["0"]), ValueError, "edata['rel_pos']"),
    "positions in half precision": (
        lambda G, node, edge: G.edata.update(rel_pos=G.edata["rel_pos"].half()),
        TypeError,
        "edata['rel_pos']",
    ),
    "positions that are no number": (
        lambda G, node, edge: G.edata["rel_pos"].fill_(torch.nan),
        ValueError,
        "edata['rel_pos']",
    ),
    "infinite features": (lambda G, node, edge: edge["0"].fill_(torch.inf), ValueError, "edge_feats['0']"),
    "positions of float32": (
        lambda G, node, edge: G.edata.update(rel_pos=G.edata["rel_pos"].float()),
        TypeError,
        "edata['rel_pos']",
    ),
}
