"""Channelwise products of Clebsch and Gordan, and the maps that mix them."""

import pytest
import torch

from equivariant_attention.models.couplings import Mixed, coupled, paths
from equivariant_attention.so3 import wigner_d


def turned(x, rotation):
    """Features ``[(L + 1)^2, rows, channels]``, turned."""
    degrees = range(round(len(x) ** 0.5))
    return torch.cat([torch.einsum("mn,nrc->mrc", wigner_d(l, rotation), x[l**2 : (l + 1) ** 2]) for l in degrees])


def rotation():
    Q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    return Q * Q.det()


def features(degree):
    return torch.randn((degree + 1) ** 2, 5, 4, dtype=torch.float64)


@pytest.mark.parametrize(("first", "second", "out"), [(2, 1, 2), (3, 0, 3), (3, 3, 1), (0, 0, 0)])
def test_products_turn_with_their_factors(first, second, out):
    torch.manual_seed(0)
    ways, R = paths(first, second, out), rotation()
    mixed = Mixed(ways, 4, 6).double()
    a, b = features(first), features(second)
    found = mixed(coupled(a, b, ways))
    assert found.shape == ((out + 1) ** 2, 5, 6)
    assert all(part.abs().max() > 0.1 for part in found)
    torch.testing.assert_close(mixed(coupled(turned(a, R), turned(b, R), ways)), turned(found, R), rtol=0, atol=1e-11)


def test_products_of_vectors_are_those_one_knows():
    a, b = (torch.zeros(4, 1, 1, dtype=torch.float64) for _ in range(2))
    a[1:, 0, 0], b[1:, 0, 0] = torch.randn(2, 3, dtype=torch.float64)
    dot, tensor = coupled(a, b, [(1, 1, 0), (1, 1, 2)]).split([1, 5])
    product = (a * b).sum()
    size = a.square().sum() * b.square().sum()
    torch.testing.assert_close(dot.square().sum(), product**2 / 3)
    # The traceless symmetric part of a b^T has the norm of both parts together, but for the trace.
    torch.testing.assert_close(tensor.square().sum(), size / 2 + product**2 / 6)


def test_paths_keep_mirror_images_and_leave_out_what_is_there_twice():
    assert paths(1, 1, 1) == ((0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1))
    assert paths(1, 1, 1, symmetric=True) == ((0, 0, 0), (1, 1, 0), (0, 1, 1))
    assert (1, 1, 1) not in paths(3, 3, 3)
    a = features(3)
    for l, k, j in paths(3, 3, 3):
        torch.testing.assert_close(coupled(a, a, [(l, k, j)]).abs(), coupled(a, a, [(k, l, j)]).abs())
