import random
from collections import namedtuple

import numpy as np
import pytest
import torch

from equivariant_attention.nvidia import utils


def test_degrees_are_cut_apart():
    features = torch.randn(4, 2, 4)
    parts = utils.unfuse_features(features, [0, 1])
    assert torch.equal(torch.cat([parts["0"], parts["1"]], dim=-1), features)
    assert utils.degree_to_dim(2) == 5
    with pytest.raises(ValueError, match="last dimension 4 for degrees"):
        utils.unfuse_features(features[..., :3], [0, 1])


def test_residuals_have_the_degrees_of_the_second():
    first, second = (
        {"0": torch.ones(2, 1, 1), "2": torch.ones(2, 1, 5)},
        {"0": torch.zeros(2, 1, 1), "1": torch.ones(2, 1, 3)},
    )
    assert utils.aggregate_residual(first, second, "add")["0"].flatten().tolist() == [1, 1]
    concatenated = utils.aggregate_residual(first, second, "cat")
    assert concatenated["0"][0].flatten().tolist() == [0, 1]
    assert list(concatenated) == ["0", "1"]
    first, second = ({int(d): value for d, value in part.items()} for part in (first, second))
    torch.testing.assert_close(utils.aggregate_residual(first, second, "cat"), concatenated)
    with pytest.raises(ValueError, match="method must be one of"):
        utils.aggregate_residual(first, second, "mean")


@pytest.mark.parametrize(("word", "value"), [(True, True), ("Yes", True), ("1", True), ("false", False), ("N", False)])
def test_words_for_truth(word, value):
    assert utils.str2bool(word) is value


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="v must be one of"):
        utils.str2bool("maybe")


def test_local_rank(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert utils.get_local_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert utils.get_local_rank() == 3


def test_all_generators_are_seeded():
    def numbers():
        utils.seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002  # what clients draw from

    assert numbers() == numbers()


def test_what_is_moved_to_cuda(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, **options: (device, float(self)))
    pair = namedtuple("pair", "a b")
    moved = utils.to_cuda({"x": [torch.tensor(1.0), "text"], "y": pair(torch.tensor(2.0), None)})
    assert moved == {"x": [("cuda", 1.0), "text"], "y": pair(("cuda", 2.0), None)}


@pytest.mark.parametrize(
    ("major", "amp", "expected"), [(8, False, True), (7, False, False), (7, True, True), (6, True, False)]
)
def test_tensor_cores(monkeypatch, major, amp, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (major, 0))
    assert utils.using_tensor_cores(amp) is expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not utils.using_tensor_cores(True)
