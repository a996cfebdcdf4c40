import numpy as np
import pytest
import torch

from equivariant_attention.from_se3cnn import utils_steerable
from equivariant_attention.from_se3cnn.utils_steerable import (
    _basis_transformation_Q_J,
    get_spherical_from_cartesian,
    get_spherical_from_cartesian_torch,
    precompute_sh,
)
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.so3 import coupling
from tests.cases import random_graph


def test_spherical_coordinates():
    points = torch.tensor([[0.0, 2, 0], [3, 0, 0], [0, 0, 4], [0, -1, 0], [0, 0, 0]])
    half = torch.pi / 2
    expected = torch.tensor([[2, 0, 0], [3, half, half], [4, 0, half], [1, 0, torch.pi], [0, 0, 0]])
    torch.testing.assert_close(get_spherical_from_cartesian_torch(points), expected)
    np.testing.assert_allclose(get_spherical_from_cartesian(points.numpy()), expected, rtol=1e-6)
    torch.testing.assert_close(get_spherical_from_cartesian_torch(points, 2)[:, 0], expected[:, 0] / 2)


def test_harmonics_and_couplings_make_the_basis():
    """As the published get_basis puts them together."""
    G = random_graph(torch.float32)
    basis, _ = get_basis_and_r(G, 2)
    harmonics = precompute_sh(get_spherical_from_cartesian_torch(G.edata["d"]), 4)
    for pair, expected in basis.items():
        k, l = map(int, pair.split(","))
        parts = [harmonics[J] @ _basis_transformation_Q_J(J, k, l).T for J in range(abs(k - l), k + l + 1)]
        torch.testing.assert_close(torch.stack(parts, dim=-1).view(expected.shape), expected, rtol=0, atol=1e-5)


def test_couplings_are_not_those_of_the_cache():
    Q = _basis_transformation_Q_J(1, 1, 1)
    Q.zero_()
    assert coupling(1, 1, 1).any()


def test_what_is_not_here_says_what_is():
    with pytest.raises(ImportError, match=r"no 'get_matrix_kernel'.*equivariant_attention\.basis has get_basis"):
        utils_steerable.get_matrix_kernel()
