"""Pickles of strangers: no code runs, no memory is trampled on, whatever they hold."""

import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from equivariant_attention.published.pickles import Call, Pairs, as_array, parsed


def read(value, protocol=4):
    return parsed(io.BytesIO(value if isinstance(value, bytes) else pickle.dumps(value, protocol)))


class Reduced:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def test_plain_values():
    assert read([1, 2.5, "a", None, (True, b"b")]) == [1, 2.5, "a", None, (True, b"b")]
    assert read({(1, 2): {"a": 1}}) == Pairs([((1, 2), Pairs([("a", 1)]))])


def test_nothing_is_called(tmp_path):
    call = read(Reduced(os.mkdir, (str(tmp_path / "made"),)))
    assert isinstance(call, Call)
    assert (call.name, call.args) == ("posix.mkdir" if os.name == "posix" else "nt.mkdir", (str(tmp_path / "made"),))
    with pytest.raises(ValueError, match=r"mkdir, which is refused"):
        as_array(call)
    assert not (tmp_path / "made").exists()


OBJECTS = Reduced(np.dtype, ("O", False, True), (3, "|", None, None, None, -1, -1, 0))  # says that it holds none
RECONSTRUCT = np.zeros(1).__reduce__()[:2]
FROM_BUFFER = np.zeros(1).__reduce_ex__(5)[0]


@pytest.mark.parametrize(
    "value",
    [
        Reduced(np.float64(0).__reduce__()[0], (OBJECTS, b"\x41" * 8)),
        Reduced(FROM_BUFFER, (b"\x41" * 16, OBJECTS, (2,), "C")),
        Reduced(*RECONSTRUCT, (1, (2,), OBJECTS, False, b"\x41" * 16)),
        Reduced(np.ndarray, ((2,), np.dtype("O"), b"\x41" * 16)),
        np.array([None, {}]),
        np.array(["a"]),
        np.zeros(2, [("a", "f4")]),
        Reduced(*RECONSTRUCT, (1, (3,), np.dtype("f8"), False, b"\x41" * 16)),
        Reduced(*RECONSTRUCT, (1, (-1, -2), np.dtype("f8"), False, b"\x41" * 16)),
        Reduced(*RECONSTRUCT, (1, (0, 10**12), np.dtype("f8"), False, b"\x41" * 16)),
    ],
    ids=range(10),
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_of_objects_and_of_other_shapes_are_refused(value, protocol):
    parts = read(value, protocol)
    with pytest.raises(ValueError):
        as_array(parts)


REBUILD, STORAGE = torch._utils._rebuild_tensor_v2, torch.arange(6.0)._typed_storage()


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [(0, (7,), (1,)), (-1, (2,), (1,)), (0, (2, 3), (10**9, 1)), (5, (2,), (1,)), (0, (0, 10**12), (1, 1)),
     (0, (2, 2), (1,)), (2**70, (1,), (1,)), (0, (2,), (-1,)), (0, ("2",), (1,))],
)  # fmt: skip
def test_tensors_beyond_their_storage_are_refused(offset, shape, stride):
    parts = read(Reduced(REBUILD, (STORAGE, offset, shape, stride, False, {})), 2)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        as_array(parts)


def test_of_tensors_and_their_storages():
    for value in (torch.arange(6.0).view(2, 3), torch.arange(6.0).view(2, 3).T, torch.arange(6.0)[2:].half()):
        np.testing.assert_array_equal(as_array(read(value, 2)), value.numpy())
    with pytest.raises(ValueError, match=r"storage of floats, got torch\.LongStorage"):
        as_array(read(torch.arange(6), 2))


DEEP = 200_000
HOSTILE = {
    "a key of nested tuples": b"\x80\x02})" + b"\x85" * DEEP + b"K\x01s.",
    "a code of a type of nested tuples": b"\x80\x02cnumpy\ndtype\n)" + b"\x85" * DEEP + b"\x85R.",
    "a place for 2^31 objects": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "items of a dict that are none": b"\x80\x02}(K\x01K\x02e.",
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "a string of 2^62 bytes": b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"a.",
    "a bytearray of 2^62 bytes": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"a.",
    "a shape of 10^9 lists": pickle.dumps(Reduced(FROM_BUFFER, (b"ab", np.dtype("f2"), (10**9, [0]), "C")), 2),
    "an extension": b"\x80\x02\x82\x01.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a state of a list": b"\x80\x02]}U\x01aK\x01sb.",
    "no end": b"\x80\x02K\x01",
    "not an opcode": b"\xff",
    "a deep list": b"\x80\x02" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
}


def test_hostile_pickles_end_in_an_exception_at_worst():
    code = (
        "import io, sys\n"
        "from equivariant_attention.published.pickles import as_array, parsed\n"
        "for line in sys.stdin:\n"
        "    try: as_array(parsed(io.BytesIO(bytes.fromhex(line))))\n"
        "    except Exception as error: print(type(error).__name__)"
    )
    lines = "\n".join(content.hex() for content in HOSTILE.values())
    done = subprocess.run([sys.executable, "-c", code], input=lines, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == len(HOSTILE)
