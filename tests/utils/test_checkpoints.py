import random

import numpy as np
import pytest
import torch

from utils import checkpoints
from utils.checkpoints import STATE, WEIGHTS, CheckpointError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "last.pt"


def test_round_trip(path):
    content = {"tensor": torch.randn(3), "rows": [{"loss": 0.1, "epoch": 2}], "none": None}
    checkpoints.save(path, STATE, content)
    loaded = checkpoints.load(path, STATE)
    assert torch.equal(loaded.pop("tensor"), content.pop("tensor"))
    assert loaded == {"kind": STATE, **content}


def test_a_failed_save_leaves_the_old_one(path):
    checkpoints.save(path, STATE, {"epoch": 1})
    with pytest.raises((AttributeError, TypeError, RuntimeError), match="pickle"):
        checkpoints.save(path, STATE, {"epoch": 2, "unpicklable": (i for i in ())})
    assert checkpoints.load(path, STATE)["epoch"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_truncated_file(path, kept):
    checkpoints.save(path, STATE, {"tensor": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"last\.pt: expected a whole checkpoint"):
        checkpoints.load(path, STATE)


def test_a_flipped_bit(path):
    """PyTorch itself loads such files without a word."""
    checkpoints.save(path, STATE, {"tensor": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(bytes(1000)) + 500] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: expected a whole checkpoint .*is damaged"):
        checkpoints.load(path, STATE)


def test_foreign_files(path):
    path.parent.mkdir()
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="expected a whole checkpoint"):
        checkpoints.load(path, STATE)
    torch.save(random.Random(0), path)  # would run code on loading
    with pytest.raises(CheckpointError, match="expected a whole checkpoint"):
        checkpoints.load(path, STATE)
    torch.save({"epoch": 3}, path)
    with pytest.raises(CheckpointError, match=r"expected .* of kind 'training state 2', got a dict of \['epoch'\]"):
        checkpoints.load(path, STATE)
    with pytest.raises(CheckpointError, match="there is no such file"):
        checkpoints.load(path.with_name("missing.pt"), STATE)


@pytest.mark.parametrize("kind", [STATE, WEIGHTS, None])
def test_restore(path, kind):
    source, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    path.parent.mkdir()
    if kind is None:
        torch.save(source.state_dict(), path)
    else:
        checkpoints.save(path, kind, {"model": source.state_dict()})
    checkpoints.restore(target, path)
    assert torch.equal(source.weight, target.weight)


def test_restore_adapts_what_is_in_the_file(path):
    model, other = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    checkpoints.save(path, WEIGHTS, {"model": model.state_dict()})
    checkpoints.restore(other, path, adapt=lambda weights, flags: {**weights, "bias": torch.zeros(3)})
    assert torch.equal(other.weight, model.weight)
    assert not other.bias.any()
    checkpoints.save(path, WEIGHTS, {"model": "no weights"})
    with pytest.raises(CheckpointError, match="expected weights"):
        checkpoints.restore(other, path, adapt=lambda weights, flags: weights["bias"])


def test_restore_is_strict(path):
    checkpoints.save(path, WEIGHTS, {"model": torch.nn.Linear(2, 3).state_dict()})
    with pytest.raises(CheckpointError, match=r"(?s)last\.pt: the weights do not fit the model.*size mismatch"):
        checkpoints.restore(torch.nn.Linear(2, 4), path)
    torch.save({"weight": 3}, path)
    with pytest.raises(CheckpointError, match="expected weights"):
        checkpoints.restore(torch.nn.Linear(2, 4), path)


def test_weights_of_several_dtypes_are_refused(path):
    model = torch.nn.Linear(2, 3)
    weights = model.state_dict()
    checkpoints.save(path, WEIGHTS, {"model": {**weights, "bias": weights["bias"].to(torch.complex64)}})
    got = r"'weight' in torch\.float32, 'bias' in torch\.complex64"
    with pytest.raises(CheckpointError, match=rf"last\.pt: expected weights of one dtype, got {got}$"):
        checkpoints.restore(model, path)


def test_random_states_come_back(path):
    def draw():
        legacy = np.random.rand(), np.random.randn()  # noqa: NPY002
        return torch.rand(2).tolist(), legacy, random.random(), random.gauss(0, 1)

    draw()  # one normal number of a pair is drawn: the generators hold the other
    checkpoints.save(path, STATE, {"rng": checkpoints.rng_state()})
    expected = draw()
    draw()
    checkpoints.set_rng_state(checkpoints.load(path, STATE)["rng"])
    assert draw() == expected
