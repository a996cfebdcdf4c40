"""What holds of every layer on node features: equivariance, shapes, derivatives, odd graphs, untouched inputs."""

import copy

import pytest
import torch

from equivariant_attention.checks import check_features
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph, as_graph
from equivariant_attention.modules import (
    G1x1SE3,
    GAttentiveSelfInt,
    GAvgPooling,
    GConvSE3,
    GConvSE3Partial,
    GGate,
    GMaxPooling,
    GNormBias,
    GNormSE3,
    GSE3Res,
    get_basis_and_r,
)
from equivariant_attention.testing import assert_equivariant, equivariance_error
from tests.cases import FULL, MIXED, VECTORS, awkward_graph, on_graph, random_features, random_graph, with_features

EDGE_DIM = 2
HEADS = Fiber(structure=[(4, 0), (4, 1), (8, 2)])

# name: (layer, fiber in, fiber out or None)
LAYERS = {
    "GConvSE3": (lambda: GConvSE3(MIXED, FULL, edge_dim=EDGE_DIM), MIXED, FULL),
    "GConvSE3-skip": (lambda: GConvSE3(MIXED, FULL, self_interaction=True, edge_dim=EDGE_DIM), MIXED, FULL),
    "GConvSE3-TFN": (
        lambda: GConvSE3(MIXED, FULL, self_interaction=True, edge_dim=EDGE_DIM, flavor="TFN"), MIXED, FULL,
    ),
    "GConvSE3Partial": (lambda: GConvSE3Partial(MIXED, FULL, edge_dim=EDGE_DIM), MIXED, FULL),
    "GConvSE3Partial-cat": (lambda: GConvSE3Partial(MIXED, FULL, edge_dim=EDGE_DIM, x_ij="cat"), MIXED, FULL),
    "GConvSE3Partial-add": (lambda: GConvSE3Partial(MIXED, FULL, edge_dim=EDGE_DIM, x_ij="add"), MIXED, FULL),
    "G1x1SE3": (lambda: G1x1SE3(FULL, MIXED), FULL, MIXED),
    "GNormSE3-0": (lambda: GNormSE3(MIXED), MIXED, MIXED),
    "GNormSE3-2": (lambda: GNormSE3(MIXED, num_layers=2), MIXED, MIXED),
    "GNormBias": (lambda: GNormBias(MIXED), MIXED, MIXED),
    "GGate": (lambda: GGate(MIXED), MIXED, MIXED),
    "GAttentiveSelfInt": (lambda: GAttentiveSelfInt(FULL, MIXED), FULL, MIXED),
    "GSE3Res": (lambda: GSE3Res(MIXED, HEADS, edge_dim=EDGE_DIM, div=2, n_heads=2), MIXED, HEADS),
    "GSE3Res-sum": (lambda: GSE3Res(MIXED, HEADS, edge_dim=EDGE_DIM, div=2, skip="sum"), MIXED, HEADS),
    "GSE3Res-none": (lambda: GSE3Res(MIXED, HEADS, edge_dim=EDGE_DIM, div=1, skip=None), MIXED, HEADS),
    "GSE3Res-att-add": (
        lambda: GSE3Res(MIXED, HEADS, edge_dim=EDGE_DIM, div=2, n_heads=2, selfint="att", x_ij="add"), MIXED, HEADS,
    ),
    "GSE3Res-from-vectors": (
        lambda: GSE3Res(VECTORS, HEADS, edge_dim=EDGE_DIM, div=2, x_ij="cat"), VECTORS, HEADS,
    ),
    "GAvgPooling-0": (lambda: GAvgPooling(), MIXED, None),
    "GAvgPooling-2": (lambda: GAvgPooling("2"), MIXED, None),
    "GMaxPooling": (lambda: GMaxPooling(), MIXED, None),
}  # fmt: skip
READS_GRAPH = [name for name in LAYERS if name.startswith(("GConv", "GSE3Res"))]

every_layer = pytest.mark.parametrize("name", LAYERS)


def build(name, dtype=torch.float64):
    make, fiber_in, fiber_out = LAYERS[name]
    return make().to(dtype), fiber_in, fiber_out


def run(layer, G, features):
    basis, r = get_basis_and_r(G, 3, compute_gradients=True)
    return layer(features, G=G, r=r, basis=basis)


def tensors(output):
    return [output] if torch.is_tensor(output) else list(output.values())


@every_layer
def test_equivariance(name, dtype, kind):
    layer, fiber, _ = build(name, dtype)
    G = random_graph(dtype, EDGE_DIM, kind)
    G, degrees = with_features(G, random_features(fiber, as_graph(G).num_nodes(), dtype))
    assert_equivariant(on_graph(layer, fiber), G, node_degrees=degrees)


@every_layer
def test_degrees_may_be_ints(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM)
    h = random_features(fiber, G.num_nodes(), torch.float64)
    for found, expected in zip(
        tensors(run(layer, G, {int(d): v for d, v in h.items()})), tensors(run(layer, G, h)), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", READS_GRAPH)
def test_reflections_are_told_apart(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM)
    G, degrees = with_features(G, random_features(fiber, G.num_nodes(), torch.float64))
    errors = equivariance_error(on_graph(layer, fiber), G, node_degrees=degrees, reflections=True)
    assert errors["reflection"] > 1e-3
    with pytest.raises(AssertionError, match="not equivariant to reflection"):
        assert_equivariant(on_graph(layer, fiber), G, node_degrees=degrees, reflections=True)


@every_layer
def test_shapes(name, dtype):
    layer, fiber, fiber_out = build(name, dtype)
    G = random_graph(dtype, EDGE_DIM)
    output = run(layer, G, random_features(fiber, G.num_nodes(), dtype))
    if fiber_out is not None:
        check_features(output, fiber_out, G.num_edges() if "Partial" in name else G.num_nodes(), "output")
    assert all(value.dtype == dtype for value in tensors(output))


@every_layer
def test_derivatives(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM, sizes=(3, 3))
    features = random_features(fiber, G.num_nodes(), torch.float64)
    leaves = [*features.values(), G.ndata["x"], G.edata["w"]]

    def function(*leaves):
        *values, x, w = leaves
        src, dst = G.edges()
        H = Graph(src, dst, num_nodes=G.num_nodes())
        H.set_batch_num_nodes(G.batch_num_nodes())
        H.ndata["x"], H.edata["w"], H.edata["d"] = x, w, (x[dst] - x[src]).squeeze(1)
        return tuple(tensors(run(layer, H, dict(zip(features, values, strict=True)))))

    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@every_layer
def test_parameter_gradients(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM, sizes=(3, 3))
    features = random_features(fiber, G.num_nodes(), torch.float64)
    parameters = {n: p.detach() for n, p in layer.named_parameters() if p.requires_grad}
    if not parameters:
        pytest.skip("no parameters")

    def function(vector):
        parts = vector.split([p.numel() for p in parameters.values()])
        values = {n: part.view_as(p) for part, (n, p) in zip(parts, parameters.items(), strict=True)}
        basis, r = get_basis_and_r(G, 3)
        return tuple(tensors(torch.func.functional_call(layer, values, (features,), {"G": G, "r": r, "basis": basis})))

    vector = torch.nn.utils.parameters_to_vector(parameters.values()).requires_grad_()
    # All parameters at once, so strictly that an error of the smallest shows in the sum.
    assert torch.autograd.gradcheck(function, vector, atol=1e-8, rtol=1e-6, fast_mode=True)


@every_layer
def test_awkward_edges_give_finite_values_and_gradients(name, dtype):
    """Edges along the axes, of length zero, repeated, self-loops; isolated nodes."""
    layer, fiber, _ = build(name, dtype)
    G = awkward_graph(dtype, EDGE_DIM)
    del G.ndata["x"]  # so that every derivative flows to d
    G.edata["d"] = G.edata["d"].requires_grad_()
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    output = tensors(run(layer, G, features))
    leaves = [*features.values(), G.edata["d"], *layer.parameters()]
    gradients = torch.autograd.grad(sum(v.sum() for v in output), leaves, allow_unused=True)
    assert all(torch.isfinite(v).all() for v in output)
    assert all(g is None or torch.isfinite(g).all() for g in gradients)


@every_layer
def test_no_edges_and_no_nodes(name, dtype):
    layer, fiber, _ = build(name, dtype)
    for nodes in (3, 0):
        G = Graph([], [], num_nodes=nodes)
        G.edata["d"], G.edata["w"] = torch.zeros(0, 3, dtype=dtype), torch.zeros(0, EDGE_DIM, dtype=dtype)
        for value in tensors(run(layer, G, random_features(fiber, nodes, dtype))):
            assert torch.isfinite(value).all()


@every_layer
def test_inputs_are_not_changed(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    before = copy.deepcopy((features, dict(G.ndata), dict(G.edata)))
    given = dict(features)
    run(layer, G, given)
    assert given.keys() == features.keys()
    assert all(given[d] is features[d] for d in features)
    for old, new in zip(before, (features, G.ndata, G.edata), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) for k in old)


@every_layer
def test_state_dict_round_trip(name):
    (layer, fiber, _), (other, _, _) = build(name), build(name)
    other.load_state_dict(layer.state_dict(), strict=True)
    G = random_graph(edge_dim=EDGE_DIM)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    for ours, theirs in zip(tensors(run(layer, G, features)), tensors(run(other, G, features)), strict=True):
        assert torch.equal(ours, theirs)


@every_layer
def test_wrong_features_are_refused(name):
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    first = layer.type if name.startswith("GAvgPooling") else next(iter(features))
    without = {d: v for d, v in features.items() if d != first}
    for wrong in (without, {**features, first: features[first].unsqueeze(-1)}):
        with pytest.raises(ValueError, match="must have"):
            run(layer, G, wrong)


@every_layer
def test_repr_tells_the_fibers(name):
    layer, fiber, _ = build(name)
    assert type(layer).__name__ in repr(layer)
    assert "Pooling" in name or f"={fiber}" in repr(layer)


@pytest.mark.parametrize("name", READS_GRAPH)
def test_a_node_without_incoming_edges_and_repeated_edges(name):
    """Repeating every edge of a node leaves means and attention averages as they are."""
    layer, fiber, _ = build(name)
    G = random_graph(edge_dim=EDGE_DIM)
    features = random_features(fiber, G.num_nodes(), torch.float64)
    src, dst = G.edges()
    twice = Graph(src.repeat(2), dst.repeat(2), num_nodes=G.num_nodes())
    twice.ndata["x"] = G.ndata["x"]
    twice.edata["d"], twice.edata["w"] = G.edata["d"].repeat(2, 1), G.edata["w"].repeat(2, 1)
    once, again = run(layer, G, features), run(layer, twice, features)
    for degree, value in once.items():
        expected = value.repeat(2, 1, 1) if "Partial" in name else value
        torch.testing.assert_close(again[degree], expected, rtol=0, atol=1e-12)
