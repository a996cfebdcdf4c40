"""QM9 itself: the files of its authors, downloaded and read, and what is read kept."""

from __future__ import annotations

import csv
import os
import shutil
import zlib
from contextlib import nullcontext
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
from rdkit import Chem, rdBase
from scipy import constants
from tqdm import tqdm

from experiments.qm9.bonds import bonds_of
from experiments.qm9.molecules import Molecules, draw_split
from experiments.qm9.targets import HARTREE, TARGETS
from utils.caches import load_or_make
from utils.downloads import download
from utils.files import atomic_write, locked, make_folder
from utils.hashes import record, sha256, verify

VERSION = 2  # raise it when the same files are read otherwise: old caches are then ignored
ARCHIVE_URL = "https://deepchemdata.s3-us-west-1.amazonaws.com/datasets/molnet_publish/qm9.zip"
UNCHARACTERIZED_URL = "https://ndownloader.figshare.com/files/3195404"
ARCHIVED, UNCHARACTERIZED = ("gdb9.sdf", "gdb9.sdf.csv"), "uncharacterized.txt"
# As TensorFlow Datasets has it. For the archive none is published; its entries have checksums.
UNCHARACTERIZED_SHA256 = "3aa5115d540b356de94791d4a74c3bf1ed91c469ecf52a4f5d7cc0506fe02e24"
UNCHARACTERIZED_LINES = slice(9, -2)  # of that file, between its header and its footer
MOLECULES = 130_831  # without those whose geometries are uncharacterised
TRAIN, VALID = 100_000, 17_748  # and 13,083 for the test, a tenth: the field's sizes
KCAL_PER_MOL = constants.kilo * constants.calorie / (constants.N_A * constants.e)  # eV
# Columns of the table, and the factor to the target's unit. Total energies are there relative to free atoms as well.
COLUMNS = {
    **{name: (name, HARTREE if TARGETS[name].energy else 1.0)
       for name in ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "cv")},
    **{name: (f"{name}_atom", KCAL_PER_MOL) for name in ("u0", "u298", "h298", "g298")},
}  # fmt: skip


def from_download(root: str | os.PathLike[str], *, fetch: bool = True, progress: bool = False) -> Molecules:
    """QM9 with the bonds of its authors' files, downloaded where it is not there yet.

    The folder may be one that PyTorch Geometric has made: its raw files are the same. What that keeps in ``processed/``
    is not read, since reading it can run code.

    Split at random, with a fixed seed, into 100,000 for training, 17,748 for validation and 13,083 for the test.
    SHA256SUMS says what the raw files held when they came; one that has changed is not used.

    Args:
        root: folder with ``raw/`` for what is downloaded, and ``processed/`` for what is read from it.
        fetch: whether what is not there may be downloaded.
        progress: show progress bars.

    Raises:
        FileNotFoundError: QM9 is not there, and may not be downloaded.
        ConnectionError: a file could not be downloaded; the message says what can be done.
        ValueError: what was downloaded is damaged, and was removed, or has changed since, or is not QM9.
        OSError: the folder cannot be written to; BlockingIOError where another process is at it.
    """
    root = Path(root)
    raw = [root / "raw" / name for name in (*ARCHIVED, UNCHARACTERIZED)]
    has_raw = all(path.is_file() for path in raw)
    if not (fetch or has_raw):
        raise FileNotFoundError(f"{root} does not hold QM9; --source download gets it from the internet")
    kept = root / "processed" / "molecules.npz"
    if has_raw and not kept.exists() and not os.access(root, os.W_OK):
        return _read_raw(root / "raw", progress)
    with nullcontext() if has_raw and kept.exists() else locked(make_folder(root)):
        _download_raw(root / "raw", progress)
        key = f"{VERSION} {' '.join(map(sha256, raw))}"
        make = lambda: _read_raw(root / "raw", progress).arrays()  # noqa: E731
        return Molecules.of_arrays(load_or_make(kept, key, make, "reading QM9"))


def _download_raw(folder: Path, progress: bool) -> None:
    """The raw files, unless they are there and whole."""
    download(UNCHARACTERIZED_URL, folder / UNCHARACTERIZED, sha256=UNCHARACTERIZED_SHA256, progress=progress)
    if not all((folder / name).exists() for name in ARCHIVED):
        archive = download(ARCHIVE_URL, folder / "qm9.zip", progress=progress)
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


def _read_raw(folder: Path, progress: bool) -> Molecules:
    """The molecules of the raw files whose geometries are characterised."""
    try:
        with open(folder / UNCHARACTERIZED, encoding="utf-8") as file:
            skipped = {int(line.split()[0]) - 1 for line in file.read().split("\n")[UNCHARACTERIZED_LINES]}
        with open(folder / ARCHIVED[1], encoding="utf-8", newline="") as file:
            rows = [row for number, row in enumerate(csv.DictReader(file)) if number not in skipped]
        targets = {
            name: factor * np.array([row[column] for row in rows], dtype=np.float64)
            for name, (column, factor) in COLUMNS.items()
        }
        table = _read_molecules(folder / ARCHIVED[0], skipped, progress)
        if (count := len(table["names"])) != MOLECULES:
            raise ValueError(f"expected the {MOLECULES:,} molecules of QM9, got {count:,}; remove the folder")
        split = draw_split(MOLECULES, TRAIN, VALID)
        return Molecules(**table, split=split, perceived=np.ones(MOLECULES, dtype=bool), targets=targets)
    except (csv.Error, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: expected the files of QM9, got others: {error}") from error


def _read_molecules(path: Path, skipped: set[int], progress: bool) -> dict[str, np.ndarray]:
    """Names, atoms and bonds; bonds of each molecule from the lower to the higher atom, in order."""
    names, numbers, positions, bonds = [], [], [], []
    with open(path, "rb") as file:
        if any(b"V30" in line for line in file):  # RDKit takes memory for as many atoms as a line in there says
            raise ValueError(f"{path.name}: expected molecules of format V2000, got V3000")
    with rdBase.BlockLogs():
        molecules = Chem.SDMolSupplier(str(path), removeHs=False, sanitize=False)
        for place, molecule in enumerate(tqdm(molecules, desc="molecules", disable=None if progress else True)):
            if place in skipped:
                continue
            if molecule is None:
                raise ValueError(f"{path.name}: molecule {place + 1} is damaged")
            pairs, types = bonds_of(molecule)
            names.append(molecule.GetProp("_Name"))
            numbers.append([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
            positions.append(molecule.GetConformer().GetPositions())
            bonds.append(np.unique(np.column_stack([np.sort(pairs, axis=1), types]), axis=0))
    pairs_and_types = np.concatenate([np.empty((0, 3), np.int64), *bonds])
    return {
        "names": np.array(names),
        "num_atoms": np.array([len(atoms) for atoms in numbers], dtype=np.int64),
        "numbers": np.array([number for atoms in numbers for number in atoms], dtype=np.int64),
        "positions": np.concatenate([np.empty((0, 3)), *positions]),
        "num_bonds": np.array([len(table) for table in bonds], dtype=np.int64),
        "bonds": pairs_and_types[:, :2],
        "bond_types": pairs_and_types[:, 2],
    }
