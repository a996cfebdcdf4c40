from functools import partial

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.forces import forces_on_graph
from equivariant_attention.graphs import Graph, batch
from equivariant_attention.models import TFN, Potential, SE3Transformer
from equivariant_attention.modules import (
    GAttentiveSelfInt,
    GAvgPooling,
    GConvSE3,
    GMaxPooling,
    GNormBias,
    GNormSE3,
    GSE3Res,
    get_basis_and_r,
)
from equivariant_attention.neighbors import fully_connected_graph, radius_graph
from equivariant_attention.padding import Sizes, padded
from equivariant_attention.plan import Plan
from tests.cases import BACKENDS_HERE, MIXED, as_kind, awkward_graph, random_features, random_graph

MORE = Sizes(nodes=7, edges=21, graphs=3, pairs=6, zero_edges=2)  # than a batch has


def symmetric(G):
    """The graph with edge features that are equal in both directions, and an envelope."""
    src, dst = G.edges()
    G.edata["w"] = torch.stack([(src + dst).double().sin(), (src * dst).double().cos()], dim=1)
    G.edata["envelope"] = (0.1 + G.edata["w"][:, :1].abs()) * ((src + dst) % 5 > 0)[:, None]
    return G


def with_more(G, plan):
    return padded(G, plan, Sizes(*(own + more for own, more in zip(Sizes.of(G, plan), MORE, strict=True))))


class Layers(torch.nn.ModuleList):
    """Everything that looks at more than one node or edge, or at norms."""

    def __init__(self):
        options = {"edge_dim": 2, "n_heads": 2, "div": 1}
        even = Fiber(3, 4)
        super().__init__(
            [
                GSE3Res(MIXED, even, **(options | {"n_heads": 1}), x_ij="cat"),
                GNormSE3(even),
                GSE3Res(even, even, **options, selfint="att"),
                GNormBias(even),
                GAttentiveSelfInt(even, even),
                GConvSE3(even, even, self_interaction=True, edge_dim=2, flavor="TFN"),
                GConvSE3(even, even, self_interaction=True, edge_dim=2),
            ]
        )

    def forward(self, G, plan, h):
        basis, r = get_basis_and_r(G, 2, compute_gradients=True, plan=plan)
        for layer in self:
            h = layer(h, G=G, r=r, basis=basis)
        pooled = GAvgPooling("1")(h, G=G)["1"], GAvgPooling()(h, G=G), GMaxPooling()(h, G=G)
        return [*h.values(), *pooled]


def derived(model, G, plan, h, real):
    """Values and first derivatives of what is ``real``: the first so many rows of each number of rows."""
    (src, dst), x = G.edges(), G.ndata["x"].clone().requires_grad_()
    G = G.local_var()
    G.ndata["x"], G.edata["d"] = x, (x[dst] - x[src]).squeeze(1)
    h = {degree: v.clone().requires_grad_() for degree, v in h.items()}
    values = [v[: real[len(v)]] for v in model(G, plan, h)]
    loss = sum((v * torch.arange(v.numel()).view(v.shape).cos()).sum() for v in values)
    on_nodes, parameters = [x, *h.values()], [*model.parameters()]
    gradients = torch.autograd.grad(loss, [*on_nodes, *parameters])
    rows = real[len(x)]
    assert not any(v[rows:].any() for v in gradients[: len(on_nodes)])
    return [*values, *(v[:rows] for v in gradients[: len(on_nodes)]), *gradients[len(on_nodes) :]]


@pytest.mark.parametrize("make", [awkward_graph, random_graph])
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_values_and_derivatives_are_those_without_padding(backend, make):
    G, model = symmetric(make()), Layers().double()
    plan, h = Plan(G), random_features(MIXED, G.num_nodes(), torch.float64)
    more, its_plan = with_more(G, plan)
    more_h = {degree: torch.cat([v, torch.randn_like(v)[: MORE.nodes]]) for degree, v in h.items()}
    counts = {more.num_nodes(): G.num_nodes(), more.batch_size: G.batch_size}
    with use_backend(backend):
        expected = derived(model, G, plan, h, {own: own for own in counts.values()})
        found = derived(model, more, its_plan, more_h, counts)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("nonlinearity", ["gate", "norm"])
def test_forces_and_their_derivatives_are_those_without_padding(nonlinearity):
    x = 1.5 * torch.rand(11, 3, dtype=torch.float64)
    G = batch([radius_graph(part, 1.2) for part in (x[:6], x[6:])])
    G.ndata["z"] = torch.arange(1, 12)
    model, found = Potential(1.2, num_layers=1, nonlinearity=nonlinearity).double(), []
    for graph, plan in ((G, Plan(G)), with_more(G, Plan(G))):
        energy, forces, _ = forces_on_graph(partial(model, plan=plan), graph, 1.2)
        loss = energy[:2].square().sum() + forces[:11].sin().sum()
        gradients = torch.autograd.grad(loss, [*model.parameters()], materialize_grads=True)
        found.append([energy[:2], forces[:11], *gradients])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["own", "dgl", "pyg"])
@pytest.mark.parametrize("make", [awkward_graph, random_graph])
def test_the_plan_is_that_of_the_padded_graph(make, kind):
    if kind != "own":
        pytest.importorskip({"dgl": "dgl", "pyg": "torch_geometric.data"}[kind])
    G = make()
    more, plan = with_more(as_kind(symmetric(G), kind), Plan(G))
    expected = Plan(more)
    assert Sizes.of(more, plan) == Sizes(*(a + b for a, b in zip(Sizes.of(G, Plan(G)), MORE, strict=True)))
    assert {tuple(sorted(pair)) for pair in plan.pairs.tolist()} == {
        tuple(sorted(pair)) for pair in expected.pairs.tolist()
    }
    assert torch.equal(plan.order[: 2 * len(plan.pairs)], plan.pairs.flatten())
    assert sorted(plan.order.tolist()) == list(range(plan.num_edges))
    assert torch.equal(plan.zero_edges, expected.zero_edges)
    plan.check(more)


def test_real_rows_come_first_and_graphs_of_padding_have_nodes():
    G = random_graph()
    G.edata["offset"] = torch.randn_like(G.edata["d"])
    more, _ = with_more(G, Plan(G))
    for own, fields in ((G.ndata, more.ndata), (G.edata, more.edata)):
        for name, value in own.items():
            assert torch.equal(fields[name][: len(value)], value)
    assert more.batch_num_nodes().tolist() == [5, 4, 6, 1, 1, 5]
    assert more.batch_num_edges().tolist() == [*G.batch_num_edges().tolist(), 0, 0, 21]
    src, dst = (ends[G.num_edges() :] for ends in more.edges())
    assert torch.equal(more.edata["d"][G.num_edges() :], (more.ndata["x"][dst] - more.ndata["x"][src]).squeeze(1))
    assert not more.edata["offset"][G.num_edges() :].any()


def test_a_batch_that_has_the_sizes_stays_as_it_is():
    G = random_graph()
    same, plan = padded(G, Plan(G), Sizes.of(G, Plan(G)))
    assert all(torch.equal(value, G.tensors()[name]) for name, value in same.tensors().items())
    assert all(torch.equal(value, Plan(G).tensors().get(name, value)) for name, value in plan.tensors().items())


def test_nothing_but_nodes_is_padded():
    G = Graph([], [], 2)
    G.edata["d"] = torch.zeros(0, 3)
    more, plan = padded(G, Plan(G), Sizes.of(G, Plan(G)).rounded())
    assert Sizes.of(more, plan) == Sizes(nodes=4, edges=0, graphs=2, pairs=0)
    edges, _ = padded(G, Plan(G), Sizes(nodes=4, edges=3, graphs=2, pairs=1))
    assert edges.edata["d"].tolist() == [[1, 0, 0], [-1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "sizes", [(4, 0, 2, 0), (5, 0, 1, 0), (4, 2, 2, 0), (6, 1, 2, 1), (6, 0, 2, 0, -1), (3, 0, 1, 0)]
)
def test_what_has_no_room_is_refused(sizes):
    G = Graph([], [], 4)
    G.edata["d"] = torch.zeros(0, 3)
    with pytest.raises(ValueError, match=r"sizes must have room for Sizes\(nodes=4.* got Sizes\(nodes"):
        padded(G, Plan(G), Sizes(*sizes))


def test_there_are_few_rounded_sizes_and_little_padding():
    sizes = {Sizes(nodes, 4 * nodes, 8, 2 * nodes).rounded() for nodes in range(1024, 2049)}
    assert len(sizes) <= 2 * 16 + 2
    for nodes in (1024, 1500, 2000):
        rounded = Sizes(nodes, 4 * nodes + 3, 8, 2 * nodes, 2).rounded()
        assert 0 < rounded.nodes - nodes <= nodes / 16 + 3
        assert 0 <= rounded.edges - 4 * nodes - 3 <= nodes / 4 + 3
        assert rounded.rounded().edges == rounded.edges
    assert Sizes(0, 0, 0, 0).rounded() == Sizes(2, 0, 1, 0)


# ---------------------------------------------------------------------------------------------------- refilling


def padded_molecules(*sizes):
    """Fully connected graphs of these sizes, padded, with their plan."""
    G = batch([fully_connected_graph(torch.randn(n, 3)) for n in sizes])
    G.ndata["f"] = torch.randn(G.num_nodes(), 2, 1)
    return padded(G, Plan(G), Sizes(nodes=32, edges=200, graphs=3, pairs=100))


def everything(G, plan):
    return {**G.tensors(), **{f"plan.{name}": value for name, value in plan.tensors().items()}}


def test_refilled_ones_are_the_others_in_the_same_memory():
    own, other = padded_molecules(9, 8), padded_molecules(7, 11)
    before = {name: value.data_ptr() for name, value in everything(*own).items()}
    assert {"plan.by_source.rows", "plan.by_destination.ends", "ndata['f']", "edata['d']"} < before.keys()
    rows = own[1].out_edges
    for mine, others in zip(own, other, strict=True):
        mine.refill(others)
    assert {name: value.data_ptr() for name, value in everything(*own).items()} == before
    for name, value in everything(*other).items():
        assert torch.equal(everything(*own)[name], value)
    assert own[1].out_edges is not rows
    assert torch.equal(own[1].out_edges.edges, other[1].out_edges.edges)
    own[1].check(own[0])


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_layers_see_what_a_plan_was_refilled_with(backend):
    model = SE3Transformer({0: 2}, {0: 4, 1: 4}, {0: 1}, num_layers=1, pooling="avg", return_type=0)
    own, other = padded_molecules(9, 8), padded_molecules(7, 11)

    def run(G, plan):
        output = model(G, {0: G.ndata["f"]}, basis_and_r=get_basis_and_r(G, 1, plan=plan))
        return output, torch.autograd.grad(output[:2].sum(), [*model.parameters()])

    with use_backend(backend):
        run(*own)  # whatever is kept must not be kept for what comes now
        for mine, others in zip(own, other, strict=True):
            mine.refill(others)
        (found, gradients), (expected, expected_gradients) = run(*own), run(*other)
    assert torch.equal(found, expected)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_no_derivative_is_taken_after_a_refill(backend):
    model = SE3Transformer({0: 2}, {0: 4, 1: 4}, {0: 1}, num_layers=1, pooling="avg", return_type=0)
    (G, plan), (_, other) = padded_molecules(9, 8), padded_molecules(7, 11)
    with use_backend(backend):
        output = model(G, {0: G.ndata["f"]}, basis_and_r=get_basis_and_r(G, 1, plan=plan))
        plan.refill(other)
        with pytest.raises(RuntimeError, match=r"plan must not be written to|modified by an inplace operation"):
            output.sum().backward()


def test_rows_of_edges_that_were_made_since_are_no_refill():
    layer = GConvSE3(Fiber(1, 2), Fiber(1, 2))
    G, plan = padded_molecules(9, 8)
    with use_backend("frame"):
        basis, r = get_basis_and_r(G, 0, plan=plan)
        output = layer({"0": G.ndata["f"]}, G=G, r=r, basis=basis)["0"]
    assert plan.out_edges.ends[-1] == 200
    output.sum().backward()


def test_what_does_not_fit_is_not_refilled():
    (G, plan), (other, others_plan) = padded_molecules(9, 8), padded_molecules(7, 11)
    with pytest.raises(TypeError, match="other must be a Plan, got Graph"):
        plan.refill(G)
    with pytest.raises(TypeError, match=r"other must be a Graph, got .*\.Plan"):
        G.refill(plan)
    G.ndata["more"] = torch.zeros(G.num_nodes())
    before = G.edges()[0].clone()
    with pytest.raises(ValueError, match=r"other must have ndata\['more'\] as \(\[32\], torch.float32\), got None"):
        G.refill(other)
    assert torch.equal(G.edges()[0], before)
    smaller = random_graph(torch.float32)
    with pytest.raises(ValueError, match="other must be of 32 nodes, got 15"):
        plan.refill(Plan(smaller))
    with pytest.raises(ValueError, match="other must have 32 nodes, got 15"):
        G.refill(smaller)
    with pytest.raises(ValueError, match=r"other must have by_destination.rows as \(\[200\], torch.int64\), got"):
        plan.refill(Plan.unpaired(fully_connected_graph(torch.randn(32, 3))))
    others_plan.order[0] = 1
    with pytest.raises(RuntimeError, match="plan must not be written to"):
        plan.refill(others_plan)


# ---------------------------------------------------------------------------------------------------- compiling


@pytest.mark.parametrize("kind", [SE3Transformer, TFN])
def test_one_compilation_serves_all_batches_of_a_size(kind):
    model = kind({0: 2}, {0: 4, 1: 4}, {0: 1}, num_layers=2, pooling="max", return_type=0)

    def forward(G, plan):
        return model(G, {0: G.ndata["f"]}, basis_and_r=get_basis_and_r(G, 1, plan=plan))

    counter = CompileCounter()
    compiled = torch.compile(forward, backend=counter, fullgraph=True, dynamic=False)
    for sizes in ((9, 8), (7, 11), (5, 5)):
        G, plan = padded_molecules(*sizes)
        torch.testing.assert_close(compiled(G, plan)[:2], forward(G, plan)[:2], rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1
