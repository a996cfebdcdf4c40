import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import as_graph
from equivariant_attention.modules import GMABSE3
from equivariant_attention.testing import assert_equivariant
from tests.cases import random_features, random_graph

VALUE = Fiber(structure=[(4, 0), (2, 1)])
KEY = Fiber(structure=[(2, 1), (4, 2)])


def attend(G, dtype, heads=2):
    graph = as_graph(G)
    v, k = random_features(VALUE, graph.num_edges(), dtype), random_features(KEY, graph.num_edges(), dtype)
    q = random_features(KEY, graph.num_nodes(), dtype)
    return GMABSE3(VALUE, KEY, heads), v, k, q


def test_against_a_loop_over_nodes_and_heads():
    G = random_graph()
    layer, v, k, q = attend(G, torch.float64)
    output, attention = layer(v, k=k, q=q, G=G, return_attention=True)
    _, dst = G.edges()
    for node in range(G.num_nodes()):
        edges = (dst == node).nonzero()[:, 0]
        for head in range(2):
            share = {"1": slice(head, head + 1), "2": slice(2 * head, 2 * head + 2)}
            logits = (
                sum((k[d][edges][:, s] * q[d][node, s]).sum((1, 2)) for d, s in share.items()) / KEY.n_features**0.5
            )
            weights = logits.softmax(0)
            torch.testing.assert_close(attention[edges, head], weights)
            for d, s in {"0": slice(2 * head, 2 * head + 2), "1": slice(head, head + 1)}.items():
                expected = (weights[:, None, None] * v[d][edges][:, s]).sum(0)
                torch.testing.assert_close(output[d][node, s], expected)


def test_equivariance(dtype, kind):
    G = random_graph(dtype, kind=kind)
    layer, v, k, q = attend(G, dtype)
    graph = as_graph(G)
    edge_fields = {**{f"v{d}": x for d, x in v.items()}, **{f"k{d}": x for d, x in k.items()}}
    graph.edata.update(edge_fields)
    graph.ndata.update({f"q{d}": x for d, x in q.items()})

    def model(G):
        graph = as_graph(G)
        values, keys = ({d: graph.edata[f"{name}{d}"] for d in of} for name, of in (("v", v), ("k", k)))
        return layer(values, k=keys, q={d: graph.ndata[f"q{d}"] for d in q}, G=G)

    degrees = {name: int(name[1]) for name in edge_fields}
    assert_equivariant(model, G, node_degrees={f"q{d}": int(d) for d in q}, edge_degrees=degrees)


def test_weights_sum_to_one_and_large_logits_do_not_overflow(dtype):
    G = random_graph(dtype)
    layer, v, k, q = attend(G, dtype)
    output, attention = layer(v, k={d: 1e4 * x for d, x in k.items()}, q=q, G=G, return_attention=True)
    sums = torch.zeros(G.num_nodes(), 2, dtype=dtype).index_add(0, G.edges()[1], attention)
    has_edges = torch.zeros(G.num_nodes(), 2, dtype=dtype)
    has_edges[G.edges()[1]] = 1
    torch.testing.assert_close(sums, has_edges)
    assert all(torch.isfinite(x).all() for x in output.values())


def test_weights_are_on_the_way_to_the_output():
    G = random_graph()
    layer, v, k, q = attend(G, torch.float64)
    output, attention = layer(v, k={d: x.requires_grad_() for d, x in k.items()}, q=q, G=G, return_attention=True)
    (by_weights,) = torch.autograd.grad(output["0"].sum(), attention)
    expected = v["0"].unflatten(1, (2, -1)).sum((2, 3))
    torch.testing.assert_close(by_weights, expected)


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="4 heads do not divide 2 channels of degree 1"):
        GMABSE3(VALUE, KEY, 4)
    for wrong in (0, 2.0):
        with pytest.raises(ValueError, match=f"n_heads must be a whole number of at least 1, got {wrong}"):
            GMABSE3(VALUE, KEY, wrong)


def test_wrong_inputs_are_refused():
    G = random_graph()
    layer, v, k, q = attend(G, torch.float64)
    with pytest.raises(ValueError, match=r"k must have the degrees \['1', '2'\]"):
        layer(v, k=v, q=q, G=G)
    with pytest.raises(ValueError, match=r"q\['1'\] must have shape"):
        layer(v, k=k, q=k, G=G)
