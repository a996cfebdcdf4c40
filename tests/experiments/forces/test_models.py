"""Forces are minus the gradient of the energy, and a loss of forces can be differentiated by the weights."""

import pytest
import torch

from equivariant_attention.neighbors import radius_graph
from equivariant_attention.testing import assert_equivariant
from experiments.forces.data import clusters
from experiments.forces.models import SE3Transformer, energy_and_forces
from tests.equivariant_attention.test_envelope import jump

CUTOFF = 1.8  # cuts some edges of the clusters
every_x_ij = pytest.mark.parametrize("x_ij", [None, "add", "cat"])


def build(x_ij, num_layers=2):
    return SE3Transformer(num_layers, num_channels=4, num_degrees=3, n_heads=1, x_ij=x_ij, cutoff=CUTOFF).double()


def systems():
    x = clusters(2, 5, 0.1, torch.Generator().manual_seed(0))
    return x.flatten(0, 1), torch.full((10,), 18), torch.arange(2).repeat_interleave(5)


def central_difference(function, direction, step):
    """Of fourth order; steps so small that they cross no kink of the ReLUs in the radial networks."""
    along = [function(n * step * direction) for n in (-2, -1, 1, 2)]
    return (along[0] - 8 * along[1] + 8 * along[2] - along[3]) / (12 * step)


@every_x_ij
def test_forces_are_finite_differences_of_the_energy(x_ij):
    model, (x, z, batch) = build(x_ij), systems()

    def energy(move):
        with torch.no_grad():
            return energy_and_forces(model, x + move, z, batch)[0].sum()

    _, forces = energy_and_forces(model, x, z, batch)
    assert forces.abs().max() > 1e-2
    for atom in (1, 7):
        for axis in range(3):
            unit = torch.zeros_like(x)
            unit[atom, axis] = 1
            assert abs(forces[atom, axis] + central_difference(energy, unit, 1e-6)) < 1e-6


@every_x_ij
def test_parameter_gradients_of_a_loss_of_forces_are_finite_differences(x_ij):
    model, (x, z, batch) = build(x_ij, num_layers=1), systems()
    target = torch.randn(10, 3, dtype=torch.float64)

    def loss():
        return (energy_and_forces(model, x, z, batch)[1] - target).square().sum()

    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True, materialize_grads=True)
    # The last bias shifts the energy of an edge, which the envelope makes a force of; so every layer counts.
    # Softmax does not see what is added to all keys of a node.
    each = zip(names, parameters, gradients, strict=True)
    unseen = {name for name, p, g in each if p.numel() > 1 and g.abs().max() < 1e-12}
    assert unseen == {"layers.0.GMAB.k.kernel_unary.(0,0).rp.net.6.bias"}
    directions = [torch.randn_like(p) for p in parameters]

    def moved_loss(step):
        with torch.no_grad():
            for p, direction in zip(parameters, directions, strict=True):
                p.add_(direction, alpha=float(step))
            value = loss()
            for p, direction in zip(parameters, directions, strict=True):
                p.sub_(direction, alpha=float(step))
        return value

    found = central_difference(moved_loss, torch.tensor(1.0, dtype=torch.float64), 1e-7)
    expected = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    assert abs(found - expected) < 1e-6 * abs(expected)


def test_the_energy_is_invariant_and_its_second_derivatives_exist():
    model, (x, z, batch) = build("cat", num_layers=1), systems()
    G = radius_graph(x, CUTOFF, batch, envelope=6)
    G.ndata["z"] = z
    assert_equivariant(model, G, output_on="graphs")

    def energy(x):
        G = radius_graph(x, CUTOFF, batch, envelope=6)
        G.ndata["z"] = z
        return model(G)

    x = x.requires_grad_()
    assert torch.autograd.gradcheck(energy, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(energy, x, fast_mode=True)


def test_energy_and_forces_are_continuous_at_the_cutoff():
    model = build(None)

    def energy(x, envelope):
        G = radius_graph(x, 1.0, envelope=envelope)
        G.ndata["z"] = torch.full((len(x),), 18)
        return model(G).sum()

    inside = torch.tensor([[0, 0, 0], [0.6, 0.1, 0], [0.2, 0.5, 0.3]], dtype=torch.float64)
    for step in (1e-3, 1e-4):
        bare, smooth = (jump(energy, inside, step, envelope) for envelope in (None, 6))
        assert min(bare) > 1e-3
        assert smooth[0] < 1e4 * step**3
        assert smooth[1] < 1e4 * step**2


def test_nothing_is_kept_for_derivatives_where_gradients_are_off():
    model, (x, z, batch) = build(None), systems()
    energy, forces = energy_and_forces(model, x, z, batch)
    assert energy.requires_grad
    assert forces.requires_grad
    assert not x.requires_grad
    with torch.no_grad():
        again = energy_and_forces(model, x, z, batch)
    assert not any(v.requires_grad for v in again)
    torch.testing.assert_close(again, (energy.detach(), forces.detach()), rtol=0, atol=1e-12)


def test_a_symmetric_cluster_that_moves_a_little_has_its_energy_and_forces_moved_a_little():
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64) / 2
    model, z, direction = build(None), torch.full((5,), 18), torch.randn(5, 3, dtype=torch.float64)
    energy, forces = energy_and_forces(model, corners, z)
    for step in (1e-9, 1e-6, 1e-3):
        moved, turned = energy_and_forces(model, corners + step * direction, z)
        assert (moved - energy).abs().max() < 100 * step
        assert (turned - forces).abs().max() < 1000 * step
