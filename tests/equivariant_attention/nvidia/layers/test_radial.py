import pytest
import torch
from torch import nn

from equivariant_attention.contraction.radial import changed, parameters
from equivariant_attention.nvidia import ConvSE3FuseLevel, RadialProfile, VersatileConvSE3


@pytest.mark.parametrize("use_layer_norm", [True, False])
def test_layers_and_their_names(use_layer_norm):
    network = RadialProfile(3, 4, 2, edge_dim=5, use_layer_norm=use_layer_norm)
    one = ["Linear", "LayerNorm", "ReLU"] if use_layer_norm else ["Linear", "ReLU"]
    assert [type(layer).__name__ for layer in network.net] == [*one, *one, "Linear"]
    assert network.net[-1].bias is None
    assert network(torch.randn(7, 5)).shape == (7, 24)
    assert torch.equal(network.radial_weights(torch.ones(2, 5)), network(torch.ones(2, 5)))


@pytest.mark.parametrize("use_layer_norm", [True, False])
def test_what_the_engine_reads(use_layer_norm):
    network = RadialProfile(3, 4, 2, edge_dim=5, use_layer_norm=use_layer_norm)
    read = parameters(network)
    assert [value is None for value in read] == [False, False, *[not use_layer_norm] * 2] * 2 + [False, True]
    assert {id(v) for v in read if v is not None} == {id(p) for p in network.parameters()}
    assert changed(network) is None
    network.net[1].register_forward_hook(lambda *_: None)
    assert changed(network) == ".net.1"


def test_other_nonlinearities_are_called():
    assert changed(RadialProfile(1, 1, 1, nonlinearity=nn.ELU())) == ".net.1"
    assert changed(RadialProfile(1, 1, 1, mid_dim=16, use_layer_norm=True)) == ".net.1"


def test_scalars_that_do_not_fit_and_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match=r"features must have shape \[edges, 5\], got \[7, 4\]"):
        RadialProfile(3, 4, 2, edge_dim=5)(torch.randn(7, 4))
    with pytest.raises(ValueError, match="channels_in must be a whole number"):
        RadialProfile(3, 0, 2)


def test_messages_of_one_network():
    network = VersatileConvSE3(3, 4, 2, 1, False, ConvSE3FuseLevel.NONE)
    features, scalars, basis = torch.randn(5, 4, 3), torch.randn(5, 1), torch.randn(5, 3, 3, 7)
    R = network.radial_func(scalars).view(5, 2, 4, 3)
    expected = torch.einsum("eoif,eafb,eia->eob", R, basis, features)
    torch.testing.assert_close(network(features, scalars, basis), expected)
    one = VersatileConvSE3(1, 4, 2, 1, False, ConvSE3FuseLevel.NONE)
    R = one.radial_func(scalars).view(5, 2, 4)
    torch.testing.assert_close(one(features[..., :1], scalars, None), R @ features[..., :1])
