import numpy as np
import pytest

from utils import caches
from utils.caches import load_or_make

ARRAYS = {"x": np.arange(6.0).reshape(2, 3), "n": np.array([1, 2]), "none": np.empty((0, 2), bool)}


@pytest.fixture
def get(tmp_path):
    """Asks for the arrays; counts how often they were made."""
    made = []

    def call(key="a"):
        arrays = load_or_make(tmp_path / "new" / "cache.npz", key, lambda: made.append(key) or ARRAYS, "making")
        assert arrays.keys() == ARRAYS.keys()
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(arrays[name], array)
            assert arrays[name].dtype == array.dtype
        return len(made)

    return call


def test_made_once_and_found_again(get):
    assert [get(), get()] == [1, 1]


def test_of_something_else(get):
    get("a")
    with pytest.warns(UserWarning, match=r"cache\.npz is not the cache it should be, making again: .*of b, got .*of a"):
        assert get("b") == 2
    assert get("b") == 2


@pytest.mark.parametrize("without", [["sha256"], ["key"], ["x"]])
def test_of_another_version(get, tmp_path, without):
    get()
    path = tmp_path / "new" / "cache.npz"
    with np.load(path) as content:
        np.savez(path, **{name: content[name] for name in content if name not in without})
    with pytest.warns(UserWarning, match="making again"):
        assert get() == 2


def test_another_array_under_the_right_key_is_not_taken(get, tmp_path):
    get()
    path = tmp_path / "new" / "cache.npz"
    with np.load(path) as content:
        np.savez(path, **{**content, "n": np.array([1, 3])})
    with pytest.warns(UserWarning, match="its arrays are not those that were written"):
        assert get() == 2


def test_no_flipped_byte_and_no_truncation_gives_other_arrays(get, tmp_path, recwarn):
    get()
    path = tmp_path / "new" / "cache.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        for spoiled in (whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :], whole[:place]):
            path.write_bytes(spoiled)
            get()  # checks the arrays
    assert {str(warning.message).split(": ")[0] for warning in recwarn} == {
        f"{path} is not the cache it should be, making again"
    }


def test_what_cannot_be_written_is_found_out_before(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        load_or_make(tmp_path / "file" / "cache.npz", "a", None, "making")


def test_a_failed_writing_leaves_the_old_cache(get, tmp_path, monkeypatch):
    get()
    path = tmp_path / "new" / "cache.npz"
    before = path.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches.np, "savez", fail)
    with pytest.raises(OSError, match=r"No space left on device: '.*cache\.npz'"), pytest.warns(match="making"):
        get("b")
    assert path.read_bytes() == before
