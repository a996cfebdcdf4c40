import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import G1x1SE3
from tests.cases import FULL, MIXED, random_features


def test_it_mixes_channels():
    layer = G1x1SE3(FULL, MIXED)
    features = random_features(FULL, 5, torch.float32)
    for degree, value in layer(features).items():
        torch.testing.assert_close(value, torch.einsum("oi,nim->nom", layer.transform[degree], features[degree]))


def test_initialisation_and_freezing():
    layer = G1x1SE3(Fiber(1, 64), Fiber(1, 512), learnable=False)
    assert abs(layer.transform["0"].std() * 8 - 1) < 0.05
    assert not layer.transform["0"].requires_grad
    assert G1x1SE3(MIXED, MIXED).transform["0"].requires_grad


def test_a_degree_from_nowhere_is_refused():
    with pytest.raises(ValueError, match=r"f_out also has degrees \[3\]"):
        G1x1SE3(MIXED, FULL)


def test_scalars_of_two_dimensions_and_other_degrees():
    layer, features = G1x1SE3(MIXED, Fiber(2, 3)), random_features(MIXED, 5, torch.float32)
    expected = layer(features)
    found = layer({**features, "0": features["0"].squeeze(-1), "3": torch.zeros(5, 1, 7)})
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[degree], value) for degree, value in expected.items())
