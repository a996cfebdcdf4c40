from itertools import pairwise

import pytest
import torch

from equivariant_attention.graphs import unbatch
from experiments.toy_optimisation.data import SpringsDataset, collate, energies
from experiments.toy_optimisation.gradient_descent import GradientDescent, potential_slope
from experiments.toy_optimisation.models import pair_potential
from tests.experiments.models import in_dtype


def graphs(number, n=10, seed=0, kind="own"):
    dataset = SpringsDataset(number, n, "log", seed)
    return collate([dataset[i] for i in range(number)], kind)[0]


def test_slope_is_the_derivative_of_the_potential():
    r = torch.linspace(0, 4, 101, dtype=torch.float64, requires_grad=True)
    a = torch.rand(101, dtype=torch.float64)
    (slope,) = torch.autograd.grad(pair_potential(r, a).sum(), r)
    torch.testing.assert_close(potential_slope(r, a), slope)


@pytest.mark.parametrize("kind", ["own", "dgl"])
def test_energy_falls(kind):
    if kind == "dgl":
        pytest.importorskip("dgl")
    G = graphs(30, kind=kind)
    start = energies(G)
    moved, steps = GradientDescent()(G)
    assert moved is G
    assert (energies(G) < start).all()
    assert ((steps > 10) & (steps < 5000)).all()
    assert energies(G).mean() == pytest.approx(0.062, abs=0.008)  # of 30 graphs


def test_graphs_are_judged_one_by_one():
    """A graph moves as it would alone, whatever it is batched with."""
    G = graphs(6)
    parts = unbatch(G)
    _, steps = GradientDescent()(G)
    assert len(set(steps.tolist())) > 1
    for i, (part, moved) in enumerate(zip(parts, unbatch(G), strict=True)):
        _, steps_alone = GradientDescent()(part)
        assert steps_alone.item() == steps[i]
        torch.testing.assert_close(part.ndata["x"], moved.ndata["x"], atol=1e-5, rtol=0)


def test_graphs_at_rest_leave_the_batch():
    positions, moving = zip(*GradientDescent().path(graphs(6)), strict=True)
    assert all((before | ~after).all() for before, after in pairwise(moving))  # for good
    still = ~moving[-1].repeat_interleave(10)
    assert torch.equal(positions[-1][still], positions[-2][still])
    assert not torch.equal(positions[-1], positions[-2])


def test_end_is_a_minimum():
    G = in_dtype(graphs(3), torch.float64)
    GradientDescent(tolerance=1e-5)(G)
    x = G.ndata["x"].clone().requires_grad_()
    src, dst = G.edges()
    V = pair_potential((x[dst] - x[src]).norm(dim=-1, keepdim=True), G.edata["potential_parameters"])
    (gradient,) = torch.autograd.grad(V.sum(), x)
    assert gradient.abs().max() < 1e-4


def test_one_step_by_hand():
    G = in_dtype(graphs(1, n=2), torch.float64)
    x, r, a = G.ndata["x"], G.edata["r"][0], G.edata["potential_parameters"][0]
    expected = torch.clamp(-0.02 * potential_slope(r, a), -0.1, 0.1) * (x[1] - x[0]) / r
    GradientDescent(max_steps=1)(G)
    torch.testing.assert_close(G.ndata["x"] - x, torch.stack([-expected, expected]))


def test_moves_along_an_edge_are_clipped_and_coincident_points_stay():
    G = graphs(1, n=2)
    G.ndata["x"] = torch.tensor([[[0.0, 0, 0]], [[9.0, 0, 0]]])
    x, _ = next(GradientDescent().path(G))
    torch.testing.assert_close(x[:, 0, 0], torch.tensor([0.1, 8.9]))
    G.ndata["x"] = torch.zeros(2, 1, 3)
    GradientDescent()(G)
    assert torch.equal(G.ndata["x"], torch.zeros(2, 1, 3))


@pytest.mark.parametrize("name", ["stepsize", "tolerance", "max_steps"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"^{name}: expected a number above 0, got 0"):
        GradientDescent(**{name: 0})


@pytest.mark.slow
def test_energy_of_a_thousand_graphs():
    G = graphs(1000)
    GradientDescent()(G)
    assert energies(G).mean() == pytest.approx(0.062, abs=0.002)
