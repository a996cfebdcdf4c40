import pytest
import torch

from utils.delayed_reads import Later, one_behind


def test_numbers_are_read_as_float64():
    assert Later([torch.tensor(0.5), torch.tensor([2], dtype=torch.int64)]).read() == [0.5, 2.0]


def test_an_item_comes_when_the_next_has_been_made():
    made = []

    def items():
        for number in range(3):
            made.append(number)
            yield number

    assert [(item, len(made)) for item in one_behind(items())] == [(0, 2), (1, 3), (2, 3)]


def test_where_the_next_cannot_be_made_the_one_before_comes_first():
    def items():
        yield 0
        yield 1
        raise ValueError("of the third")

    came = []
    with pytest.raises(ValueError, match="of the third"):
        came.extend(one_behind(items()))
    assert came == [0, 1]


def test_no_items():
    assert [*one_behind([])] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_numbers_of_a_gpu():
    numbers = Later([torch.tensor(0.5, device="cuda"), torch.tensor(2, device="cuda")])
    assert numbers.read() == [0.5, 2.0]
