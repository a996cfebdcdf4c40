"""Any stack of layers on any graph: finite values and gradients, equivariance, permutations, batches, backends."""

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import nn

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import (
    G1x1SE3,
    GAttentiveSelfInt,
    GAvgPooling,
    GConvSE3,
    GConvSE3Partial,
    GMaxPooling,
    GNormBias,
    GNormSE3,
    GSE3Res,
    get_basis_and_r,
)
from equivariant_attention.testing import assert_equivariant
from tests.cases import BACKENDS_HERE, random_features, with_features

MAX_DEGREE = 2


@st.composite
def graphs(draw):
    """A batch of graphs, some without nodes or edges, with isolated, coincident and self-connected nodes, edges again
    and again, and, sometimes, edges that come with their reverses or that end smoothly."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    sizes = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    both_ways, counts, ends, first = draw(st.booleans()), [], [], 0
    for n in sizes:
        node = st.integers(first, max(first + n - 1, first))
        pairs = draw(st.lists(st.tuples(node, node), max_size=6)) if n else []
        pairs += [pair[::-1] for pair in pairs] if both_ways else []
        ends, counts, first = ends + pairs, [*counts, len(pairs)], first + n
    G = Graph(*torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).T, num_nodes=first)
    G.set_batch_num_nodes(sizes)
    G.set_batch_num_edges(counts)
    x = torch.randn(first, 1, 3, dtype=torch.float64)
    for node in draw(st.lists(st.integers(0, max(first - 1, 0)), max_size=2)) if first else []:
        x[node] = x[0]
    src, dst = G.edges()
    G.ndata["x"], G.edata["d"] = x, (x[dst] - x[src])[:, 0]
    edge_dim = draw(st.integers(0, 2))
    if edge_dim:
        table = torch.randn(first, first, edge_dim, dtype=torch.float64)
        # With equal features, the two directions of an edge share their radial weights.
        G.edata["w"] = table[torch.minimum(src, dst), torch.maximum(src, dst)] if both_ways else table[src, dst]
    if draw(st.booleans()):
        G.edata["envelope"] = torch.rand(len(src), 1, dtype=torch.float64)
    return G, edge_dim


fibers = st.dictionaries(st.integers(0, MAX_DEGREE), st.sampled_from([1, 3]), min_size=1).map(
    lambda d: Fiber(dictionary=d)
)
middles = st.sets(st.integers(0, MAX_DEGREE), min_size=1).map(lambda ds: Fiber(dictionary=dict.fromkeys(ds, 4)))


class Stack(nn.Module):
    """Attention where the fibers allow it, else a convolution; norms; self-interaction; a convolution; pooling."""

    def __init__(self, draw, fiber, edge_dim):
        super().__init__()
        middle, out = draw(middles), draw(middles)
        if {*fiber.degrees} & {*middle.degrees}:
            first = GSE3Res(
                fiber,
                middle,
                edge_dim=edge_dim,
                div=draw(st.sampled_from([1, 2])),
                n_heads=draw(st.sampled_from([1, 2])),
                skip=draw(st.sampled_from(["cat", "sum"] if {*fiber.degrees} <= {*middle.degrees} else ["cat"])),
                selfint=draw(st.sampled_from(["1x1", "att"])),
                x_ij=draw(st.sampled_from([None, "cat", "add"])),
            )
        else:
            first = GConvSE3(fiber, middle, edge_dim=edge_dim)
        norm = draw(st.sampled_from([GNormSE3, GNormBias, lambda f: GNormSE3(f, nn.LeakyReLU, 2)]))
        mix = draw(st.sampled_from([G1x1SE3, GAttentiveSelfInt]))
        flavor = draw(st.sampled_from(["skip", "TFN"]))
        last = GConvSE3(middle, out, self_interaction=draw(st.booleans()), edge_dim=edge_dim, flavor=flavor)
        self.layers = nn.ModuleList([first, norm(middle), mix(middle, middle), last])
        self.pooling = draw(st.sampled_from([None, *(GAvgPooling(str(d)) for d in out.degrees)]))
        if 0 in out.degrees and draw(st.booleans()):
            self.pooling = GMaxPooling()

    def forward(self, features, G):
        basis, r = get_basis_and_r(G, MAX_DEGREE, compute_gradients=True)
        for layer in self.layers:
            features = layer(features, G=G, r=r, basis=basis)
        if self.pooling is None:
            return features
        pooled = self.pooling(features, G=G)
        return pooled if isinstance(pooled, dict) else {"0": pooled[:, :, None]}


@settings(max_examples=40, deadline=None)
@given(st.data(), graphs(), fibers)
def test_any_stack_on_any_graph_is_equivariant(data, graph, fiber):
    G, edge_dim = graph
    stack = Stack(data.draw, fiber, edge_dim).double()
    G, degrees = with_features(G, random_features(fiber, G.num_nodes(), torch.float64))

    def model(G):
        return stack({str(d): G.ndata[f"h{d}"] for d in fiber.degrees}, G)

    place = "nodes" if stack.pooling is None else "graphs"
    # The layers' norms of rounding errors and of what they are compared with differ by a few orders of magnitude.
    assert_equivariant(model, G, node_degrees=degrees, output_on=place, tolerance=1e-10)


@settings(max_examples=40, deadline=None)
@given(st.data(), graphs(), fibers, st.sampled_from([torch.float32, torch.float64]))
def test_any_stack_on_any_graph_has_finite_values_and_gradients(data, graph, fiber, dtype):
    G, edge_dim = graph
    for fields in (G.ndata, G.edata):
        fields.update({name: value.to(dtype).requires_grad_() for name, value in fields.items()})
    stack = Stack(data.draw, fiber, edge_dim).to(dtype)
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    output = stack(features, G)
    leaves = [*features.values(), *G.ndata.values(), *G.edata.values(), *stack.parameters()]
    loss = sum(value.square().sum() for value in output.values())
    first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves, materialize_grads=True)
    assert all(value.isfinite().all() for value in (*output.values(), *first, *second))


def any_fiber(*channels):
    """Up to degree 3."""
    return st.dictionaries(st.integers(0, 3), st.sampled_from(channels), min_size=1).map(lambda d: Fiber(dictionary=d))


@st.composite
def convolutions(draw, edge_dim):
    """Messages alone, their mean, or attention."""
    fiber, out = draw(any_fiber(1, 2, 3, 8)), draw(any_fiber(4, 8))
    x_ij = draw(st.sampled_from([None, "cat", "add"]))
    attention = {"div": draw(st.sampled_from([1, 2])), "n_heads": draw(st.sampled_from([1, 2]))}
    makers = [
        lambda: GConvSE3Partial(fiber, draw(any_fiber(1, 2, 3, 8)), edge_dim=edge_dim, x_ij=x_ij),
        lambda: GConvSE3(
            fiber, out, self_interaction=True, edge_dim=edge_dim, flavor=draw(st.sampled_from(["skip", "TFN"]))
        ),
    ]
    if {*fiber.degrees} & {*out.degrees}:
        makers.append(lambda: GSE3Res(fiber, out, edge_dim=edge_dim, x_ij=x_ij, **attention))
    return fiber, draw(st.sampled_from(makers))().double()


def check_backends(data, graph):
    """Values and gradients by features, edges and parameters are the same in all, beside the largest of their kind."""
    G, edge_dim = graph
    if data.draw(st.booleans()):  # all edges along axes
        d = G.edata["d"]
        G.edata["d"] = d.where(d.abs() == d.abs().amax(-1, keepdim=True), 0)
    del G.ndata["x"]  # so that every derivative flows to d
    fiber, layer = data.draw(convolutions(edge_dim))
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float64).items()}
    edges = {name: value.requires_grad_() for name, value in G.edata.items()}
    leaves = [*features.values(), *edges.values(), *layer.parameters()]
    found = {}
    for backend in BACKENDS_HERE:
        with use_backend(backend):
            basis, r = get_basis_and_r(G, 3, compute_gradients=True)
            output = [*layer(features, G=G, r=r, basis=basis).values()]
        cotangents = [torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(1)) for v in output]
        gradients = torch.autograd.grad(output, leaves, cotangents, materialize_grads=True)
        of_features, of_edges = len(features), len(features) + len(edges)
        found[backend] = [output, gradients[:of_features], gradients[of_features:of_edges], gradients[of_edges:]]
    for backend, kinds in found.items():
        for values, expected in zip(kinds, found["oracle"], strict=True):
            values, expected = (torch.cat([v.detach().flatten() for v in part]) for part in (values, expected))
            error, scale = (float(v.abs().max()) if len(v) else 0.0 for v in (values - expected, expected))
            assert error <= 1e-12 * scale, f"{backend}: {error} beside {scale}"


@seed(0)
@settings(max_examples=40, deadline=None)
@given(st.data(), graphs())
def test_every_backend_is_the_oracle_on_any_graph(data, graph):
    check_backends(data, graph)


@pytest.mark.slow
@seed(1)
@settings(max_examples=60, deadline=None)
@given(st.data(), graphs())
def test_every_backend_is_the_oracle_on_very_many_graphs(data, graph):
    check_backends(data, graph)
