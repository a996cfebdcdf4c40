import math

import pytest
import torch

from equivariant_attention.so3 import (
    features_to_symmetric_tensor,
    random_rotation,
    spherical_harmonics,
    symmetric_tensor_to_features,
    wigner_d,
)


def symmetric(*shape, dtype=torch.float64):
    tensor = torch.randn(*shape, 3, 3, dtype=dtype)
    return tensor + tensor.mT


def test_there_and_back(dtype):
    T = symmetric(4, 2, dtype=dtype)
    features = symmetric_tensor_to_features(T)
    assert {degree: f.shape for degree, f in features.items()} == {"0": (4, 2, 1), "2": (4, 2, 5)}
    torch.testing.assert_close(features_to_symmetric_tensor(features), T)
    torch.testing.assert_close(features["0"][..., 0], T.diagonal(dim1=-2, dim2=-1).sum(-1) / math.sqrt(3))


def test_norms_are_kept():
    T = symmetric(5)
    f = symmetric_tensor_to_features(T)
    torch.testing.assert_close(T.square().sum((-2, -1)), f["0"].square().sum(-1) + f["2"].square().sum(-1))


def test_features_turn_as_the_tensor_does():
    T, R = symmetric(5), random_rotation(dtype=torch.float64)
    before, after = symmetric_tensor_to_features(T), symmetric_tensor_to_features(R @ T @ R.T)
    for degree in (0, 2):
        torch.testing.assert_close(after[str(degree)], before[str(degree)] @ wigner_d(degree, R).T)


def test_the_square_of_a_vector_is_its_harmonics():
    v = torch.nn.functional.normalize(torch.randn(6, 3, dtype=torch.float64), dim=-1)
    f = symmetric_tensor_to_features(v[:, :, None] * v[:, None, :])
    torch.testing.assert_close(f["2"], math.sqrt(8 * math.pi / 15) * spherical_harmonics(2, v)[:, 4:])


def test_against_e3nn():
    io = pytest.importorskip("e3nn.io")
    T = symmetric(5)
    f = symmetric_tensor_to_features(T)
    torch.testing.assert_close(torch.cat([f["0"], f["2"]], dim=-1), io.CartesianTensor("ij=ji").from_cartesian(T))


def test_gradients():
    f = {l: torch.randn(2, d, dtype=torch.float64, requires_grad=True) for l, d in (("0", 1), ("2", 5))}

    def there_and_back(scalar, traceless):
        return tuple(symmetric_tensor_to_features(features_to_symmetric_tensor({"0": scalar, "2": traceless})).values())

    assert torch.autograd.gradcheck(there_and_back, (f["0"], f["2"]))


def test_zero_and_none():
    assert not symmetric_tensor_to_features(torch.zeros(2, 3, 3))["2"].any()
    assert symmetric_tensor_to_features(torch.zeros(0, 3, 3))["2"].shape == (0, 5)
    assert features_to_symmetric_tensor({"0": torch.zeros(0, 1), "2": torch.zeros(0, 5)}).shape == (0, 3, 3)
