"""What every layer says to wrong input."""

import pytest
import torch

from equivariant_attention.modules import (
    GMABSE3,
    GAvgPooling,
    GCat,
    GMaxPooling,
    GSum,
    PairwiseConv,
    get_basis_and_r,
)
from tests.cases import MIXED, VECTORS, random_features, random_graph
from tests.equivariant_attention.modules.test_every_layer import READS_GRAPH, build, every_layer, run
from tests.wrong.layers import CONTEXT, FEATURES

NAMED = r"^{}(\['\w+(,\w+)?'\])? must \S"  # an argument, or an item of it

# Pooling has no channels to check, no dtype of its own, and looks at one degree alone.
POOLING_TAKES = {"one channel more", "another degree too", "float32", "one degree of float32", "one degree elsewhere"}
IGNORE_OTHER_DEGREES = {"GConvSE3", "GConvSE3-skip", "GConvSE3-TFN", "G1x1SE3"}  # as published


@every_layer
@pytest.mark.parametrize("wrong", FEATURES)
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
    change, error = FEATURES[wrong]
    if name == "GAvgPooling-2" and wrong in ("one node more", "no tensor", "whole numbers"):
        features = dict(reversed(features.items()))
    with pytest.raises(error, match=NAMED.format("(features|h|graph)") + ".* got "):
        run(layer, G, change(features))


def prepared(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=2)
    basis, r = get_basis_and_r(G, 3)
    return layer, random_features(fiber, G.num_nodes(), torch.float64), G, r, basis


@pytest.mark.parametrize("wrong", CONTEXT)
@pytest.mark.parametrize("name", READS_GRAPH)
def test_what_does_not_belong_to_the_features_is_named(name, wrong):
    layer, features, *context = prepared(name)
    change, error, argument = CONTEXT[wrong]
    G, r, basis = change(*context)
    with pytest.raises(error, match=NAMED.format(argument)):
        layer(features, G=G, r=r, basis=basis)


@pytest.mark.parametrize("name", ["GConvSE3", "GConvSE3Partial-cat", "GConvSE3Partial-add"])
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
