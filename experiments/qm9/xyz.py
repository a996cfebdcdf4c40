"""Frames of .xyz files, plain, extended, or as QM9 itself has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rdkit import Chem

from utils.files import read_text

NUMBERS = {Chem.GetPeriodicTable().GetElementSymbol(number): number for number in range(1, 119)} | {"D": 1, "T": 1}
PAIR = re.compile(r"""(\w+)\s*=\s*("[^"]*"|'[^']*'|\{[^}]*\}|\S+)""")  # of the comment of an extended file
CHARGE = re.compile(r"""(?:charge['"]?[ ]?[:=]?|\bq=)[ ]?['"]?([+-]?\d+(?:\.\d*)?)""", re.IGNORECASE)
OF_QM9 = re.compile(r"gdb\s+(\d+)\b")
QM9_TRAILER = 3  # lines after the atoms in the files of QM9 itself: frequencies, SMILES, InChI


class Frame(NamedTuple):
    """One frame.

    Attributes:
        numbers: atomic numbers.
        positions: float64 ``[n, 3]``.
        cell: its vectors ``[3, 3]``, those that are not periodic are zero; None where none is.
    """

    numbers: list[int]
    positions: np.ndarray
    cell: np.ndarray | None


def read_frames(path: Path) -> Iterator[tuple[str, Frame | ValueError]]:
    """Frames one after the other: a line with the number of atoms, a comment, the atoms.

    A comment in extended XYZ says which columns there are (``Properties``) and in which cell (``Lattice``, ``pbc``).

    Args:
        path: the file.

    Yields:
        what each is called, and the frame or what is wrong with it.

    Raises:
        OSError: the file cannot be read.
    """
    lines = read_text(path).splitlines()
    number, line = 0, 0
    while line < len(lines):
        if not lines[line].strip():
            line += 1
            continue
        number += 1
        name = f"{path.name}:{number}"
        try:
            size = int(lines[line])
        except ValueError:
            yield name, ValueError(f"line {line + 1}: expected a number of atoms, got {lines[line][:80]!r}")
            return  # where the next frame begins is not known
        comment, atoms = "".join(lines[line + 1 : line + 2]), lines[line + 2 : line + 2 + max(size, 0)]
        first, line = line + 3, line + 2 + max(size, 0)
        if of_qm9 := OF_QM9.match(comment):
            name = f"gdb_{of_qm9[1]}"
            if line < len(lines) and lines[line].strip() and not lines[line].strip().isdecimal():
                line += QM9_TRAILER
        try:
            if size < 1 or len(atoms) < size:
                raise ValueError(f"expected {max(size, 1)} lines of atoms, got {len(atoms)}")
            yield name, _frame(comment, atoms, first)
        except ValueError as error:
            yield name, error


def _frame(comment: str, atoms: list[str], first: int) -> Frame:
    """What a comment and lines of atoms say, of which the first one is line ``first`` of the file."""
    charge = CHARGE.search(comment)
    if charge and float(charge[1]):
        raise ValueError(f"expected a neutral molecule, got one of charge {float(charge[1]):+g}")
    facts = {key.lower(): re.sub(r"""["'{}\[\],]""", " ", value).strip() for key, value in PAIR.findall(comment)}
    element, position, columns = _columns_of(facts.get("properties", "species:S:1:pos:R:3"))
    numbers, positions = [], []
    for number, atom in enumerate(atoms, start=first):
        words = atom.replace("*^", "e").split()
        if len(words) < columns:
            wanted = "an element and three coordinates" + f" in {columns} columns" * (columns > 4)
            raise ValueError(f"line {number}: expected {wanted}, got {atom[:80]!r}")
        try:
            numbers.append(_atomic_number(words[element]))
            positions.append([float(word) for word in words[position]])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return Frame(numbers, np.array(positions, dtype=np.float64), _cell_of(facts))


def _columns_of(properties: str) -> tuple[int, slice, int]:
    """Where the element is, where the position, and how many columns there are, of ``name:type:columns:...``."""
    words = properties.split(":")
    names, sizes = [word.lower() for word in words[::3]], words[2::3]
    if len(words) % 3 or not all(size.isdecimal() for size in sizes):
        raise ValueError(f"Properties: expected name:type:columns:..., got {properties!r}")
    starts = np.concatenate([[0], np.cumsum([int(size) for size in sizes])]).tolist()
    found = dict(zip(names, zip(starts[:-1], sizes, strict=True), strict=True))
    element = found.get("species", found.get("z", (0, "0")))
    position = found.get("pos", (0, "0"))
    if (element[1], position[1]) != ("1", "3"):
        raise ValueError(f"Properties: expected species:S:1 and pos:R:3 among them, got {properties!r}")
    return element[0], slice(position[0], position[0] + 3), starts[-1]


def _atomic_number(symbol: str) -> int:
    number = int(symbol) if symbol.isdecimal() else NUMBERS.get(symbol.capitalize())
    if number is None:
        raise ValueError(f"there is no element {symbol!r}")
    return number


def _cell_of(facts: dict[str, str]) -> np.ndarray | None:
    """The periodic vectors that a comment tells of; all three of ``Lattice``, unless ``pbc`` says otherwise."""
    lattice = facts.get("lattice", facts.get("cell"))
    flags = facts.get("pbc", "F F F" if lattice is None else "T T T").split()
    periodic = [flag.lower() in ("t", "true", "1") for flag in flags]
    if not any(periodic):
        return None
    try:
        cell = np.array((lattice or "").split(), dtype=np.float64).reshape(3, 3)
    except ValueError:
        raise ValueError(f"Lattice: expected nine numbers, got {lattice!r}") from None
    if len(periodic) != 3 or not np.isfinite(cell).all():
        raise ValueError("Lattice and pbc: expected nine finite numbers and three flags")
    return cell * np.array(periodic)[:, None]
