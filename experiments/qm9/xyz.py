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
# Of the comment of an extended file. Each kind of value ends with the comment, if not before: then it is refused, and
# the search takes no longer than the comment is.
PAIR = re.compile(r"""(?<!\w)(\w+)\s*=\s*("(?:[^"\\]|\\.)*(?:"|$)|'(?:[^'\\]|\\.)*(?:'|$)|\{[^}]*(?:\}|$)|\S+)""")
CHARGE = re.compile(r"""(?:charge['"]?[ ]?[:=]?|\bq=)[ ]?['"]?([+-]?\d+(?:\.\d*)?)""", re.IGNORECASE)
CLOSING = {'"': '"', "'": "'", "{": "}"}  # by what values begin with
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([ed][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE)
COUNT = re.compile(r"\d{1,9}", re.ASCII)
OF_QM9 = re.compile(r"gdb\s+(\d{1,9})\b")
LONGEST_COMMENT = 1 << 16
FLAGS = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}
LONGEST_CELL = 1e4  # Å
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
    # Not splitlines, which also ends them at what is a letter in Windows-1252.
    lines = read_text(path).removesuffix("\n").split("\n")
    number, line = 0, 0
    while line < len(lines):
        if not lines[line].strip():
            line += 1
            continue
        number += 1
        name = f"{path.name}:{number}"
        if not COUNT.fullmatch(lines[line].strip()):
            yield name, ValueError(f"line {line + 1}: expected a number of atoms, got {lines[line][:80]!r}")
            return  # where the next frame begins is not known
        size = int(lines[line])
        comment, atoms = "".join(lines[line + 1 : line + 2]), lines[line + 2 : line + 2 + size]
        first, line = line + 3, line + 2 + size
        if of_qm9 := OF_QM9.match(comment):
            name = f"gdb_{of_qm9[1]}"
            if line < len(lines) and lines[line].strip() and not lines[line].strip().isdecimal():
                line += QM9_TRAILER
        try:
            if size < 1 or len(atoms) < size:
                raise ValueError(f"expected {max(size, 1)} lines of atoms, got {len(atoms)}")
            if len(comment) > LONGEST_COMMENT:
                raise ValueError(f"expected a comment of at most {LONGEST_COMMENT:,} letters, got {len(comment):,}")
            yield name, _frame(comment, atoms, first)
        except ValueError as error:
            yield name, error


def _frame(comment: str, atoms: list[str], first: int) -> Frame:
    """What a comment and lines of atoms say, of which the first one is line ``first`` of the file."""
    facts = _facts_of(comment)
    element, position, columns = _columns_of(facts.get("properties", "species:S:1:pos:R:3"))
    numbers, positions = [], []
    for number, atom in enumerate(atoms, start=first):
        words = atom.replace("*^", "e").split()
        if len(words) < columns:
            wanted = "an element and three coordinates" + f" in {columns} columns" * (columns > 4)
            raise ValueError(f"line {number}: expected {wanted}, got {atom[:80]!r}")
        try:
            numbers.append(_atomic_number(words[element]))
            positions.append([_coordinate(word) for word in words[position]])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return Frame(numbers, np.array(positions, dtype=np.float64), _cell_of(facts))


def _facts_of(comment: str) -> dict[str, str]:
    """What a comment says of a neutral molecule, by names in small letters, without quotation marks and brackets."""
    charge = CHARGE.search(comment)
    if charge and float(charge[1]):
        raise ValueError(f"expected a neutral molecule, got one of charge {float(charge[1]):+g}")
    facts: dict[str, str] = {}
    for key, value in PAIR.findall(comment):
        closing = CLOSING.get(value[0])
        if closing and (len(value) == 1 or value[-1] != closing):
            raise ValueError(f"{key}: expected a value that ends with {closing}, got {value[:80]!r}")
        facts[key.lower()] = re.sub(r"""["'{}\[\],]""", " ", value).strip()
    if not NUMBER.fullmatch(facts.get("charge", "0")):
        raise ValueError(f"charge: expected a number, got {facts['charge'][:80]!r}")
    return facts


def _columns_of(properties: str) -> tuple[int, slice, int]:
    """Where the element is, where the position, and how many columns there are, of ``name:type:columns:...``."""
    words = properties.split(":")
    names, sizes = [word.lower() for word in words[::3]], words[2::3]
    if len(words) % 3 or not all(map(COUNT.fullmatch, sizes)) or len({*names}) < len(names):
        raise ValueError(f"Properties: expected name:type:columns:..., got {properties[:80]!r}")
    starts = np.concatenate([[0], np.cumsum([int(size) for size in sizes])]).tolist()
    found = dict(zip(names, zip(starts[:-1], sizes, strict=True), strict=True))
    element = found.get("species", found.get("z", (0, "0")))
    position = found.get("pos", (0, "0"))
    if (element[1], position[1]) != ("1", "3"):
        raise ValueError(f"Properties: expected species:S:1 and pos:R:3 among them, got {properties[:80]!r}")
    return element[0], slice(position[0], position[0] + 3), starts[-1]


def _atomic_number(symbol: str) -> int:
    number = int(symbol) if COUNT.fullmatch(symbol) else NUMBERS.get(symbol.capitalize())
    if number is None:
        raise ValueError(f"there is no element {symbol[:80]!r}")
    return number


def _coordinate(word: str) -> float:
    if not NUMBER.fullmatch(word):
        raise ValueError(f"expected a coordinate, got {word[:80]!r}")
    return float(word.lower().replace("d", "e"))  # as Fortran writes 1D-3


def _cell_of(facts: dict[str, str]) -> np.ndarray | None:
    """The periodic vectors that a comment tells of; all three of ``Lattice``, unless ``pbc`` says otherwise."""
    lattice = facts.get("lattice", facts.get("cell"))
    flags = facts.get("pbc", "F F F" if lattice is None else "T T T").lower().split()
    if len(flags) != 3 or not FLAGS.keys() >= {*flags}:
        raise ValueError(f"pbc: expected three flags, T or F, got {facts['pbc'][:80]!r}")
    periodic = [FLAGS[flag] for flag in flags]
    if not any(periodic):
        return None
    words = (lattice or "").split()
    if len(words) != 9 or not all(map(NUMBER.fullmatch, words)):
        raise ValueError(f"Lattice: expected nine numbers, got {lattice and lattice[:80]!r}")
    cell = np.array([_coordinate(word) for word in words]).reshape(3, 3)
    if not (np.abs(cell) <= LONGEST_CELL).all() or not cell[periodic].any(axis=1).all():
        raise ValueError(f"Lattice: expected three vectors of at most {LONGEST_CELL:,.0f} Å, got {lattice!r}")
    return cell * np.array(periodic)[:, None]
