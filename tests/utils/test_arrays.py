import os
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from utils.arrays import as_floats, as_integers, read_npz, read_pickle, read_torch

CONTENT = {"x": np.arange(6.0).reshape(2, 3), "n": np.int64(10), "t": np.float64(0.002), "note": ["a", {1}, (None, 2)]}
READERS = {"pickle": read_pickle, "torch": read_torch, "npz": read_npz}


def write(folder, kind, content):
    path = folder / kind
    with open(path, "wb") as file:
        {"pickle": pickle.dump, "torch": torch.save, "npz": lambda c, f: np.savez(f, **c)}[kind](content, file)
    return path


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal(found["x"], expected["x"])
    assert [found[name] for name in ("n", "t", "note")] == [expected[name] for name in ("n", "t", "note")]


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_plain_content_comes_back(tmp_path, kind):
    assert_same(READERS[kind](write(tmp_path, kind, CONTENT)), CONTENT)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_pickles_of_every_binary_protocol_and_of_numpy_1_and_2(tmp_path, protocol, core):
    text = pickle.dumps(CONTENT, protocol=protocol)
    if protocol < 4:  # from then on, names carry their lengths
        text = text.replace(b"numpy._core", core)
    (tmp_path / "pickle").write_bytes(text)
    assert_same(read_pickle(tmp_path / "pickle"), CONTENT)


@pytest.mark.parametrize("code", "?bBhHiIlLqQefdgSUO")
def test_torch_files_of_arrays_of_every_type(tmp_path, code):
    array = np.array([1, 0, 1]).astype(code)
    found = read_torch(write(tmp_path, "torch", {"a": {"x": array}}))["a"]["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_torch_files_of_tensors_and_of_the_old_format(tmp_path):
    content = {"x": torch.arange(3), "y": np.arange(3)}
    torch.save(content, tmp_path / "old", _use_new_zipfile_serialization=False)
    for path in (tmp_path / "old", write(tmp_path, "torch", content)):
        found = read_torch(path)
        assert torch.equal(found["x"], content["x"])
        np.testing.assert_array_equal(found["y"], content["y"])


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: np.array([bad], dtype=object), lambda bad: [{"a": bad}]])
@pytest.mark.parametrize(("kind", "message"), [("pickle", "mkdir is refused"), ("torch", "mkdir")])
def test_malicious_content_raises_and_runs_nothing(tmp_path, wrap, kind, message):
    path = write(tmp_path, kind, {**CONTENT, "extra": wrap(Malicious(tmp_path / "owned"))})
    with pytest.raises(ValueError, match=message):
        READERS[kind](path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "module", ["builtins\neval", "numpy\nload", "numpy.lib.npyio\nload", "numpy\nmemmap", "numpy._core.numeric\nload"]
)
def test_other_globals_are_refused(tmp_path, module):
    (tmp_path / "pickle").write_bytes(b"c" + module.encode() + b"\n.")
    with pytest.raises(ValueError, match="is refused"):
        read_pickle(tmp_path / "pickle")


@pytest.mark.parametrize("name", ["a\nb", "a" * 10_000])
def test_what_is_refused_is_said_in_a_short_line(tmp_path, name):
    names = b"".join(b"X" + len(part).to_bytes(4, "little") + part.encode() for part in ("os", name))
    (tmp_path / "pickle").write_bytes(b"\x80\x04" + names + b"\x93.")
    with pytest.raises(ValueError, match=r"expected a whole pickle .*: Unsupported global: ") as caught:
        read_pickle(tmp_path / "pickle")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", READERS)
def test_damaged_files_and_other_content_are_refused(tmp_path, kind):
    path = write(tmp_path, kind, {"x": CONTENT["x"]})
    whole = path.read_bytes()
    others = [whole[: len(whole) // 2], b"", b"not this at all" * 100]
    others += [] if kind == "npz" else [write(tmp_path, kind, wrong).read_bytes() for wrong in ([1, 2], {1: 2})]
    for content in others:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected"):
            READERS[kind](path)


def test_npz_of_objects_and_with_a_flipped_bit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="plain arrays"):
        read_npz(write(tmp_path, "npz", {"x": np.array([None, {}], dtype=object)}))
    content = write(tmp_path, "npz", {"x": np.zeros(1000)}).read_bytes()
    (tmp_path / "npz").write_bytes(content[:500] + b"\1" + content[501:])
    with pytest.raises(ValueError, match="plain arrays"):
        read_npz(tmp_path / "npz")


NUMBERS = st.sampled_from(
    [np.bool_, np.int8, np.uint8, np.int32, np.uint32, np.int64, np.float16, np.float32, np.float64]
)


@settings(deadline=None)
@given(arrays.arrays(NUMBERS, arrays.array_shapes(max_side=3)))
def test_numbers_of_any_type_are_cast(array):
    found = as_floats("x", array)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, array.astype(np.float64))
    if all(abs(number) <= 2**53 and number == round(number) for number in found.flat):
        np.testing.assert_array_equal(as_integers("x", array), array.astype(np.int64))
    else:
        with pytest.raises(ValueError, match="x: expected whole numbers"):
            as_integers("x", array)


def test_tensors_of_any_type_are_cast():
    for dtype in (torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool):
        assert as_floats("x", torch.ones(2, dtype=dtype).requires_grad_(dtype.is_floating_point)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (np.array(["1"]), "<U1"),
        (np.ones(1, dtype=complex), "complex128"),
        (torch.ones(1, dtype=torch.cfloat), "complex64"),
        (np.array([Fraction(1)]), "object"),
        ([1.0], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_array_of_real_numbers_is_refused(wrong, kind):
    with pytest.raises(ValueError, match=rf"x: expected an array of real numbers, got .*{kind}"):
        as_floats("x", wrong)
