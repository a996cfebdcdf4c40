"""The properties that can be learned: their units, and the energies of free atoms that energies are relative to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from textwrap import shorten
from typing import Literal

import numpy as np
from scipy import constants

HARTREE = constants.value("Hartree energy in eV")  # eV
DEBYE = constants.value("atomic unit of electric dipole mom.") * constants.c * 1e21  # of one e a0, in Debye

ELEMENTS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}  # in the order of the node features


@dataclass(frozen=True)
class Target:
    """A property of molecules.

    Attributes:
        unit: in which the table and the models hold it.
        energy: whether raw data hold it in Hartree, and errors are reported in meV.
        extensive: whether it grows with the molecule, so that it may be learned per atom.
        kind: a number, or a vector or symmetric tensor that turns with the molecule.
        length: whether it is the length of a vector, so that a symmetry may make it zero.
    """

    unit: str
    energy: bool = False
    extensive: bool = False
    kind: Literal["number", "vector", "tensor"] = "number"
    length: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one molecule's."""
        return {"number": (), "vector": (3,), "tensor": (3, 3)}[self.kind]

    @property
    def grows(self) -> bool:
        """Whether it is a sum over the molecule, as extensive properties and vectors are, and not a mean."""
        return self.extensive or self.kind == "vector"

    @property
    def readout(self) -> Literal["length", "sum", "pooled"]:
        """How a model of several targets may read it out, see :class:`experiments.qm9.models.SE3TransformerSeveral`."""
        return "length" if self.length else "sum" if self.extensive else "pooled"

    @property
    def report_unit(self) -> str:
        """In which errors are reported."""
        return "meV" if self.energy else self.unit

    @property
    def report_factor(self) -> float:
        """From :attr:`unit` to :attr:`report_unit`."""
        return 1000.0 if self.energy else 1.0


TARGETS = {
    "mu": Target("D", length=True),
    "alpha": Target("a0^3", extensive=True),
    "homo": Target("eV", energy=True),
    "lumo": Target("eV", energy=True),
    "gap": Target("eV", energy=True),
    "r2": Target("a0^2", extensive=True),
    "zpve": Target("eV", energy=True, extensive=True),
    "u0": Target("eV", energy=True, extensive=True),
    "u298": Target("eV", energy=True, extensive=True),
    "h298": Target("eV", energy=True, extensive=True),
    "g298": Target("eV", energy=True, extensive=True),
    "cv": Target("cal/(mol K)", extensive=True),
    "atomisation": Target("eV", energy=True, extensive=True),  # of the embedded set and other methods
    "dipole": Target("D", kind="vector"),
    "polarizability": Target("a0^3", extensive=True, kind="tensor"),
}


def names_of(task: str) -> tuple[str, ...]:
    """The targets that a task names.

    Args:
        task: one of ``TARGETS``, or several numbers among them with commas between them.
    """
    return tuple(task.split(","))


def check_task(task: str) -> str:
    """The task itself, where it is one.

    Args:
        task: any text.

    Raises:
        ValueError: it names what is no target, one twice, or a vector or tensor beside others.
    """
    names = names_of(task)
    if not {*names} <= TARGETS.keys() or len({*names}) < len(names):
        raise ValueError(f"expected targets among {', '.join(TARGETS)}, each once, got {shorten(task, 60)!r}")
    if len(names) > 1 and (turning := [name for name in names if TARGETS[name].kind != "number"]):
        got = f"{turning[0]}, a {TARGETS[turning[0]].kind}"
        raise ValueError(f"expected numbers alone to be learnt together, got {got}, among {task}")
    return task


def check_weights(words: str) -> str:
    """The words themselves, where they are numbers above 0 with commas between them.

    Args:
        words: any text.

    Raises:
        ValueError: they are not.
    """
    weights_of(words)
    return words


def weights_of(words: str) -> list[float]:
    """The numbers.

    Args:
        words: as of :func:`check_weights`.

    Raises:
        ValueError: there are others.
    """
    try:
        weights = [float(word) for word in words.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"expected numbers above 0 with commas between them, got {shorten(words, 60)!r}")
    return weights


# Energies of free atoms in Hartree at QM9's level, B3LYP/6-31G(2df,p), as published with the data set.
FREE_ATOMS = {
    "u0": {1: -0.500273, 6: -37.846772, 7: -54.583861, 8: -75.064579, 9: -99.718730},
    "u298": {1: -0.498857, 6: -37.845355, 7: -54.582445, 8: -75.063163, 9: -99.717314},
    "h298": {1: -0.497912, 6: -37.844411, 7: -54.581501, 8: -75.062219, 9: -99.716370},
    "g298": {1: -0.510927, 6: -37.861317, 7: -54.598897, 8: -75.079532, 9: -99.733544},
}


def free_atoms(task: str, num_atoms: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The energy of the free atoms that each molecule is made of; zero for what is no total energy.

    Args:
        task: one of ``TARGETS``.
        num_atoms: of every molecule, ``[molecules]``.
        numbers: atomic numbers ``[atoms]``, molecule after molecule.

    Returns:
        ``[molecules]``, eV.
    """
    table = np.zeros(max(ELEMENTS) + 1)
    for number, energy in FREE_ATOMS.get(task, {}).items():
        table[number] = energy * HARTREE
    molecule = np.repeat(np.arange(len(num_atoms)), num_atoms)
    return np.bincount(molecule, weights=table[numbers], minlength=len(num_atoms))
