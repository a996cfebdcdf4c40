import pytest
import torch
from torch import nn

from equivariant_attention.modules import BN, RadialFunc


def test_shape_and_parameter_names(dtype):
    radial = RadialFunc(num_freq=3, in_dim=4, out_dim=5, edge_dim=2).to(dtype)
    assert radial(torch.randn(7, 3, dtype=dtype)).shape == (7, 5, 1, 4, 1, 3)
    assert {name: tuple(p.shape) for name, p in radial.named_parameters()} == {
        "net.0.weight": (32, 3),
        "net.0.bias": (32,),
        "net.1.bn.weight": (32,),
        "net.1.bn.bias": (32,),
        "net.3.weight": (32, 32),
        "net.3.bias": (32,),
        "net.4.bn.weight": (32,),
        "net.4.bn.bias": (32,),
        "net.6.weight": (60, 32),
        "net.6.bias": (60,),
    }


def test_initialisation_is_kaiming_uniform():
    weight = torch.cat([RadialFunc(7, 16, 16).net[6].weight.flatten() for _ in range(4)])
    bound = (6 / 32) ** 0.5
    assert weight.abs().max() <= bound
    assert abs(weight.std() - bound / 3**0.5) < 0.01


def test_bn_is_layer_norm():
    x = torch.randn(4, 6)
    torch.testing.assert_close(BN(6)(x), torch.nn.functional.layer_norm(x, (6,)))


def test_another_width_and_activation():
    radial = RadialFunc(1, 2, 3, mid_dim=8, act_fn=nn.SiLU)
    assert [tuple(p.shape) for p in radial.parameters()] == [(8, 1), *[(8,)] * 3, (8, 8), *[(8,)] * 3, (6, 8), (6,)]
    assert isinstance(radial.net[2], nn.SiLU)
    assert isinstance(radial.net[5], nn.SiLU)
    assert radial.net[2] is not radial.net[5]
    assert isinstance(RadialFunc(1, 2, 3, act_fn=nn.LeakyReLU(0.1)).net[5], nn.LeakyReLU)
    with pytest.raises(TypeError, match=r"act_fn must be a module or a module class.*got 'relu'"):
        RadialFunc(1, 2, 3, act_fn="relu")
    with pytest.raises(ValueError, match="mid_dim must be a whole number of at least 1, got 0"):
        RadialFunc(1, 2, 3, mid_dim=0)
