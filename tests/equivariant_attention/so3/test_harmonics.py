import math

import numpy as np
import pytest
import torch

from equivariant_attention.so3 import random_rotation, spherical_harmonics, wigner_d

AXES = torch.cat([torch.eye(3), -torch.eye(3)]).double()


def directions(dtype=torch.float64, n=50):
    return torch.cat([torch.nn.functional.normalize(torch.randn(n, 3, dtype=torch.float64), dim=-1), AXES]).to(dtype)


def test_against_e3nn(dtype):
    o3 = pytest.importorskip("e3nn.o3")
    x = directions()
    Y = spherical_harmonics(11, x.to(dtype))
    expected = torch.cat([o3.spherical_harmonics(l, x, False, "integral") for l in range(12)], dim=-1)
    torch.testing.assert_close(Y.double(), expected, rtol=0, atol=2e-14 if dtype == torch.float64 else 2e-5)


def test_degree_0_and_1():
    x = directions()
    Y = spherical_harmonics(1, x)
    torch.testing.assert_close(Y[:, 0], torch.full((len(x),), 1 / math.sqrt(4 * math.pi), dtype=torch.float64))
    torch.testing.assert_close(Y[:, 1:], math.sqrt(3 / (4 * math.pi)) * x)


def test_they_integrate_to_one():
    # Gauss-Legendre along the polar axis y, equidistant about it: exact for these polynomials.
    degree, n = 6, 16
    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(n))
    phi = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    y, phi = nodes.repeat_interleave(n), phi.repeat(n)
    x = torch.stack([(1 - y**2).sqrt() * phi.sin(), y, (1 - y**2).sqrt() * phi.cos()], dim=-1)
    Y = spherical_harmonics(degree, x)
    gram = Y.T @ (Y * weights.repeat_interleave(n)[:, None]) * 2 * math.pi / n
    torch.testing.assert_close(gram, torch.eye((degree + 1) ** 2, dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", range(9))
def test_they_turn_by_wigner_d(degree):
    R, x = random_rotation(dtype=torch.float64), directions()
    Y = spherical_harmonics(degree, x)[:, degree**2 :]
    turned = spherical_harmonics(degree, x @ R.T)[:, degree**2 :]
    torch.testing.assert_close(turned, Y @ wigner_d(degree, R).T, rtol=0, atol=1e-13)


def test_derivatives_are_exact_on_the_axes_too():
    x = AXES.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(6, v), x)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(4, v), x)


def test_no_direction():
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    Y = spherical_harmonics(4, x)
    assert torch.all(Y[:, 0] == 1 / math.sqrt(4 * math.pi))
    assert torch.all(Y[:, 1:] == 0)
    (gradient,) = torch.autograd.grad(Y.sum(), x)
    assert torch.all(gradient == 0)


@pytest.mark.parametrize("degree", [12, 18])
def test_high_degrees(degree, dtype):
    """The sum over orders is (2l + 1) / 4 pi, whatever the direction."""
    Y = spherical_harmonics(degree, directions(dtype))[:, degree**2 :]
    tolerance = 1e-3 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(
        Y.square().sum(-1), torch.full((len(Y),), (2 * degree + 1) / (4 * math.pi), dtype=dtype), rtol=tolerance, atol=0
    )


def test_empty():
    assert spherical_harmonics(3, torch.zeros(0, 3)).shape == (0, 16)
