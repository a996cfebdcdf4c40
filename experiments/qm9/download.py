"""QM9 itself, downloaded and read by PyTorch Geometric's loader."""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from experiments.qm9.molecules import Molecules, draw_split
from utils.downloads import download
from utils.files import atomic_write, locked, make_folder
from utils.hashes import record, verify

ARCHIVED, UNCHARACTERIZED = ("gdb9.sdf", "gdb9.sdf.csv"), "uncharacterized.txt"
# As TensorFlow Datasets has it. For the archive none is published; its entries have checksums.
UNCHARACTERIZED_SHA256 = "3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24"
MOLECULES = 130_831  # without those whose geometries are uncharacterised
TRAIN, VALID = 100_000, 17_748  # and 13,083 for the test, a tenth: the field's sizes
# The loader's columns. Energies relative to free atoms are columns of their own: total ones lose meV in float32.
COLUMNS = {"mu": 0, "alpha": 1, "homo": 2, "lumo": 3, "gap": 4, "r2": 5, "zpve": 6, "cv": 11,
           "u0": 12, "u298": 13, "h298": 14, "g298": 15}  # fmt: skip


def from_download(root: str | os.PathLike[str], *, fetch: bool = True, progress: bool = False) -> Molecules:
    """QM9 as PyTorch Geometric reads it, with the bonds of its authors' files, downloaded where it is not there yet.

    Split at random, with a fixed seed, into 100,000 for training, 17,748 for validation and 13,083 for the test.
    SHA256SUMS in the two folders say what files held when they were made; one that has changed is not used.

    Args:
        root: the loader's cache folder: ``raw/`` for what is downloaded, ``processed/`` for what is read from it.
        fetch: whether what is not there may be downloaded.
        progress: show progress bars of the downloads; the loader shows its own.

    Raises:
        ImportError: PyTorch Geometric is not installed.
        FileNotFoundError: QM9 is not there, and may not be downloaded.
        ConnectionError: a file could not be downloaded; the message says what can be done.
        ValueError: what was downloaded is damaged, and was removed, or has changed since, or is not QM9.
        OSError: the folder cannot be written to; BlockingIOError where another process is at it.
    """
    try:
        from torch_geometric.datasets import QM9
    except ImportError as error:
        raise ImportError("QM9 is read by PyTorch Geometric: pip install torch_geometric") from error
    root = Path(root)
    # Without the raw files the loader would download, even if it has no need of them.
    has_raw = all((root / "raw" / name).exists() for name in (*ARCHIVED, UNCHARACTERIZED))
    if not (fetch or has_raw):
        raise FileNotFoundError(f"{root} does not hold QM9; --source download gets it from the internet")
    try:
        whole, changed = verify(root / "processed") or _is_of_others(root), None
    except ValueError as error:
        whole, changed = False, error
    dataset = QM9(str(root)) if whole and has_raw else _make(QM9, root, changed, progress)
    if len(dataset) != MOLECULES:
        raise ValueError(
            f"{root}: expected the {MOLECULES:,} molecules of QM9, got {len(dataset):,}; remove the folder"
        )
    return _table(dataset._data, dataset.slices)


def _is_of_others(root: Path) -> bool:
    """Whether there are processed files, in a folder where no record of them can be made."""
    return (root / "processed").exists() and not os.access(root, os.W_OK)


def _make(loader: type, root: Path, changed: Exception | None, progress: bool) -> Any:
    """The loader's dataset, from the raw files if its processed ones are not there, or ``changed``."""
    processed = root / "processed"
    with locked(make_folder(root)):
        _download_raw(loader, root / "raw", progress)
        dataset = None
        if changed is None:
            was_processed = any(processed.glob("data*"))
            try:
                dataset = loader(str(root))
            except Exception as error:  # an interrupted loader leaves what torch.load may fail on in any way
                if not was_processed:
                    raise
                changed = error
        if dataset is None:
            warnings.warn(f"{processed} cannot be read, reading the raw files again: {changed}", stacklevel=3)
            dataset = loader(str(root), force_reload=True)
        record(processed, sorted(path.name for path in processed.glob("*.pt")))
    return dataset


def _download_raw(loader: type, folder: Path, progress: bool) -> None:
    """The loader's raw files, which it then finds and does not download itself."""
    download(loader.raw_url2, folder / UNCHARACTERIZED, sha256=UNCHARACTERIZED_SHA256, progress=progress)
    if not all((folder / name).exists() for name in ARCHIVED):
        archive = download(loader.raw_url, folder / "qm9.zip", progress=progress)
        try:
            with ZipFile(archive) as content:
                for name in ARCHIVED:
                    with content.open(name) as source, atomic_write(folder / name) as target:
                        shutil.copyfileobj(source, target)
        except (BadZipFile, zlib.error, KeyError, EOFError) as error:
            archive.unlink()
            raise ValueError(f"{archive} was damaged and is removed, run the same again: {error}") from error
        record(folder, ARCHIVED)
        archive.unlink()
        return
    try:
        if not verify(folder):  # they came by other means
            record(folder, ARCHIVED)
    except ValueError as error:
        raise ValueError(f"{error}; remove it and run the same again") from error


def _table(data: Any, slices: Mapping[str, Any]) -> Molecules:
    """The table of a loaded dataset, whose arrays are concatenated already."""
    edges, types = data.edge_index.numpy().T, data.edge_attr.argmax(dim=1).numpy()
    forward = edges[:, 0] < edges[:, 1]  # each bond is there in both directions
    num_atoms = np.diff(slices["z"].numpy())
    molecules = len(num_atoms)
    edge_of = np.repeat(np.arange(molecules), np.diff(slices["edge_index"].numpy()))
    return Molecules(
        names=np.array(data.name),
        split=draw_split(molecules, TRAIN, VALID),
        perceived=np.ones(molecules, dtype=bool),
        num_atoms=num_atoms,
        numbers=data.z.numpy(),
        positions=data.pos.double().numpy(),
        num_bonds=np.bincount(edge_of[forward], minlength=molecules),
        bonds=edges[forward],
        bond_types=types[forward],
        targets={name: data.y[:, column].double().numpy() for name, column in COLUMNS.items()},
    )
