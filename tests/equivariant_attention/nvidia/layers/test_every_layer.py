"""What holds of every layer of NVIDIA's dialect: equivariance, derivatives, untouched inputs."""

import copy

import pytest
import torch

from equivariant_attention.graphs import as_graph
from equivariant_attention.nvidia import (
    AttentionBlockSE3,
    AttentionSE3,
    ConvSE3,
    ConvSE3FuseLevel,
    Fiber,
    GPooling,
    LinearSE3,
    NormSE3,
    get_basis,
    get_populated_edge_features,
)
from equivariant_attention.testing import TOLERANCE, assert_equivariant, equivariance_error
from tests.cases import as_kind
from tests.equivariant_attention.nvidia.cases import features, graph, with_other_norms

EQUAL, UNEQUAL = Fiber({0: 4, 1: 4, 2: 4}), Fiber({0: 4, 1: 2, 2: 2})
EDGES = Fiber({0: 2, 1: 1})
FULL, PARTIAL, NONE = ConvSE3FuseLevel.FULL, ConvSE3FuseLevel.PARTIAL, ConvSE3FuseLevel.NONE


def conv(fiber_in, fiber_out, level, **options):
    options = {"use_layer_norm": True, "self_interaction": True, "max_degree": 2, **options}
    return ConvSE3(fiber_in, fiber_out, EDGES, fuse_level=level, **options)


def block(fiber_in, fiber_out, level, **options):
    return AttentionBlockSE3(fiber_in, fiber_out, EDGES, 2, 2, max_degree=2, fuse_level=level, **options)


# name: (layer, fiber of its input, whether it reads the edges)
LAYERS = {
    "ConvSE3-full": (lambda: conv(Fiber({0: 4, 1: 3, 2: 4}), EQUAL, FULL), Fiber({0: 4, 1: 3, 2: 4}), True),
    "ConvSE3-partial": (lambda: conv(UNEQUAL, EQUAL, PARTIAL, use_layer_norm=False), UNEQUAL, True),
    "ConvSE3-none": (lambda: conv(EQUAL, UNEQUAL, NONE, sum_over_edge=False), EQUAL, True),
    "ConvSE3-messages": (lambda: conv(UNEQUAL, UNEQUAL, FULL, pool=False), UNEQUAL, True),
    "AttentionBlockSE3-full": (lambda: block(EQUAL, EQUAL, FULL), EQUAL, True),
    "AttentionBlockSE3-none": (lambda: block(UNEQUAL, EQUAL, NONE, use_layer_norm=True), UNEQUAL, True),
    "LinearSE3": (lambda: LinearSE3(UNEQUAL, EQUAL), UNEQUAL, False),
    "NormSE3-group": (lambda: NormSE3(EQUAL), EQUAL, False),
    "NormSE3-layers": (lambda: NormSE3(UNEQUAL), UNEQUAL, False),
    "GPooling-avg": (lambda: GPooling(0, "avg"), UNEQUAL, False),
    "GPooling-max": (lambda: GPooling(0, "max"), UNEQUAL, False),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
READS_EDGES = [name for name, (_, _, reads_edges) in LAYERS.items() if reads_edges]


def case(name, dtype=torch.float64, sizes=(5, 4, 6)):
    make, fiber, _ = LAYERS[name]
    G = graph(dtype, sizes)
    G.ndata.update({f"h{d}": v for d, v in features(fiber, G.num_nodes(), dtype).items()})
    G.edata.update({f"e{d}": v for d, v in features(EDGES, G.num_edges(), dtype).items()})
    return with_other_norms(make()).to(dtype), fiber, G


def on_graph(layer, fiber, compute_gradients=False, key=str):
    """The layer as a function of a graph that carries all that it is called with."""

    def call(graph):
        G = as_graph(graph)
        node = {key(d): G.ndata[f"h{d}"] for d in fiber.degrees}
        if isinstance(layer, LinearSE3 | NormSE3):
            return layer(node)
        if isinstance(layer, GPooling):
            return layer(node, graph)
        edge = get_populated_edge_features(G.edata["rel_pos"], {key(d): G.edata[f"e{d}"] for d in EDGES.degrees})
        edge = {key(d): value for d, value in edge.items()}
        basis = get_basis(G.edata["rel_pos"], 2, compute_gradients=True) if compute_gradients else None
        return layer(node, edge, graph, basis)

    return call


@every_layer
def test_degrees_may_be_ints(name):
    layer, fiber, G = case(name)
    torch.testing.assert_close(on_graph(layer, fiber, key=int)(G), on_graph(layer, fiber)(G), rtol=0, atol=0)


def degrees(fiber):
    return {"node_degrees": {f"h{d}": d for d in fiber.degrees}, "edge_degrees": {"rel_pos": 1, "e1": 1}}


@every_layer
def test_equivariance(name, dtype, kind):
    layer, fiber, G = case(name, dtype)
    output_on = "edges" if "messages" in name else "graphs" if "Pooling" in name else "nodes"
    options = {"output_on": output_on, "tolerance": TOLERANCE[dtype], **degrees(fiber)}
    assert_equivariant(on_graph(layer, fiber), as_kind(G, kind), **options)


@pytest.mark.parametrize("name", READS_EDGES)
def test_reflections_are_told_apart(name):
    layer, fiber, G = case(name)
    output_on = "edges" if "messages" in name else "nodes"
    errors = equivariance_error(on_graph(layer, fiber), G, output_on=output_on, reflections=True, **degrees(fiber))
    assert errors["reflection"] > 1e-3


@every_layer
def test_first_and_second_derivatives(name):
    layer, fiber, G = case(name, sizes=(3, 3))
    names = [*(f"h{d}" for d in fiber.degrees), *(["rel_pos", "e0", "e1"] if LAYERS[name][2] else [])]
    leaves = [(G.ndata if n in G.ndata else G.edata)[n].requires_grad_() for n in names]

    def function(*values):
        H = G.local_var()
        for n, value in zip(names, values, strict=True):
            (H.ndata if n in H.ndata else H.edata)[n] = value
        output = on_graph(layer, fiber, compute_gradients=True)(H)
        return output if torch.is_tensor(output) else tuple(output.values())

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@every_layer
def test_nothing_that_is_given_is_changed(name):
    layer, fiber, G = case(name)
    before = copy.deepcopy((dict(G.ndata), dict(G.edata)))
    on_graph(layer, fiber)(G)
    for fields, copied in zip((G.ndata, G.edata), before, strict=True):
        assert list(fields) == list(copied)
        assert all(torch.equal(value, copied[field]) for field, value in fields.items())


def test_attention_alone_is_equivariant(dtype):
    G, layer = graph(dtype), AttentionSE3(2, Fiber({0: 4, 1: 4}), UNEQUAL)
    G.edata.update({f"v{d}": v for d, v in features(UNEQUAL, G.num_edges(), dtype).items()})
    G.edata.update({f"k{d}": v for d, v in features({0: 4, 1: 4}, G.num_edges(), dtype).items()})
    G.ndata.update({f"q{d}": v for d, v in features({0: 4, 1: 4}, G.num_nodes(), dtype).items()})

    def call(G):
        v, k, q = (
            {field[1]: value for field, value in fields.items() if field.startswith(which)}
            for which, fields in (("v", G.edata), ("k", G.edata), ("q", G.ndata))
        )
        return layer(v, k, q, G)

    edge_degrees = {"rel_pos": 1, "k1": 1, "v1": 1, "v2": 2}
    assert_equivariant(call, G, node_degrees={"q1": 1}, edge_degrees=edge_degrees, tolerance=TOLERANCE[dtype])
