import copy
import pickle

import pytest
import torch

from equivariant_attention.nvidia import Fiber, FiberEl
from equivariant_attention.nvidia.fiber import edge_fiber, plain_fiber


def test_structure_and_iteration_are_in_order_of_channels_and_degrees_ascend():
    fiber = Fiber({0: 8, 2: 4, 1: 8, 3: 2})
    assert fiber.structure == [(3, 2), (2, 4), (0, 8), (1, 8)]
    assert list(fiber) == fiber.structure
    assert isinstance(fiber.structure[0], FiberEl)
    assert fiber.degrees == [0, 1, 2, 3]
    assert fiber.channels == [8, 8, 4, 2]
    assert fiber.num_features == 8 + 3 * 8 + 5 * 4 + 7 * 2


def test_pairs_are_degree_first_and_keys_may_be_text():
    assert Fiber([(1, 3), (0, 8)]) == Fiber({0: 8, 1: 3}) == Fiber({"0": 8, "1": 3}) == Fiber([FiberEl(0, 8), (1, 3)])
    assert Fiber(Fiber({1: 3})) == {1: 3}
    assert Fiber.create(3, 16) == {0: 16, 1: 16, 2: 16}
    assert Fiber.from_features({"0": torch.zeros(5, 4, 1), "1": torch.zeros(5, 2, 3)}) == {0: 4, 1: 2}


def test_a_degree_that_is_absent_has_no_channels():
    fiber = Fiber({1: 3})
    assert fiber[0] == 0
    assert fiber[1] == 3
    assert 0 not in fiber
    assert Fiber({}).degrees == []


def test_arithmetic():
    left, right = Fiber({0: 4, 1: 2}), Fiber({1: 3, 2: 5})
    assert left + right == {0: 4, 1: 5}
    assert left + 1 == {0: 5, 1: 3}
    assert left * 2 == {0: 8, 1: 4}
    assert list(left * right) == [((1, 2), (1, 3)), ((1, 2), (2, 5)), ((0, 4), (1, 3)), ((0, 4), (2, 5))]
    assert Fiber.combine_max(left, right) == {0: 4, 1: 3, 2: 5}
    assert Fiber.combine_selectively(left, right) == {0: 4, 1: 5}


def test_channels_are_shared_among_heads_in_order():
    features = {"0": torch.randn(5, 4, 1), "1": torch.randn(5, 2, 3)}
    heads = Fiber.from_features(features).to_attention_heads(features, 2)
    assert heads.shape == (5, 2, 5)
    assert torch.equal(heads[:, 1], torch.cat([features["0"][:, 2:, 0], features["1"][:, 1]], dim=1))
    by_number = {int(d): value for d, value in features.items()}
    assert torch.equal(Fiber.from_features(by_number).to_attention_heads(by_number, 2), heads)
    with pytest.raises(ValueError, match="num_heads must divide"):
        Fiber({0: 4, 1: 3}).to_attention_heads(features, 2)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))])
def test_copies(again):
    fiber = Fiber({0: 8, 1: 3})
    copied = again(fiber)
    assert copied == fiber
    assert isinstance(copied, Fiber)
    assert copied.structure == fiber.structure
    assert repr(fiber) == "Fiber({0: 8, 1: 3})"


def test_edges_need_no_fiber():
    assert edge_fiber(None) == {}
    with pytest.raises(TypeError, match=r"fiber_edge must be an .*Fiber or None, got dict"):
        edge_fiber({0: 1})


def test_layers_need_channels():
    with pytest.raises(ValueError, match="fiber_in must have a degree"):
        plain_fiber(Fiber({0: 0}), "fiber_in")
    with pytest.raises(TypeError, match=r"fiber_in must be an .*Fiber, got dict"):
        plain_fiber({0: 1}, "fiber_in")
