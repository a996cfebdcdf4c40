"""Radial bases against their formulas, and their derivatives where edges have no length."""

import math

import pytest
import torch

from equivariant_attention.models import RadialBasis
from equivariant_attention.neighbors import radius_graph

R = torch.tensor([[0.3], [1.0], [2.5]], dtype=torch.float64)


def test_bessel_functions():
    found = RadialBasis("bessel", 3, 2.5)(R)
    for row, r in zip(found.tolist(), R[:, 0].tolist(), strict=True):
        expected = [2**0.5 * math.sin(n * math.pi * r / 2.5) / (r / 2.5) for n in (1, 2, 3)]
        assert row == pytest.approx(expected, abs=1e-12)


def test_gaussians():
    found = RadialBasis("gaussian", 3, 2.5)(R)
    for row, r in zip(found.tolist(), R[:, 0].tolist(), strict=True):
        assert row == pytest.approx([math.exp(-((r - mu) ** 2) / (2 * 1.25**2)) for mu in (0, 1.25, 2.5)], abs=1e-12)


@pytest.mark.parametrize("name", ["bessel", "gaussian"])
def test_derivatives_up_to_the_second_also_without_length(name):
    basis = RadialBasis(name, 4, 2.5)
    for r in (R, R.clone()):
        assert torch.autograd.gradcheck(basis, r.requires_grad_())
        assert torch.autograd.gradgradcheck(basis, r)
    r = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(basis(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_it_comes_after_the_features_that_edges_have():
    G = radius_graph(torch.randn(5, 3), 2.0, envelope=6)
    G.edata["w"] = torch.randn(G.num_edges(), 2, 1)
    new = RadialBasis("bessel", 4, 2.0).on_edges(G)
    assert torch.equal(new.edata["w"][:, :2], G.edata["w"][:, :, 0])
    torch.testing.assert_close(new.edata["w"][:, 2:], RadialBasis("bessel", 4, 2.0)(G.edata["d"].norm(dim=1)[:, None]))
    assert set(new.edata) == set(G.edata)
    assert torch.equal(new.ndata["x"], G.ndata["x"])
    assert G.edata["w"].shape == (G.num_edges(), 2, 1)
