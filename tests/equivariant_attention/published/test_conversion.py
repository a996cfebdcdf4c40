import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch

from equivariant_attention import basis_signs
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3, GNormSE3, get_basis_and_r
from equivariant_attention.published import Signs, converted, signs
from tests.cases import random_features, random_graph
from tests.equivariant_attention.published.cases import Client, inputs, random_signs

WEIGHT = "Gblock.0.GMAB.v.kernel_unary.(1,1).rp.net.6.weight"


def assert_equal(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_layer_with_another_basis():
    """The messages with converted weights are those of the weights themselves with a basis of the other signs."""
    fiber, table, G = Fiber(3, 2), random_signs(2), random_graph(torch.float64)
    layer = GConvSE3(fiber, fiber).double()
    basis, r = get_basis_and_r(G, 2)
    theirs = {
        pair: W * torch.tensor([table[t] for t in table if t[:2] == tuple(map(int, pair.split(",")))])
        for pair, W in basis.items()
    }
    features = random_features(fiber, G.num_nodes(), torch.float64)
    expected = layer(features, G=G, r=r, basis=theirs)
    layer.load_state_dict(converted(dict(layer.state_dict()), table))
    found = layer(features, G=G, r=r, basis=basis)
    for degree, value in expected.items():
        torch.testing.assert_close(found[degree], value)


def test_twice_gives_the_weights_again_and_nothing_is_changed_in_place():
    weights, table = Client().state_dict(), random_signs(1)
    before = {name: value.clone() for name, value in weights.items()}
    once = converted(weights, table)
    assert_equal(weights, before)
    assert any(not torch.equal(once[name], weights[name]) for name in weights)
    assert_equal(converted(once, table), before)


def test_rows_are_numbered_by_channel_out_channel_in_and_J():
    weights = OrderedDict({WEIGHT: torch.ones(12, 32)})
    found = converted(weights, {(1, 1, 1): -1})[WEIGHT]
    assert torch.equal(found[:, 0], torch.tensor([1.0, -1, 1] * 4))


@pytest.mark.parametrize("prefix", ["", "module.", "enc.", "model.se3."])
def test_any_prefix(prefix):
    layer = Client().Gblock[2]
    weights = {prefix + name: value for name, value in layer.state_dict().items()}
    found = converted(weights, signs("danligand"))
    expected = converted(layer.state_dict(), signs("danligand"))
    assert_equal({name.removeprefix(prefix): value for name, value in found.items()}, expected)


def test_gradients_turn_as_weights_do():
    client, given = Client(), inputs()
    table = random_signs(1)
    weights = converted(dict(client.state_dict()), table)
    other = Client()
    other.load_state_dict(weights)
    for model in (client, other):
        G, basis = given["G"], dict(given["basis"])
        if model is other:  # the signs once more, in the basis
            basis = {
                pair: W * torch.tensor([table[t] for t in table if t[:2] == tuple(map(int, pair.split(",")))])
                for pair, W in basis.items()
            }
        sum(v.square().sum() for v in model(given["features"], G, basis, given["r"]).values()).backward()
    gradients = converted({name: p.grad for name, p in other.named_parameters()}, table)
    scale = max(p.grad.abs().max() for p in client.parameters())
    for name, parameter in client.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-5 * float(scale))


def test_what_has_no_kernels_and_what_is_none_passes():
    weights = GNormSE3(Fiber(2, 3), num_layers=1).state_dict()
    assert_equal(converted(weights, signs("danligand")), weights)
    assert converted({WEIGHT: None}, signs("danligand")) == {WEIGHT: None}


def test_numbers_of_numpy_are_signs():
    weights = {WEIGHT: torch.ones(3, 32)}
    table = {(np.int64(1), np.int64(1), np.int64(1)): np.int64(-1)}
    assert torch.equal(converted(weights, table)[WEIGHT][:, 0], torch.tensor([1.0, -1, 1]))


def test_what_a_plain_dict_lacks_is_1_and_what_a_table_lacks_is_refused():
    weights = Client(Fiber(4, 4)).state_dict()
    assert_equal(converted(weights, {}), weights)
    with pytest.raises(ValueError, match=r"signs must hold \(k, l, J\) = \(0, 3, 3\) for Gblock.*\(0,3\)"):
        converted(weights, signs("rosettafold"))
    with pytest.raises(ValueError, match=r"\(1, 1, 2\)"):
        converted(weights, Signs({t: s for t, s in signs("atomrefine").items() if t != (1, 1, 2)}))


def test_converted_weights_load_without_a_warning_and_weights_converted_back_warn(monkeypatch):
    monkeypatch.setattr(basis_signs, "_has_warned", False)
    model, table = Client(), signs("danligand")
    theirs = {name: value.clone() for name, value in model.state_dict().items()}  # has no metadata
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.load_state_dict(converted(theirs, table))
        model.load_state_dict(converted(theirs, {}))
        model.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match=r"published.converted\(weights, signs\)"):
        model.load_state_dict(converted(model.state_dict(), table))
