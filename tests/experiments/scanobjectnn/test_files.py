import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from experiments.scanobjectnn import files
from experiments.scanobjectnn.files import CLASSES, FILES, POINTS, read_file, read_scanobjectnn

h5py = pytest.importorskip("h5py")


def arrays(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "data": rng.normal(size=(count, POINTS, 3)).astype(np.float32),
        "label": np.arange(count) % len(CLASSES),
        "mask": rng.choice([-1, 3], size=(count, POINTS)),
    }


def write(path, **change):
    """A file as those of ScanObjectNN, but for some arrays; without those that are None."""
    with h5py.File(path, "w") as file:
        for name, value in {**arrays(), **change}.items():
            if value is not None:
                file.create_dataset(name, data=value, compression="gzip")
    return path


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(FILES):
        write(tmp_path / name, **arrays(4 + seed, seed))
    return tmp_path


@pytest.mark.parametrize(("up", "order"), [("z", [0, 1, 2]), ("y", [2, 0, 1]), ("x", [1, 2, 0])])
def test_both_files_are_read_with_z_up(folder, up, order):
    for seed, scans in enumerate(read_scanobjectnn(folder, up)):
        expected = arrays(4 + seed, seed)
        np.testing.assert_array_equal(scans.points, expected["data"][..., order])
        np.testing.assert_array_equal(scans.on_object, expected["mask"] != -1)
        np.testing.assert_array_equal(scans.labels, expected["label"])
        assert scans.points.dtype == np.float32
    assert np.linalg.det(np.eye(3)[order]) == 1  # no mirror


def test_without_a_mask_all_is_object(tmp_path):
    assert read_file(write(tmp_path / "a.h5", mask=None)).on_object.all()


FEW = "1 to 10,000 scans, got"
WRONG = [
    ({"data": None}, r"data: expected float32 \[scans, 2048, 3\], got none in the file itself"),
    ({"label": None}, r"label: expected whole numbers \[6\], got none"),
    ({"data": np.zeros((6, 2048, 3))}, r"data: expected float32 .*, got float64 \[6, 2048, 3\]"),
    ({"data": np.zeros((6, 1024, 3), np.float32)}, r"data: expected .*, got float32 \[6, 1024, 3\]"),
    ({"data": np.zeros((6, 6144), np.float32)}, r"data: expected .*, got float32 \[6, 6144\]"),
    ({"data": np.zeros((0, 2048, 3), np.float32)}, f"data: expected {FEW} 0"),
    ({"data": np.full((6, 2048, 3), np.nan, np.float32)}, "data: expected finite numbers, got NaN"),
    ({"label": np.arange(5)}, r"label: expected whole numbers \[6\], got int64 \[5\]"),
    ({"label": np.linspace(0, 1, 6)}, r"label: expected whole numbers \[6\], got float64 \[6\]"),
    ({"label": np.arange(6) + 10}, "label: expected 0 to 14, got 10 to 15"),
    ({"label": np.arange(6) - 1}, "label: expected 0 to 14, got -1 to 4"),
    ({"mask": np.zeros((6, 2047))}, r"mask: expected numbers \[6, 2048\], got float64 \[6, 2047\]"),
    ({"mask": np.full((6, 2048), b"a")}, r"mask: expected numbers \[6, 2048\], got \|S1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_files_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"^\S+a\.h5: {message}[^\n]*$"):
        read_file(write(tmp_path / "a.h5", **change))


def test_what_would_take_a_lot_is_not_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", shape=(10**7, POINTS, 3), dtype="f4", chunks=(1, POINTS, 3))
    with pytest.raises(ValueError, match=rf"data: expected {FEW} 10,000,000$"):
        read_file(tmp_path / "a.h5")


def test_what_is_elsewhere_is_not_read(tmp_path):
    write(tmp_path / "b.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = h5py.ExternalLink("b.h5", "data")
    with pytest.raises(ValueError, match="got none in the file itself"):
        read_file(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        shape = (6, POINTS, 3)
        file.create_dataset("data", shape=shape, dtype="f4", external=[(str(tmp_path / "b.h5"), 0, 6 * POINTS * 12)])
    with pytest.raises(ValueError, match="got none in the file itself"):
        read_file(tmp_path / "a.h5")


@pytest.mark.parametrize("damage", ["no HDF5", "cut", "overwritten"])
def test_damaged_files_are_refused(tmp_path, damage):
    path = write(tmp_path / "a.h5")
    content = bytearray(path.read_bytes())
    if damage == "no HDF5":
        content = b"a,b\n1,2\n"
    elif damage == "cut":
        content = content[: len(content) // 2]
    else:
        content[4096:-4096] = bytes(len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S+a\.h5: [^\n]*$"):
        read_file(path)


def test_a_missing_file_is_named(folder):
    (folder / FILES[1]).unlink()
    with pytest.raises(
        ValueError, match=rf"expected {FILES[0]} and {FILES[1]}, as in main_split_nobg, got no {FILES[1]}"
    ):
        read_scanobjectnn(folder, "z")


def test_without_h5py_a_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"^h5py is not installed: pip install h5py$"):
        read_scanobjectnn(folder, "z")


def test_a_file_that_unpacks_to_more_than_memory_is_refused(folder, monkeypatch):
    """A chunk of a megabyte that is a gigabyte of zeros: one block of a stream, over and over."""
    monkeypatch.setattr(files, "MEMORY", 2**29)
    packer = zlib.compressobj(9)
    header = packer.compress(b"") or packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    with h5py.File(folder / FILES[0], "w") as file:
        shape = (1, POINTS, 3)
        data = file.create_dataset("data", shape=shape, dtype="f4", chunks=shape, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), header + 1024 * block)
    with pytest.raises(ValueError, match=rf"{FILES[0]}: expected a whole HDF5 file[^\n]*$"):
        read_scanobjectnn(folder, "z")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of a process")
def test_reading_may_not_take_more_memory_than_it_is_given(folder, monkeypatch):
    monkeypatch.setattr(files, "MEMORY", 2**20)
    with pytest.raises(ValueError, match=rf"{FILES[0]}: expected a whole HDF5 file"):
        read_scanobjectnn(folder, "z")


def ends(path, memory):
    os._exit(139)


def test_a_file_whose_reading_ends_the_process_is_refused(folder, monkeypatch):
    monkeypatch.setattr(files, "_read_within", ends)
    with pytest.raises(ValueError, match=rf"{FILES[0]}: expected a whole HDF5 file that takes less than 2 GiB"):
        read_scanobjectnn(Path(folder), "z")
