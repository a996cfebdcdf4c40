import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equivariant_attention.checks import check_features
from equivariant_attention.fibers import (
    Fiber,
    by_degree,
    fiber2head,
    fiber2tensor,
    get_fiber_dict,
    get_fiber_tensor,
)

fibers = st.dictionaries(st.integers(0, 5), st.integers(1, 9), min_size=1).map(lambda d: Fiber(dictionary=d))


def test_the_three_descriptions_agree():
    fiber = Fiber(3, 4)
    assert fiber == Fiber(structure=[(4, 1), (4, 0), (4, 2)]) == Fiber(dictionary={2: 4, 0: 4, 1: 4})
    assert fiber.structure == [(4, 0), (4, 1), (4, 2)]
    assert fiber.degrees == (0, 1, 2)
    assert fiber.multiplicities == (4, 4, 4)
    assert (fiber.min_degree, fiber.max_degree) == (0, 2)
    assert fiber.structure_dict == fiber.dict == {0: 4, 1: 4, 2: 4}
    assert fiber.n_features == 4 * (1 + 3 + 5)
    assert fiber.feature_indices == {0: (0, 4), 1: (4, 16), 2: (16, 36)}


def test_equality_hash_and_repr():
    fiber = Fiber(structure=[(2, 1), (3, 0)])
    assert {fiber: 1}[Fiber(dictionary={0: 3, 1: 2})] == 1
    assert fiber != Fiber(2, 2)
    assert fiber != "Fiber"
    assert eval(repr(fiber)) == fiber


def test_a_changed_structure_does_not_change_what_a_fiber_equals():
    fiber = Fiber(2, 1)
    fiber.structure.append((1, 9))
    assert fiber == Fiber(2, 1)
    assert hash(fiber) == hash(Fiber(2, 1))


def test_fractions_of_channels_are_refused():
    with pytest.raises(TypeError, match=r"multiplicity of degree 1 must be a whole number, got 2\.7"):
        Fiber(structure=[(2.7, 1)])


def test_combinations():
    a, b = Fiber(dictionary={0: 2, 1: 3}), Fiber(dictionary={1: 5, 2: 1})
    assert Fiber.combine(a, b).dict == {0: 2, 1: 8, 2: 1}
    assert Fiber.combine_max(a, b).dict == {0: 2, 1: 5, 2: 1}
    assert Fiber.combine_selectively(a, b).dict == {0: 2, 1: 8}
    assert a.copy_me() == a
    assert a.copy_me() is not a
    assert a.copy_me(7).dict == {0: 7, 1: 7}


def test_combine_fibers_concatenates_channels():
    a, b = Fiber(dictionary={0: 2, 1: 3}), Fiber(dictionary={1: 5, 2: 1})
    x = {"0": torch.randn(4, 2, 1), "1": torch.randn(4, 3, 3)}
    y = {"1": torch.randn(4, 5, 3), "2": torch.randn(4, 1, 5)}
    combined = Fiber.combine_fibers(x, a, y, b)
    check_features(combined, Fiber.combine(a, b), 4)
    assert torch.equal(combined["1"][:, :3], x["1"])
    assert torch.equal(combined["1"][:, 3:], y["1"])
    assert torch.equal(combined["2"], y["2"])


def test_numbers_beside_a_structure_are_ignored_as_published():
    assert Fiber(2, structure=[(8, 0), (3, 1)]) == Fiber(dictionary={0: 8, 1: 3})
    assert Fiber(1, 32, [(8, 0), (3, 1)]) == Fiber(dictionary={0: 8, 1: 3})


def test_a_dictionary_may_come_first():
    assert Fiber({0: 16, 1: 8}) == Fiber(dictionary={0: 16, 1: 8})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "takes num_degrees and num_channels"),
        ({"num_degrees": 2}, "go together"),
        ({"num_degrees": [(4, 0)]}, r"go together.*structure=\[\(multiplicity, degree\), \.\.\.\]"),
        ({"num_degrees": {0: 4}, "num_channels": 1}, "takes num_degrees and num_channels"),
        ({"structure": [(1, 0)], "dictionary": {0: 1}}, "takes num_degrees and num_channels"),
        ({"num_degrees": 2, "num_channels": 1, "dictionary": {0: 1}}, "takes num_degrees and num_channels"),
    ],
)
def test_descriptions_that_contradict_each_other_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Fiber(**arguments)


@given(fibers)
def test_flattening_and_cutting_are_inverse(fiber):
    F = torch.arange(2.0 * fiber.n_features).view(2, fiber.n_features)
    features = get_fiber_dict(F, fiber)
    check_features(features, fiber, 2)
    assert torch.equal(get_fiber_tensor(features, fiber), F)
    assert torch.equal(fiber2tensor(features, fiber, squeeze=True), F)
    assert torch.equal(fiber2tensor(features, fiber), F.unsqueeze(-1))
    for degree, (start, end) in fiber.feature_indices.items():
        assert torch.equal(features[str(degree)].flatten(1), F[:, start:end])


def test_flattening_another_fiber_is_refused():
    with pytest.raises(ValueError, match=r"F\['0'\] must have shape \[..., 4, 1\], got \[2, 3, 1\]"):
        get_fiber_tensor({"0": torch.zeros(2, 3, 1)}, Fiber(1, 4))


def test_cutting_with_a_mask():
    fiber, mask = Fiber(3, 2), Fiber(structure=[(9, 1)])
    F = torch.randn(5, fiber.n_features)
    features, kept = get_fiber_dict(F, fiber, mask=mask, return_struct=True)
    assert kept == Fiber(structure=[(2, 1)])
    assert torch.equal(features["1"].flatten(1), F[:, 2:8])
    with pytest.raises(ValueError, match="last dimension 18"):
        get_fiber_dict(F[:, :-1], fiber)


def test_heads_take_channels_in_order():
    fiber = Fiber(dictionary={0: 4, 1: 2})
    features = {"0": torch.randn(3, 4, 1), "1": torch.randn(3, 2, 3)}
    heads = fiber2head(features, 2, fiber, squeeze=True)
    assert heads.shape == (3, 2, fiber.n_features // 2)
    assert torch.equal(heads[:, 1], torch.cat([features["0"][:, 2:, 0], features["1"][:, 1]], dim=-1))
    assert torch.equal(fiber2head(features, 2, fiber), heads.unsqueeze(-1))
    with pytest.raises(ValueError, match="4 heads do not divide 2 channels of degree 1"):
        fiber2head(features, 4, fiber)


def test_degrees_become_text_and_none_is_there_twice():
    values = {0: torch.zeros(1), "1": torch.ones(1)}
    assert by_degree(values) == {"0": values[0], "1": values["1"]}
    assert values.keys() == {0, "1"}
    for other in (None, "features", {"0": values[0]}, {}):
        assert by_degree(other) is other
    assert [*by_degree({True: 1, 0.5: 1})] == [True, 0.5]  # no degree: for checks to refuse
    with pytest.raises(ValueError, match=r"^h must have every degree once, got \[0, '0'\]"):
        by_degree({0: values[0], "0": values[0]}, "h")


def test_check_features_names_what_is_wrong():
    fiber = Fiber(dictionary={0: 2, 1: 8})
    good = {"0": torch.zeros(12, 2, 1), "1": torch.zeros(12, 8, 3)}
    check_features(good, fiber, 12)
    with pytest.raises(ValueError, match=r"features\['1'\] must have shape \[12, 8, 3\], got \[12, 4, 3\]"):
        check_features({**good, "1": torch.zeros(12, 4, 3)}, fiber, 12)
    with pytest.raises(ValueError, match="must have the degrees"):
        check_features({"0": good["0"]}, fiber, 12)
    with pytest.raises(ValueError, match="must have the degrees"):
        check_features({**good, "2": torch.zeros(12, 1, 5)}, fiber, 12)
    with pytest.raises(TypeError, match="floating-point"):
        check_features({**good, "0": torch.zeros(12, 2, 1, dtype=torch.int64)}, fiber, 12)
    with pytest.raises(TypeError, match="dict of tensors"):
        check_features(good["0"], fiber, 12)
