import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from equivariant_attention.unchanged import Snapshot, assert_equal, can_look_at

WRITES = {
    "in place": (lambda v: v.add_(1), True),
    "through .data": (lambda v: v.data.add_(1), False),
    "through NumPy": (lambda v: v.detach().numpy().__iadd__(1), False),
}


@pytest.mark.parametrize("write", WRITES)
def test_values_tell_of_every_write_and_the_count_of_some(write):
    function, counted = WRITES[write]
    tensor = torch.zeros(4, 3)
    seen = Snapshot(tensor)
    assert seen.equals(tensor)
    assert seen.is_untouched(tensor)
    function(tensor)
    assert not seen.equals(tensor)
    assert seen.is_untouched(tensor) is not counted
    with pytest.raises(RuntimeError, match="these differ"):
        assert_equal([(seen, tensor)], "these differ")


def test_in_inference_mode_values_tell_alone():
    with torch.inference_mode():
        tensor = torch.zeros(4)
        seen = Snapshot(tensor)
        tensor.add_(1)
    assert not seen.equals(tensor)
    assert seen.is_untouched(tensor)


def test_other_shapes_and_dtypes_hold_the_same_values_and_other_numbers_do_not():
    seen = Snapshot(torch.arange(6.0).view(2, 3))
    same = torch.arange(6)
    for given in (same.view(2, 1, 3), same.double().view(2, 3), same.float().view(2, 3).requires_grad_()):
        assert seen.equals(given)
        assert not seen.is_untouched(given)
        assert_equal([(seen, given)], "these differ")
    for given in (same[:5], same.view(2, 3) + 1, None):
        assert not seen.equals(given)


def test_a_field_that_is_not_there():
    missing = Snapshot(None)
    assert missing.equals(None)
    assert missing.is_untouched(None)
    assert not missing.equals(torch.ones(1))
    assert not missing.is_untouched(torch.ones(1))


def test_values_that_are_given_are_not_copied():
    values = torch.ones(3)
    assert Snapshot(torch.ones(3), values).values is values


def test_where_values_may_be_looked_at():
    tensor = torch.ones(3)
    assert can_look_at(tensor)
    assert not can_look_at(tensor.to("meta"))
    with FlopCounterMode(display=False):
        assert not can_look_at(tensor)
