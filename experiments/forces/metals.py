"""Writes structures of copper and aluminium with energies, forces and stress of ASE's EMT, to try a potential on.

python experiments/forces/metals.py metals             metals/train.extxyz, metals/valid.extxyz and metals/test.extxyz

32 atoms, or 31 around a vacancy, at 300 to 900 K and slightly strained: 300 structures, 50 and 50.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from utils.cli import UsageError, answer_help, blame, run
from utils.config import MOST, RULES, CountOrZero
from utils.flags import make_parser

TEMPERATURES = (300, 500, 700, 900)  # kelvin
STRAINS = (-0.01, 0.02)  # of the lattice, between
TIMESTEP, FRICTION, EQUILIBRATION, INTERVAL = 2.0, 0.02, 300, 20  # fs, per fs, steps, steps from frame to frame


@dataclass(frozen=True, kw_only=True, config=RULES)
class Metals:
    """Which structures."""

    folder: str
    """for the three files; without any of them so far"""
    structures: Annotated[int, Field(ge=16, le=MOST)] = 400
    """how many in all; an eighth are to test on, and to choose"""
    seed: CountOrZero = 0
    """of strains, vacancies, velocities and the split"""


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    return make_parser(__doc__, Metals, with_defaults=True)


if __name__ == "__main__":
    answer_help(build_parser)  # ASE takes a second to import

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.md.langevin import Langevin

from experiments.forces.dynamics import heat
from utils.files import make_folder


def structures(number: int, seed: int) -> list[Atoms]:
    """Structures with their labels, in random order.

    Args:
        number: how many, of all metals, temperatures, with and without a vacancy alike.
        seed: of all random numbers.
    """
    rng, frames = np.random.default_rng(seed), []
    kinds = [(metal, vacancy, t) for metal in ("Cu", "Al") for vacancy in (False, True) for t in TEMPERATURES]
    for i, (metal, has_vacancy, temperature) in enumerate(kinds):
        atoms = bulk(metal, cubic=True) * (2, 2, 2)
        atoms.set_cell(atoms.cell * (1 + rng.uniform(*STRAINS)), scale_atoms=True)
        if has_vacancy:
            del atoms[int(rng.integers(len(atoms)))]
        atoms.calc = EMT()
        heat(atoms, 2 * temperature, seed + i)  # half of it goes into potential energy
        bath = {"temperature_K": temperature, "friction": FRICTION / units.fs, "fixcm": False}
        dynamics = Langevin(atoms, TIMESTEP * units.fs, rng=rng, **bath)
        dynamics.run(EQUILIBRATION)
        for _ in range(number // len(kinds) + (i < number % len(kinds))):
            dynamics.run(INTERVAL)
            frame = atoms.copy()
            of_frame = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
            frame.calc = SinglePointCalculator(frame, **of_frame)
            frames.append(frame)
    return [frames[i] for i in rng.permutation(len(frames))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Raises:
        UsageError: the folder has such files already, or cannot be written to.
    """
    config = Metals(**vars(build_parser().parse_args(arguments)))
    held = config.structures // 8
    splits = {"train": slice(2 * held, None), "valid": slice(held, 2 * held), "test": slice(held)}
    paths = {split: Path(config.folder) / f"{split}.extxyz" for split in splits}
    if there := [path for path in paths.values() if path.exists()]:
        raise UsageError(f"{there[0]} is there already; name another folder")
    frames = structures(config.structures, config.seed)
    with blame("FOLDER"):
        make_folder(Path(config.folder))
        for split, path in paths.items():
            write(path, frames[splits[split]])
            print(f"{len(frames[splits[split]]):4} structures in {path}")


if __name__ == "__main__":
    run(main)
