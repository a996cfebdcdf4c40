"""The one table of molecules that every source fills and everything else reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from experiments.qm9.targets import ELEMENTS, TARGETS
from utils.arrays import read_npz
from utils.files import atomic_write
from utils.ragged import ranges, starts

SPLITS = ("train", "valid", "test")
BONDS = ("single", "double", "triple", "aromatic")  # bond types, in the order of the edge features
MOST_ATOMS = 1000  # of a molecule, of which all pairs of atoms are looked at
OF_MOLECULES = ("names", "split", "perceived", "num_atoms", "num_bonds")
OF_ATOMS, OF_BONDS = ("numbers", "positions"), ("bonds", "bond_types")
ARRAYS = (*OF_MOLECULES, *OF_ATOMS, *OF_BONDS)
KINDS = {  # of the arrays, as NumPy names them
    "names": "U", "split": "iu", "perceived": "b", "num_atoms": "iu", "num_bonds": "iu",
    "numbers": "iu", "positions": "f", "bonds": "iu", "bond_types": "iu",
}  # fmt: skip


@dataclass(frozen=True)
class Molecules:
    """Molecules of any size: what belongs to their atoms, and to their bonds, is concatenated.

    Args:
        names: what each is called in reports, ``[molecules]``.
        split: where each belongs, as an index into ``SPLITS``, int8 ``[molecules]``.
        perceived: whether the orders of its bonds are known, bool ``[molecules]``; where not, all are single.
        num_atoms: int64 ``[molecules]``.
        numbers: atomic numbers, of H C N O F, int64 ``[atoms]``.
        positions: Å, float64 ``[atoms, 3]``.
        num_bonds: int64 ``[molecules]``.
        bonds: the two atoms of each bond, counted within the molecule, int64 ``[bonds, 2]``.
        bond_types: as an index into ``BONDS``, int64 ``[bonds]``.
        targets: by name, in the units of ``TARGETS``, float64 ``[molecules]`` or, vectors, ``[molecules, 3]``; NaN
            where unknown. Tensors, ``[molecules, 3, 3]``, are along the axes of
            :func:`~experiments.qm9.polarizability.charge_axes`. Energies u0, u298, h298 and g298 are relative to the
            free atoms.

    Raises:
        ValueError: an array, named, is not what it should be.
    """

    names: np.ndarray
    split: np.ndarray
    perceived: np.ndarray
    num_atoms: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    num_bonds: np.ndarray
    bonds: np.ndarray
    bond_types: np.ndarray
    targets: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kinds in KINDS.items():
            array = getattr(self, name)
            kind = array.dtype.kind if isinstance(array, np.ndarray) else type(array).__name__
            _check(name, kind in kinds, f"an array of one of the kinds {kinds}", kind)
        molecules, atoms, bonds = len(self.names), int(self.num_atoms.sum()), int(self.num_bonds.sum())
        shapes = {
            "split": (molecules,), "perceived": (molecules,), "num_atoms": (molecules,), "num_bonds": (molecules,),
            "numbers": (atoms,), "positions": (atoms, 3), "bonds": (bonds, 2), "bond_types": (bonds,),
        }  # fmt: skip
        for name, shape in shapes.items():
            _check(name, getattr(self, name).shape == shape, f"shape {list(shape)}", getattr(self, name).shape)
        for name in ("num_atoms", "num_bonds"):
            least = int(name == "num_atoms")
            _check(
                name,
                bool((getattr(self, name) >= least).all()),
                f"at least {least}",
                getattr(self, name).min(initial=0),
            )
        largest = self.num_atoms.max(initial=0)
        _check("num_atoms", largest <= MOST_ATOMS, f"at most {MOST_ATOMS} in a molecule", largest)
        if unknown := set(self.numbers.tolist()) - ELEMENTS.keys():
            _check("numbers", False, f"{[*ELEMENTS]}", f"{_named(unknown)} (known are {', '.join(ELEMENTS.values())})")
        _check("positions", bool(np.isfinite(self.positions).all()), "finite numbers", "NaN or infinity")
        _check("split", bool(np.isin(self.split, range(len(SPLITS))).all()), f"indices into {SPLITS}", self.split)
        of_bond = np.repeat(self.num_atoms, self.num_bonds)[:, None]
        inside = ((self.bonds >= 0) & (self.bonds < of_bond)).all() and (self.bonds[:, 0] != self.bonds[:, 1]).all()
        _check("bonds", bool(inside), "two atoms of the molecule", "others")
        _check(
            "bond_types", bool(np.isin(self.bond_types, range(len(BONDS))).all()), f"0 to {len(BONDS) - 1}", "others"
        )
        for name, values in self.targets.items():
            _check(f"targets[{name!r}]", name in TARGETS, f"one of {[*TARGETS]}", name)
            shape = (molecules, *TARGETS[name].shape)
            _check(f"targets[{name!r}]", values.shape == shape, f"shape {list(shape)}", values.shape)
            _check(f"targets[{name!r}]", values.dtype.kind == "f", "numbers", values.dtype)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def first_atom(self) -> np.ndarray:
        """Where the atoms of each molecule begin, and end: int64 ``[molecules + 1]``."""
        return starts(self.num_atoms)

    @property
    def first_bond(self) -> np.ndarray:
        """Where the bonds of each molecule begin, and end: int64 ``[molecules + 1]``."""
        return starts(self.num_bonds)

    @property
    def element_counts(self) -> np.ndarray:
        """How many atoms of each element there are, in the order of ``ELEMENTS``: int64 ``[molecules, elements]``."""
        is_element = (self.numbers[:, None] == [*ELEMENTS]).astype(np.int64)
        return np.add.reduceat(is_element, self.first_atom[:-1]) if len(self) else is_element

    @property
    def summary(self) -> str:
        """How many molecules there are, in each split, and with guessed bonds."""
        sizes = [f"{count:,} {name}" for name, count in zip(SPLITS, np.bincount(self.split, minlength=3), strict=True)]
        guessed = np.count_nonzero(~self.perceived)
        return f"{len(self):,} molecules ({', '.join(sizes)}), {guessed:,} of them with single bonds by distance alone"

    def part(self, split: str) -> Molecules:
        """The molecules of one split; those of the validation split where a test split is asked for and there is none.

        Args:
            split: one of ``SPLITS``.
        """
        rows = self.split == SPLITS.index(split)
        return self.part("valid") if split == "test" and not rows.any() else self.take(rows)

    def take(self, rows: np.ndarray) -> Molecules:
        """Some of the molecules.

        Args:
            rows: their indices ``[n]``, or a mask ``[molecules]``.
        """
        rows = np.arange(len(self))[rows]
        atoms, bonds = (ranges(first[rows], n[rows]) for first, n in (
            (self.first_atom, self.num_atoms), (self.first_bond, self.num_bonds)
        ))  # fmt: skip
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in OF_MOLECULES},
            **{name: getattr(self, name)[atoms] for name in OF_ATOMS},
            **{name: getattr(self, name)[bonds] for name in OF_BONDS},
            targets={name: values[rows] for name, values in self.targets.items()},
        )

    def hold_out(self, ids: np.ndarray) -> Molecules:
        """The same with the molecules of these numbers in the test split, and no others: none is trained or chosen on.

        Molecules that were in the test split and are not of these take, in a fixed random order, the places of those
        that leave the training set; the rest are for validation.

        Args:
            ids: numbers in QM9, int ``[n]``.

        Raises:
            ValueError: no molecule has one of them.
        """
        held = np.isin(self.names, [f"gdb_{number}" for number in ids])
        _check("ids", bool(held.any()), "numbers of some of the molecules", f"{len(ids)} others")
        of = {name: number for number, name in enumerate(SPLITS)}
        split = np.where(held, of["test"], self.split).astype(self.split.dtype)
        freed = np.random.default_rng(0).permutation(np.flatnonzero((split == of["test"]) & ~held))
        places = np.count_nonzero(held & (self.split == of["train"]))
        split[freed[:places]], split[freed[places:]] = of["train"], of["valid"]
        return replace(self, split=split)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as an .npz, atomically.

        Args:
            path: file to write.
        """
        with atomic_write(path) as file:
            np.savez_compressed(file, **self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name, those of targets as ``target_NAME``."""
        targets = {f"target_{name}": values for name, values in self.targets.items()}
        return {name: getattr(self, name) for name in ARRAYS} | targets

    @classmethod
    def of_arrays(cls, content: Mapping[str, np.ndarray]) -> Molecules:
        """The table of what :meth:`arrays` gave.

        Raises:
            ValueError: it is something else.
        """
        if missing := set(ARRAYS) - content.keys():
            raise ValueError(f"no table of molecules, without {sorted(missing)}")
        targets = {name.removeprefix("target_"): content[name] for name in content if name.startswith("target_")}
        return cls(**{name: content[name] for name in ARRAYS}, targets=targets)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Molecules:
        """Read what :meth:`save` wrote.

        Args:
            path: file to read.

        Raises:
            ValueError: the file, named, is damaged or no such table.
            OSError: it cannot be read.
        """
        try:
            return cls.of_arrays(read_npz(path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def join(parts: Sequence[Molecules]) -> Molecules:
    """One table of several with the same targets.

    Args:
        parts: at least one.

    Raises:
        ValueError: they have different targets.
    """
    if len(kinds := {frozenset(part.targets) for part in parts}) != 1:
        raise ValueError(f"parts: expected the same targets in all, got {[sorted(kind) for kind in kinds]}")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
    targets = {name: np.concatenate([part.targets[name] for part in parts]) for name in parts[0].targets}
    return Molecules(**arrays, targets=targets)


def draw_split(molecules: int, train: int, valid: int, seed: int = 0) -> np.ndarray:
    """Which split each molecule belongs to, drawn at random: int8 ``[molecules]``, an index into ``SPLITS``.

    Args:
        molecules: how many there are.
        train, valid: how many go there; the others are for the test.
        seed: of the draw; NumPy gives equal seeds equal draws on every machine.
    """
    split = np.full(molecules, 2, dtype=np.int8)
    order = np.random.default_rng(seed).permutation(molecules)
    split[order[:train]], split[order[train : train + valid]] = 0, 1
    return split


def _named(numbers: Iterable[int]) -> str:
    """Elements, each by its symbol, where it has one, and number."""
    from rdkit import Chem  # for a message alone

    symbol = Chem.GetPeriodicTable().GetElementSymbol
    return ", ".join(f"{symbol(number)} {number}" if 0 < number < 119 else str(number) for number in sorted(numbers))


def _check(name: str, holds: bool, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got}")
