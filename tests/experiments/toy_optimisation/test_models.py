import pytest
import torch

from equivariant_attention.graphs import Graph, as_graph
from experiments.toy_optimisation.models import (
    SE3TransformerIterative,
    SE3TransformerRelaxation,
    bounded,
    move,
    pair_potential,
    strongest_neighbors,
    surroundings,
    well,
)
from tests.cases import as_kind
from tests.experiments.models import assert_model_is_equivariant


def points(kind="own", graphs=2, n=5):
    i = torch.arange(n)
    dst, src = (ends.flatten() for ends in torch.meshgrid(i, i, indexing="ij"))
    keep = dst != src
    first = n * torch.arange(graphs)[:, None]
    src, dst = ((first + ends[keep]).flatten() for ends in (src, dst))
    G = Graph(src, dst, num_nodes=n * graphs)
    G.set_batch_num_nodes([n] * graphs)
    G.set_batch_num_edges([n * (n - 1)] * graphs)
    symmetric = torch.rand(n * graphs, n * graphs, dtype=torch.float64)
    x = 0.5 * torch.randn(n * graphs, 1, 3, dtype=torch.float64)
    G.ndata["x"], G.ndata["ones"] = x, torch.ones(n * graphs, 1, 1, dtype=torch.float64)
    G.edata["d"] = x[dst] - x[src]
    G.edata["r"] = G.edata["d"].norm(dim=-1, keepdim=True)
    G.edata["potential_parameters"] = (symmetric + symmetric.T)[src, dst].view(-1, 1, 1) / 2
    G.edata["w"] = pair_potential(G.edata["r"], G.edata["potential_parameters"])
    return as_kind(G, kind)


def make(of=SE3TransformerIterative, **options):
    return of(**{"num_layers": 2, "num_degrees": 3, "num_channels": 4, "div": 2, "n_heads": 1, **options})


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (SE3TransformerIterative, {}),
        (SE3TransformerIterative, {"x_ij": "cat", "k_neighbors": 2}),
        (SE3TransformerIterative, {"num_iter": 1, "compute_gradients": False}),
        (SE3TransformerRelaxation, {}),
        (SE3TransformerRelaxation, {"x_ij": None, "num_degrees": 2, "num_iter": 1}),
    ],
)
def test_equivariance_of_the_last_step(model, options, kind):
    assert_model_is_equivariant(lambda m, G: m(G)[1][-1], make(model, **options), points(kind), output_degree=1)


@pytest.mark.parametrize("model", [SE3TransformerIterative, SE3TransformerRelaxation])
def test_the_graph_is_refreshed(model, kind):
    G = points(kind)
    before = as_graph(G).ndata["x"].clone()
    moved, steps = make(model).double()(G)
    graph = as_graph(moved)
    src, dst = graph.edges()
    x = graph.ndata["x"].reshape(-1, 1, 3)
    torch.testing.assert_close(x, before.reshape(-1, 1, 3) + sum(steps))
    torch.testing.assert_close(graph.edata["d"], x[dst] - x[src])
    torch.testing.assert_close(graph.edata["r"], graph.edata["d"].norm(dim=-1, keepdim=True))
    torch.testing.assert_close(graph.edata["w"], pair_potential(graph.edata["r"], graph.edata["potential_parameters"]))
    for i, step in enumerate(steps):
        torch.testing.assert_close(graph.ndata[f"update_norm_{i}"], step.norm(dim=-1, keepdim=True))


def test_gradients_of_the_basis_reach_earlier_blocks():
    gradients = {}
    for through_basis in (False, True):
        torch.manual_seed(3)
        model = make(compute_gradients=through_basis).double()
        torch.manual_seed(4)
        model(points())[0].edata["w"].mean().backward()
        gradients[through_basis] = model.blocks[0][0].project.transform["0"].grad
    assert not torch.allclose(gradients[False], gradients[True])


def test_the_potential():
    r = torch.linspace(0, 4, 4001, dtype=torch.float64)
    V = pair_potential(r, torch.full_like(r, 0.5))
    assert abs(V.min()) < 1e-6
    wells = ((V[1:-1] < V[:-2]) & (V[1:-1] < V[2:])).sum()
    assert wells == 2


def test_well_has_the_derivatives_of_the_potential():
    r = torch.linspace(0.1, 3, 7, dtype=torch.float64).view(-1, 1, 1).requires_grad_()
    a = torch.rand_like(r)
    V = pair_potential(r, a)
    (slope,) = torch.autograd.grad(V.sum(), r, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), r)
    found, of_edges = well(r, a), torch.cat([V, slope / 4, curvature / 12], dim=1)
    torch.testing.assert_close(found[:, :1], a)
    torch.testing.assert_close(found[:, 1:], torch.sin(torch.atan(of_edges)))
    assert well(1e3 * r, a)[:, 1:].abs().max() <= 1


def test_bounded_vectors_keep_their_direction_and_are_no_longer_than_the_limit():
    vectors = torch.tensor([[3e-4, 0, 4e-4], [3e3, 0, 4e3], [0, 0, 0]], dtype=torch.float64, requires_grad=True)
    found = bounded(vectors, 0.5)
    torch.testing.assert_close(found[0], vectors[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1], torch.tensor([0.3, 0, 0.4]).double(), rtol=1e-6, atol=0)
    assert torch.equal(found[2], vectors[2])
    assert torch.autograd.gradcheck(bounded, [vectors])


def test_the_force_is_where_the_energy_falls():
    """That of a point is minus the gradient of its mean potential."""
    G = points()
    x = G.ndata["x"].clone().requires_grad_()
    src, dst = G.edges()
    r = (x[dst] - x[src]).norm(dim=-1, keepdim=True)
    a = G.edata["potential_parameters"]
    degree = G.num_edges() / G.num_nodes()
    # Each pair is there twice, once for either of its points.
    (slope,) = torch.autograd.grad(pair_potential(r, a).sum() / 2 / degree, x)
    step = torch.randn_like(x)
    seen = surroundings(G, well(G.edata["r"], a), [step])
    torch.testing.assert_close(seen["1"][:, :1], bounded(-slope))
    assert torch.equal(seen["1"][:, 1:], step)
    assert torch.equal(seen["0"][:, :1], G.ndata["ones"])
    at_last = bounded(pair_potential(r, a))[dst == G.num_nodes() - 1].mean()
    torch.testing.assert_close(seen["0"][-1, 1], at_last.view(1))


def test_points_in_one_place_do_not_pull_at_each_other():
    G = points(graphs=1, n=3)
    G.ndata["x"] = torch.tensor([[[0.0, 0, 0]], [[0.0, 0, 0]], [[1.0, 0, 0]]], dtype=torch.float64)
    move(G, torch.zeros_like(G.ndata["x"]))
    force = surroundings(G, well(G.edata["r"], G.edata["potential_parameters"]), [])["1"][:, 0]
    assert force.isfinite().all()
    assert force[:2, 0].abs().min() > 0
    assert torch.equal(force[:, 1:], torch.zeros(3, 2, dtype=torch.float64))


def test_layers_see_the_well_where_they_are_to():
    """Without a, no layer can tell pairs of equal distance and potential apart."""
    x, a = torch.tensor([[[0.0, 0, 0]], [[1.5, 0, 0]]], dtype=torch.float64), torch.tensor([0.2, 0.8]).double()
    outputs = {}
    for kind in (SE3TransformerIterative, SE3TransformerRelaxation):
        torch.manual_seed(0)
        model = make(kind, num_iter=1).double()
        steps = []
        for parameter in a:
            G = Graph([0, 1], [1, 0])
            G.ndata["x"], G.ndata["ones"] = x, torch.ones(2, 1, 1, dtype=torch.float64)
            G.edata["d"] = x[[1, 0]] - x[[0, 1]]
            G.edata["r"] = torch.full((2, 1, 1), 1.5, dtype=torch.float64)
            G.edata["potential_parameters"] = parameter.expand(2, 1, 1)
            G.edata["w"] = torch.full((2, 1, 1), 0.3, dtype=torch.float64)  # the same of both
            steps.append(model(G)[1][-1])
        outputs[kind] = (steps[0] - steps[1]).abs().max().item()
    assert outputs[SE3TransformerIterative] == 0
    assert 10 * outputs[SE3TransformerRelaxation] > 1e-3  # its steps are a tenth of its vectors


def test_untrained_relaxation_moves_points_a_little():
    steps = make(SE3TransformerRelaxation).double()(points())[1]
    assert all(0 < step.norm(dim=-1).max() <= 0.5 for step in steps)


def test_the_strongest_neighbors_are_kept():
    G = points()
    kept = strongest_neighbors(G, 2)
    for node in range(G.num_nodes()):
        all_w = G.edata["w"].flatten()[G.edges()[1] == node]
        kept_w = kept.edata["w"].flatten()[kept.edges()[1] == node]
        assert torch.equal(kept_w.sort().values, all_w.sort().values[-2:])
    assert torch.equal(strongest_neighbors(G, 4).edata["w"], G.edata["w"])
