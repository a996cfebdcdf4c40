"""What every layer says to wrong input that no other test gives it."""

import re

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import (
    BN,
    GMABSE3,
    G1x1SE3,
    GAttentiveSelfInt,
    GAvgPooling,
    GCat,
    GConvSE3,
    GConvSE3Partial,
    GMaxPooling,
    GNormBias,
    GNormSE3,
    GSE3Res,
    GSum,
    PairwiseConv,
    RadialFunc,
    get_basis_and_r,
)
from tests.cases import MIXED, VECTORS, random_features, random_graph
from tests.equivariant_attention.modules.test_every_layer import READS_GRAPH, build, every_layer, run

ONE = Fiber(1, 2)

# call: (what is called, error, part of its message)
WRONG_ARGUMENTS = {
    "BN": (lambda: BN(0), ValueError, "m must be a whole number of at least 1, got 0"),
    "RadialFunc": (lambda: RadialFunc(1, -1, 2), ValueError, "in_dim must be a whole number of at least 1, got -1"),
    "RadialFunc: num_freq": (lambda: RadialFunc(0, 1, 2), ValueError, "num_freq must be a whole number of at least 1"),
    "RadialFunc: edge_dim": (lambda: RadialFunc(1, 1, 2, 1.5), ValueError, "edge_dim must be a whole number"),
    "PairwiseConv: degree": (
        lambda: PairwiseConv(-1, 2, 1, 2), ValueError, "degree_in must be a whole number of at least",
    ),
    "PairwiseConv: channels": (
        lambda: PairwiseConv(1, 2, 1, 0), ValueError, "nc_out must be a whole number of at least 1",
    ),
    "GConvSE3: fiber": (lambda: GConvSE3([(1, 0)], ONE), TypeError, "f_in must be a Fiber, got list"),
    "GConvSE3: edge_dim": (
        lambda: GConvSE3(ONE, ONE, edge_dim="1"), ValueError, "edge_dim must be a whole number of at",
    ),
    "GConvSE3: flavor": (
        lambda: GConvSE3(ONE, ONE, flavor=None), ValueError, "flavor must be 'skip' or 'TFN', got None",
    ),
    "GConvSE3Partial": (lambda: GConvSE3Partial(ONE, None), TypeError, "f_out must be a Fiber, got NoneType"),
    "GConvSE3Partial: cat": (lambda: GConvSE3Partial(None, ONE, x_ij="cat"), TypeError, "f_in must be a Fiber"),
    "GConvSE3Partial: x_ij": (lambda: GConvSE3Partial(ONE, ONE, x_ij=["cat"]), ValueError, "x_ij must be one of"),
    "G1x1SE3": (lambda: G1x1SE3(ONE, {0: 1}), TypeError, "f_out must be a Fiber, got dict"),
    "GNormSE3: name": (
        lambda: GNormSE3(ONE, "relu"), TypeError,
        "nonlin must be a module or a module class, such as torch.nn.ReLU, got 'relu'",
    ),
    "GNormSE3: layers": (lambda: GNormSE3(ONE, num_layers=1.0), ValueError, "num_layers must be a whole number of at"),
    "GNormBias: name": (lambda: GNormBias(ONE, "relu"), TypeError, "nonlin must be a module or a module class, such"),
    "GNormBias: layers": (lambda: GNormBias(ONE, num_layers=-1), ValueError, "num_layers must be a whole number of at"),
    "GNormBias: fiber": (lambda: GNormBias(2), TypeError, "fiber must be a Fiber, got int"),
    "GAttentiveSelfInt": (lambda: GAttentiveSelfInt(2, ONE), TypeError, "f_in must be a Fiber, got int"),
    "GMABSE3: fiber": (lambda: GMABSE3({0: 2}, ONE, 1), TypeError, "f_value must be a Fiber, got dict"),
    "GMABSE3: heads": (
        lambda: GMABSE3(ONE, ONE, 1.0), ValueError, "n_heads must be a whole number of at least 1, got 1.0",
    ),
    "GSE3Res: div": (lambda: GSE3Res(ONE, ONE, div="2"), ValueError, "div must be larger than 0, got '2'"),
    "GSE3Res: negative": (lambda: GSE3Res(ONE, ONE, div=-1), ValueError, "div must be larger than 0, got -1"),
    "GSE3Res: heads": (lambda: GSE3Res(ONE, ONE, div=1, n_heads=0), ValueError, "n_heads must be a whole number of at"),
    "GSE3Res: fiber": (lambda: GSE3Res(2, ONE, div=1), TypeError, "f_in must be a Fiber, got int"),
    "GSum": (lambda: GSum(ONE, {0: 1}), TypeError, "f_y must be a Fiber, got dict"),
    "GCat": (lambda: GCat(None, ONE), TypeError, "f_x must be a Fiber, got NoneType"),
    "GAvgPooling": (lambda: GAvgPooling(0), ValueError, "type must be a degree as a string, such as '0', got 0"),
    "use_backend": (lambda: use_backend(3).__enter__(), ValueError, "backend must be None or one of"),
    "use_backend: memory": (lambda: use_backend(None, 1.5).__enter__(), ValueError, "memory must be a whole number of"),
}  # fmt: skip


@pytest.mark.parametrize("call", WRONG_ARGUMENTS)
def test_wrong_arguments_are_named(call):
    function, error, message = WRONG_ARGUMENTS[call]
    with pytest.raises(error, match=re.escape(message)):
        function()


def changed(features, change):
    """The features with their first degree changed."""
    first = next(iter(features))
    return {d: change(v) if d == first else v for d, v in features.items()}


# what is wrong with the features: (the features, error, part of its message)
WRONG_FEATURES = {
    "no dict": (lambda h: list(h.values()), TypeError, "must be a dict of tensors keyed by the degree as a string"),
    "other keys": (lambda h: {float(d): v for d, v in h.items()}, ValueError, "must have"),
    "a degree twice": (lambda h: {**h, **{int(d): v for d, v in h.items()}}, ValueError, "every degree once"),
    "one channel more": (
        lambda h: {d: torch.cat([v, v[:, :1]], 1) for d, v in h.items()}, ValueError, "must have shape",
    ),
    "another degree too": (lambda h: {**h, "7": torch.zeros(len(h["1"]), 1, 15)}, ValueError, "must have the degrees"),
    "one node more": (lambda h: changed(h, lambda v: torch.cat([v, v[:1]])), ValueError, "must have shape"),
    "no tensor": (lambda h: changed(h, lambda v: v.tolist()), TypeError, "must be a floating-point tensor, got list"),
    "whole numbers": (
        lambda h: changed(h, lambda v: v.long()), TypeError, "must be a floating-point tensor, got torch.int64",
    ),
    "float32": (
        lambda h: {d: v.float() for d, v in h.items()}, TypeError, "must be torch.float64, as the layer is, got",
    ),
    "one degree of float32": (
        lambda h: {d: v.float() if d == "1" else v for d, v in h.items()}, TypeError, "must be torch",
    ),
    "another device": (lambda h: {d: v.to("meta") for d, v in h.items()}, ValueError, "must be on"),
    "one degree elsewhere": (
        lambda h: {d: v.to("meta") if d == "1" else v for d, v in h.items()}, ValueError, "must be on",
    ),
}  # fmt: skip
# Pooling has no channels to check, no dtype of its own, and looks at one degree alone.
POOLING_TAKES = {"one channel more", "another degree too", "float32", "one degree of float32", "one degree elsewhere"}
IGNORE_OTHER_DEGREES = {"GConvSE3", "GConvSE3-skip", "GConvSE3-TFN", "G1x1SE3"}  # as published


@every_layer
@pytest.mark.parametrize("wrong", WRONG_FEATURES)
def test_wrong_features_are_named(name, wrong):
    if (
        ("Pooling" in name and wrong in POOLING_TAKES)
        or (name.endswith("from-vectors") and wrong.startswith("one degree"))
        or (name in IGNORE_OTHER_DEGREES and wrong == "another degree too")
    ):
        pytest.skip("not wrong for this layer")
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=2)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    change, error, message = WRONG_FEATURES[wrong]
    if name == "GAvgPooling-2" and wrong in ("one node more", "no tensor", "whole numbers"):
        features = dict(reversed(features.items()))
    with pytest.raises(error, match=message):
        run(layer, G, change(features))


def prepared(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=2)
    basis, r = get_basis_and_r(G, 3)
    return layer, random_features(fiber, G.num_nodes(), torch.float64), G, r, basis


def edges_elsewhere(G):
    src, dst = G.edges()
    other = Graph(src, dst, G.num_nodes())
    other.edata["d"], other.edata["w"] = -G.edata["d"], G.edata["w"]
    return other


def one_node_more(G):
    other = Graph(*G.edges(), G.num_nodes() + 1)
    other.edata.update(G.edata)
    return other


# what is wrong: (arguments of the layer, error, part of its message)
WRONG_CONTEXT = {
    "no graph": (lambda G, r, basis: (None, r, basis), TypeError, "G must be a homogeneous dgl.DGLGraph"),
    "no basis": (lambda G, r, basis: (G, r, None), TypeError, "r and basis must come from get_basis_and_r"),
    "basis and r exchanged": (
        lambda G, r, basis: (G, basis, r), TypeError, "r and basis must come from get_basis_and_r",
    ),
    "r of one dimension": (lambda G, r, basis: (G, r[:, 0], basis), ValueError, "r must have shape"),
    "r of float32": (lambda G, r, basis: (G, r.float(), basis), TypeError, "r must be torch.float64, as the layer is"),
    "r elsewhere": (lambda G, r, basis: (G, r.to("meta"), basis), ValueError, "r must be on cpu, as the layer is"),
    "graph elsewhere": (
        lambda G, r, basis: (G.to("meta"), r, basis), ValueError, "graph must be on the features' device, cpu",
    ),
    "degrees missing": (
        lambda G, r, basis: (G, r, get_basis_and_r(G, 1)[0]), ValueError,
        "get_basis_and_r needs max_degree of at least",
    ),
    "degrees missing in a dict": (
        lambda G, r, basis: (G, r, dict(get_basis_and_r(G, 1)[0])), ValueError, "needs max_degree of at least",
    ),
    "an empty dict": (lambda G, r, basis: (G, r, {}), ValueError, "basis must hold"),
    "basis of other nodes": (
        lambda G, r, basis: (G, r, get_basis_and_r(one_node_more(G), 3)[0]), ValueError,
        "basis must be of this graph: nodes must be 15, got 16",
    ),
    "basis of other positions": (
        lambda G, r, basis: (G, r, get_basis_and_r(edges_elsewhere(G), 3)[0]), RuntimeError,
        "basis must be of this graph: edata['d'] is not what it was made of",
    ),
    "dict of other edges": (
        lambda G, r, basis: (G, r, {k: v[1:] for k, v in basis.items()}), ValueError, "must have shape",
    ),
    "dict of float32": (lambda G, r, basis: (G, r, {k: v.float() for k, v in basis.items()}), TypeError, "as r is"),
    "dict elsewhere": (lambda G, r, basis: (G, r, {k: v.to("meta") for k, v in basis.items()}), ValueError, "as r is"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_CONTEXT)
@pytest.mark.parametrize("name", READS_GRAPH)
def test_what_does_not_belong_to_the_features_is_named(name, wrong):
    layer, features, *context = prepared(name)
    change, error, message = WRONG_CONTEXT[wrong]
    G, r, basis = change(*context)
    with pytest.raises(error, match=re.escape(message)):
        layer(features, G=G, r=r, basis=basis)


@pytest.mark.parametrize("name", [name for name in READS_GRAPH if "x_ij" in name] + ["GConvSE3"])
def test_positions_written_to_after_the_basis_was_made(name):
    layer, features, G, r, basis = prepared(name)
    G.edata["d"].mul_(2)
    with pytest.raises(ValueError, match="written to after get_basis_and_r"):
        layer(features, G=G, r=r, basis=basis)


def test_a_copy_of_the_graph_is_the_same_graph():
    layer, features, G, r, basis = prepared("GConvSE3")
    expected = layer(features, G=G, r=r, basis=basis)
    copy = G.local_var()
    copy.edata["d"] = G.edata["d"].clone().unsqueeze(1)
    without = G.local_var()
    del without.edata["d"]
    for other in (copy, without):
        found = layer(features, G=other, r=r, basis=basis)
        assert all(torch.equal(found[d], expected[d]) for d in expected)


def attention_inputs():
    G = random_graph()
    v, k = (random_features(MIXED, G.num_edges(), torch.float64) for _ in range(2))
    return v, k, random_features(MIXED, G.num_nodes(), torch.float64), G


@pytest.mark.parametrize("which", ["k", "q"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (torch.Tensor.float, TypeError, "must be torch.float64, as v is, got torch.float32"),
        (lambda v: v.to("meta"), ValueError, "must be on cpu, as v is, got a tensor on meta"),
    ],
)
def test_keys_and_queries_unlike_the_values(which, change, error, message):
    v, k, q, G = attention_inputs()
    given = {"k": k, "q": q}
    given[which] = {d: change(value) for d, value in given[which].items()}
    with pytest.raises(error, match=rf"{which}\['0'\] {message}"):
        GMABSE3(MIXED, MIXED, 1)(v, **given, G=G)


def test_attention_without_graph_keys_or_queries():
    v, k, q, G = attention_inputs()
    layer = GMABSE3(MIXED, MIXED, 1)
    with pytest.raises(TypeError, match=r"G must be a homogeneous dgl\.DGLGraph"):
        layer(v, k=k, q=q)
    with pytest.raises(TypeError, match="k must be a dict of tensors"):
        layer(v, q=q, G=G)
    with pytest.raises(TypeError, match="q must be a dict of tensors"):
        layer(v, k=k, G=G)


@pytest.mark.parametrize("make", [GSum, GCat])
def test_two_features_that_are_not_alike(make):
    x, y = random_features(MIXED, 5, torch.float64), random_features(VECTORS, 5, torch.float64)
    layer = make(MIXED, VECTORS)
    with pytest.raises(TypeError, match=r"y\['1'\] must be torch\.float64, as x is, got torch\.float32"):
        layer(x, {"1": y["1"].float()})
    with pytest.raises(ValueError, match=r"y\['1'\] must be on cpu, as x is, got a tensor on meta"):
        layer(x, {"1": y["1"].to("meta")})
    with pytest.raises(TypeError, match="y must be a dict"):
        layer(x, None)


def test_a_kernel_of_wrong_inputs():
    G = random_graph(torch.float32)
    basis, r = get_basis_and_r(G, 1)
    kernel = PairwiseConv(1, 2, 1, 2)
    for feat, given, error, message in (
        (r[:, 0], basis, ValueError, r"x must have shape \[edges, 1\]"),
        (r.double(), basis, TypeError, r"x must be torch\.float32, as the layer is"),
        (r.tolist(), basis, TypeError, "x must be a floating-point tensor, got list"),
        (r[1:], basis, ValueError, r"basis\['1,1'\] must have shape"),
        (r, {}, ValueError, "basis must hold '1,1'"),
    ):
        with pytest.raises(error, match=message):
            kernel(feat, given)


def test_pooling_of_no_dict():
    for layer in (GMaxPooling(), GAvgPooling("1")):
        with pytest.raises(TypeError, match="features must be a dict of tensors"):
            layer(torch.zeros(15, 4, 1), G=random_graph())
        with pytest.raises(TypeError, match=r"G must be a homogeneous dgl\.DGLGraph"):
            layer({"0": torch.zeros(15, 4, 1), "1": torch.zeros(15, 4, 3)})
