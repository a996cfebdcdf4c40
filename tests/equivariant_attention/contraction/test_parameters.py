import copy
import pickle

import pytest
import torch
from torch.nn.utils import parametrizations

from equivariant_attention.contraction import use_backend
from equivariant_attention.contraction.parameters import parameters
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3Partial, get_basis_and_r
from tests.cases import random_features, random_graph

FIBER = Fiber(2, 2)


def is_up_to_date(layer):
    for kernel in layer.kernel_unary.values():
        net = kernel.rp.net
        expected = [v for m in (net[0], net[1].bn, net[3], net[4].bn, net[6]) for v in (m.weight, m.bias)]
        assert all(torch.equal(a, b) for a, b in zip(parameters(kernel), expected, strict=True))
    return True


def as_loaded(layer):
    other = GConvSE3Partial(FIBER, FIBER)
    layer.load_state_dict(other.state_dict(), assign=True)
    assert parameters(layer.kernel_unary["(0,0)"])[0].data_ptr() == next(other.parameters()).data_ptr()
    return layer


def with_parameters_replaced(layer):
    last = layer.kernel_unary["(1,1)"].rp.net[6]
    last.bias = torch.nn.Parameter(torch.ones_like(last.bias))
    assert parameters(layer.kernel_unary["(1,1)"])[-1] is last.bias
    return layer


def parametrised(layer):
    for kernel in layer.kernel_unary.values():
        parametrizations.weight_norm(kernel.rp.net[0])
        parametrizations.spectral_norm(kernel.rp.net[6])
    return layer.eval()


@pytest.mark.parametrize(
    "change",
    [
        as_loaded,
        with_parameters_replaced,
        lambda layer: layer.double().float(),
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        parametrised,
    ],
)
def test_parameters_are_those_that_the_model_has_now(change):
    layer, G = GConvSE3Partial(FIBER, FIBER), random_graph(torch.float32)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    basis, r = get_basis_and_r(G, 1)
    layer(features, G=G, r=r, basis=basis)
    layer = change(layer)
    assert is_up_to_date(layer)
    found = []
    for backend in ("oracle", None):
        with use_backend(backend):
            output = layer(features, G=G, r=r, basis=basis)
        gradients = torch.autograd.grad(sum(v.square().sum() for v in output.values()), [*layer.parameters()])
        found.append([*output.values(), *gradients])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(
            value, expected, rtol=1e-3, atol=1e-4 * max(1.0, float(expected.detach().abs().max()))
        )
