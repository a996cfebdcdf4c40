import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from equivariant_attention import pickles
from tests.wrong.pickles import PICKLES, TENSORS

CONTENT = {
    "numbers": [0, -1, 2**40, -(2**70), 0.5, float("inf")],
    "texts": ["", "ä", "x" * 300, b"", b"\xff\x00", None, True, False],
    "containers": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {1: {2.5: None}}, {3}, frozenset({"a"})),
}
ARRAYS = [
    np.arange(6.0).reshape(2, 3), np.arange(6).reshape(2, 3).T, np.zeros((0, 3)), np.array(1.5), np.array([True]),
    np.arange(3, dtype=">i4"), np.ones(2, dtype=np.float16), np.ones(1, dtype=np.complex64), np.array(["a", "äb"]),
    np.array([b"a"]), np.array([None, {"a": 1}, [2]], dtype=object), np.asfortranarray(np.ones((2, 2))),
]  # fmt: skip


def load(content, protocol):
    return pickles.load(io.BytesIO(pickle.dumps(content, protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(protocol):
    found = load(CONTENT, protocol)
    assert found == CONTENT
    assert [*map(type, found["texts"])] == [*map(type, CONTENT["texts"])]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_scalars_come_back(protocol):
    same = [ARRAYS[0], ARRAYS[0], *ARRAYS]  # remembered, and named again
    for found, expected in zip(load(same, protocol), same, strict=True):
        assert type(found) is np.ndarray
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
    scalars = [np.float64(0.5), np.int8(3), np.bool_(True), np.str_("ä")]
    found = load(scalars, protocol)
    assert found == scalars
    assert [*map(type, found)] == [*map(type, scalars)]


def test_what_python_2_wrote():
    """A dict of an array by protocol 2, where bytes are text."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    dtype = b"cnumpy\ndtype\n(U\x02i2K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    written = b"\x80\x02}U\x03loc" + array + b"(K\x01K\x02\x85" + dtype + b"\x89U\x04\x01\x00\xff\x00tbs."
    np.testing.assert_array_equal(pickles.load(io.BytesIO(written))["loc"], [1, 255])


def test_one_after_the_other_in_a_file():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps([2]) + b"rest")
    assert (pickles.load(file), pickles.load(file), file.read()) == (1, [2], b"rest")


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("key", [(1, 2), ((1, "a"), frozenset(), (None,)), (1, frozenset({("n", 2)})), (1,) * 8])
def test_short_tuples_are_keys(key, protocol):
    assert load([{key: 0}, {key[0]}], protocol) == [{key: 0}, {key[0]}]


def test_hostile_files_are_refused_without_a_crash():
    """In a process of its own, which would not outlive what some of them do to NumPy's and to Python's own readers."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.wrong.pickles"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4 * len(PICKLES) + len(TENSORS)
    assert [line for line in lines if ": refused, " not in line] == []
    assert sum("no file of the published code's cache: " in line for line in lines) == 2 * len(PICKLES)
