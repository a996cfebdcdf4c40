import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from equivariant_attention import files
from equivariant_attention.torch_files import NUMBERS, load_pickle, load_torch
from tests.wrong.pickles import Call

LEGACY = pytest.mark.parametrize("legacy", [False, True])


def load(content, legacy=False):
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    file.seek(0)
    return load_torch(file)


@LEGACY
@pytest.mark.parametrize("dtype", NUMBERS)
def test_tensors_of_every_type(dtype, legacy):
    if legacy and dtype in (torch.uint16, torch.uint32, torch.uint64):
        pytest.skip("PyTorch cannot write them so")
    tensor = torch.tensor([[0, 1], [1, 0]]).to(dtype)
    found = load({"w": tensor}, legacy)["w"]
    assert found.dtype == dtype
    assert torch.equal(found, tensor)


@LEGACY
def test_views_share_their_memory(legacy):
    base = torch.arange(6.0).reshape(2, 3)
    found = load([base, base.T, base[1:, 1:], base[:, :0]], legacy)
    for view, expected in zip(found, (base, base.T, base[1:, 1:], base[:, :0]), strict=True):
        assert (view.shape, view.stride()) == (expected.shape, expected.stride())
        assert torch.equal(view, expected)
    found[0][1, 1] = 9
    assert found[1][1, 1] == found[2][0, 0] == 9


@LEGACY
def test_modules_state_and_parameters(legacy):
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    found = load(module.state_dict(), legacy)
    module.load_state_dict(found)
    assert found._metadata == module.state_dict()._metadata
    parameter = load(nn.Parameter(torch.ones(2), requires_grad=False), legacy)
    assert isinstance(parameter, nn.Parameter)
    assert not parameter.requires_grad
    assert load(torch.ones(2, requires_grad=True), legacy).requires_grad


@pytest.mark.parametrize("odd", [None, 3, {1: {}}, {"": 2}, {"": {"version": "x"}}, {"": {"version": [1]}}])
def test_odd_metadata_are_left_out(odd):
    weights = nn.Linear(2, 3).state_dict()
    weights._metadata = odd
    found = load(weights)
    assert all(entry == {} for entry in found._metadata.values())
    nn.Linear(2, 3).load_state_dict(found)


@LEGACY
def test_plain_values_arrays_types_and_shapes(legacy):
    content = {"a": [1, "x", None, (True, 2.5)], "size": torch.Size([2, 3]), "type": torch.float32}
    assert load(content, legacy) == content
    np.testing.assert_array_equal(load(np.arange(3), legacy), np.arange(3))


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_in_a_pickle(protocol):
    numbers = torch.arange(6.0).reshape(2, 3)
    expected = [numbers, numbers.T, numbers[1:].half(), torch.arange(3), torch.tensor([True]), nn.Parameter(numbers)]
    for found, tensor in zip(load_pickle(io.BytesIO(pickle.dumps(expected, protocol))), expected, strict=True):
        assert (type(found), found.dtype) == (type(tensor), tensor.dtype)
        assert torch.equal(found, tensor)


STORAGE = torch.arange(6.0)._typed_storage()


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (7,), (1,)), (-1, (2,), (1,)), (0, (2, 3), (10**9, 1)), (5, (2,), (1,)), (0, (2, 2), (1,)),
     (2**70, (1,), (1,)), (0, (2,), (-1,)), (0, ("2",), (1,))],
)  # fmt: skip
def test_tensors_in_a_pickle_beyond_their_memory_are_refused(offset, shape, stride):
    content = Call(torch._utils._rebuild_tensor_v2, (STORAGE, offset, shape, stride, False, {}))
    with pytest.raises(ValueError, match=r"more numbers than the file|the shape of a tensor"):
        load_pickle(io.BytesIO(pickle.dumps(content, 2)))


LOAD, (MEMORY,) = STORAGE.__reduce__()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(MEMORY[:-1], "shape"), (b"", "pickle exhausted"), (b"K\1.", "no file of"),
     (pickle.dumps(Call(LOAD, (MEMORY,)), 2), "torch.storage._load_from_bytes is refused")], ids=range(4),
)  # fmt: skip
def test_damaged_memory_in_a_pickle_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        load_pickle(io.BytesIO(pickle.dumps(Call(LOAD, (wrong,)), 2)))


@LEGACY
@pytest.mark.parametrize("wrong", [nn.Linear(1, 1), torch.eye(2).to_sparse(), torch.ones(5).expand(1000, 5)])
def test_other_objects_and_tensors_larger_than_the_file_are_refused(wrong, legacy):
    with pytest.raises(ValueError, match=r"refused|more numbers than the file"):
        load(wrong, legacy)


def test_archives_that_unpack_to_much_more_are_refused(monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N." + bytes(10**6))
    files.check_archive(file)  # small enough for any file
    monkeypatch.setattr(files, "SMALL", 10**5)
    with pytest.raises(ValueError, match=r"expected at most 100,000 bytes in an archive of its size, got 1,000,002"):
        load_torch(file)


def test_archives_whose_entries_are_gone_are_refused():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3), b=np.zeros(3))
    content = bytearray(file.getvalue())
    end = content.rindex(b"PK\x05\x06")
    second = content.rindex(b"PK\x01\x02")
    content[end + 12 : end + 16] = (second - content.index(b"PK\x01\x02")).to_bytes(
        4, "little"
    )  # size of the directory
    del content[second:end]
    with pytest.raises(ValueError, match="not as many entries as were written"):
        files.check_archive(io.BytesIO(bytes(content)))


@pytest.mark.slow
def test_archives_of_many_entries():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(70_000):
            archive.writestr(str(number), b"")
    files.check_archive(file)
