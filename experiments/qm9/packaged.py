"""QM9 from PyPI: the package ``qm9pack``, in which an author of QM9 has it whole."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from tqdm import tqdm

from experiments.qm9.bonds import with_bonds
from experiments.qm9.download import MOLECULES, TRAIN, VALID
from experiments.qm9.molecules import Molecules, draw_split
from experiments.qm9.targets import ELEMENTS
from experiments.qm9.units import in_table_units
from utils.caches import load_or_make
from utils.hashes import sha256

VERSION = 2  # raise it when the same files are read otherwise: old caches are then ignored
PACKAGE = "qm9pack"
FILES = {  # of its version 1.0.3
    "qm9_part1.csv": "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3",
    "qm9_part2.csv": "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61",
    "qm9_part3.csv": "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43",
}
TENSORS = {"qm9_polarizability.csv": "1729ebca7da76850ca1091c050933901c84b90edb30d06f34df1ebd47789d23a"}
ELEMENTS_OF_TENSORS = ("xx", "xy", "xz", "xy", "yy", "yz", "xz", "yz", "zz")
COLUMNS = {  # where targets are, in the units of QM9
    "mu": "Dipole_debye", "alpha": "Polarizability_bohr3", "homo": "HOMO_au", "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au", "r2": "R2_bohr2", "zpve": "ZPVE_au", "u0": "InternalEnergy_0K_au",
    "u298": "InternalEnergy_298K_au", "h298": "Enthalphy_298K_au", "g298": "GibbsFreeEnergy_298K_au",
    "cv": "Heatcapacity_Cv_cal_mol_K",
}  # fmt: skip
NUMBERS = {symbol: number for number, symbol in ELEMENTS.items()}
TO_BLANKS = str.maketrans("[],'", "    ")


def from_qm9pack(
    cache: str | os.PathLike[str] | None, *, workers: int | None = None, progress: bool = False
) -> Molecules:
    """The 130,831 molecules of QM9 in the installed package ``qm9pack``, whose files are read as data: no code is run.

    The package has no bonds: RDKit perceives them from the positions. A fixed draw splits the molecules, by their place
    in QM9, into 100,000 for training, 17,748 for validation and 13,083 for the test.

    Args:
        cache: folder where all that is kept and found again, then without the package; None to read it each time.
        workers: processes that perceive bonds; None for one per core that this process may use.
        progress: show progress bars.

    Raises:
        ModuleNotFoundError: the package is not installed.
        ValueError: its files are others than those that are known.
        OSError: they cannot be read, or the cache cannot be written to.
    """

    def make() -> dict[str, np.ndarray]:
        return _read(_folder(), cache, workers, progress).arrays()

    if cache is None:
        return Molecules.of_arrays(make())
    key = " ".join([str(VERSION), *FILES.values(), *TENSORS.values()])
    return Molecules.of_arrays(load_or_make(Path(cache) / "qm9pack.npz", key, make, "reading qm9pack"))


def _folder() -> Path:
    """Where the package's files are, found out without importing it; they are those that are known."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: pip install {PACKAGE}")
    folder = Path(spec.origin).parent / "data"
    for name, expected in {**FILES, **TENSORS}.items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise ValueError(f"{folder / name}: expected the file of {PACKAGE} 1.0.3, got none or another")
    return folder


def _read(folder: Path, cache: str | os.PathLike[str] | None, workers: int | None, progress: bool) -> Molecules:
    rows = tqdm(_rows(folder, FILES), total=MOLECULES, desc=PACKAGE, disable=None if progress else True)
    ids, numbers, positions, targets = zip(*map(_parsed, rows), strict=True)
    if (count := len(ids)) != MOLECULES:
        raise ValueError(f"{folder}: expected the {MOLECULES:,} molecules of QM9, got {count:,}")
    tensors = dict(map(_tensor, _rows(folder, TENSORS)))
    if unknown := set(ids) - tensors.keys():
        raise ValueError(f"{folder}: expected the polarizability of every molecule, got none of gdb_{min(unknown)}")
    num_atoms = np.array([len(part) for part in numbers], dtype=np.int64)
    molecules = Molecules(
        names=np.array([f"gdb_{number}" for number in ids]),
        split=draw_split(count, TRAIN, VALID),
        perceived=np.zeros(count, dtype=bool),
        num_atoms=num_atoms,
        numbers=np.concatenate(numbers),
        positions=np.concatenate(positions),
        num_bonds=np.zeros_like(num_atoms),
        bonds=np.empty((0, 2), dtype=np.int64),
        bond_types=np.empty(0, dtype=np.int64),
        targets={
            **dict(zip(COLUMNS, np.array(targets).T, strict=True)),
            "polarizability": np.array([tensors[number] for number in ids]).reshape(count, 3, 3),
        },
    )
    return with_bonds(in_table_units(molecules), cache, workers, progress)


def _rows(folder: Path, names: Iterable[str]) -> Iterator[dict[str, str]]:
    for name in names:
        with open(folder / name, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


def _parsed(row: dict[str, str]) -> tuple[int, np.ndarray, np.ndarray, list[float]]:
    """Number, atomic numbers, positions and targets of a molecule."""
    symbols, coordinates = (row[column].translate(TO_BLANKS).split() for column in ("Elements", "XYZ_Ang"))
    numbers = np.array([NUMBERS[symbol] for symbol in symbols], dtype=np.int64)
    positions = np.array(coordinates, dtype=np.float64).reshape(len(numbers), 3)
    return int(row["Index"]), numbers, positions, [float(row[column]) for column in COLUMNS.values()]


def _tensor(row: dict[str, str]) -> tuple[int, list[float]]:
    """Number and polarisability tensor of a molecule, along the axes of the calculations, row by row."""
    number = row["XYZ_file"].removeprefix("dsgdb9nsd_").removesuffix(".xyz")
    return int(number), [float(row[f"A_{element}"]) for element in ELEMENTS_OF_TENSORS]
