import pytest
import torch

from equivariant_attention.checks import check_features
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GCat, GSum
from tests.cases import random_features

X, Y = Fiber(dictionary={0: 2, 1: 4}), Fiber(dictionary={1: 3, 2: 1})


def test_sum_pads_with_zeros():
    x, y = random_features(X, 5, torch.float32), random_features(Y, 5, torch.float32)
    layer = GSum(X, Y)
    output = layer(x, y)
    check_features(output, layer.f_out, 5)
    assert layer.f_out == Fiber(dictionary={0: 2, 1: 4, 2: 1})
    assert torch.equal(output["0"], x["0"])
    assert torch.equal(output["2"], y["2"])
    assert torch.equal(output["1"][:, :3], x["1"][:, :3] + y["1"])
    assert torch.equal(output["1"][:, 3:], x["1"][:, 3:])


def test_cat_keeps_the_degrees_of_the_first():
    x, y = random_features(X, 5, torch.float32), random_features(Y, 5, torch.float32)
    layer = GCat(X, Y)
    output = layer(x, y)
    check_features(output, layer.f_out, 5)
    assert layer.f_out == Fiber(dictionary={0: 2, 1: 7})
    assert torch.equal(output["1"], torch.cat([x["1"], y["1"]], dim=1))


@pytest.mark.parametrize("make", [GSum, GCat])
def test_wrong_features_are_refused(make):
    x, y = random_features(X, 5, torch.float32), random_features(Y, 4, torch.float32)
    with pytest.raises(ValueError, match=r"y\['1'\] must have shape \[5, 3, 3\], got \[4, 3, 3\]"):
        make(X, Y)(x, y)
