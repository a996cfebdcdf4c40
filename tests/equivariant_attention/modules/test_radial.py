import torch

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
