"""The units of files that do not name them: told by the size of the numbers, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy.spatial.distance import pdist

from experiments.qm9.molecules import Molecules
from experiments.qm9.targets import FREE_ATOMS, HARTREE, TARGETS, free_atoms

# Median absolute values over the molecules of a data set, of extensive properties per atom. Energies in Hartree.
USUAL = {"homo": 0.25, "gap": 0.25, "zpve": 0.0083, "atomisation": 0.155, "alpha": 4.2, "cv": 1.75}
USUAL_LUMO = 0.03  # may be nearly zero: it tells the unit only where it is the only energy
TIMES = 5.0  # usual up to this many times as much, or as little; eV are 27 times as many as Hartree
TIMES_OTHERS = 2.6  # of what is no energy: J are 4 times as many as cal, and a0^3 7 times as many as Å^3
NEAREST = (0.6, 1.6)  # Å between the two nearest atoms of a molecule; in bohr it is above 1.8
SAMPLE = 1000  # molecules whose distances are looked at


def in_table_units(molecules: Molecules) -> Molecules:
    """Molecules as files hold them, in the table's units.

    Args:
        molecules: energies, all of them, in Hartree or in eV; total ones not yet relative to the free atoms.

    Returns:
        the same with energies in eV, total ones relative to the free atoms.

    Raises:
        ValueError: energies are in neither, or some in one and some in the other; ``alpha`` is not in a0^3 or ``cv``
            not in cal/(mol K); or positions are not in Å.
    """
    _check_positions(molecules)
    num_atoms, targets = molecules.num_atoms, dict(molecules.targets)
    atoms = {name: free_atoms(name, num_atoms, molecules.numbers) for name in FREE_ATOMS.keys() & targets.keys()}
    sizes = {name: -energies / HARTREE for name, energies in atoms.items()}
    sizes |= {name: size * (num_atoms if TARGETS[name].extensive else 1) for name, size in USUAL.items()}
    ratios = {name: ratio for name in sizes.keys() & targets.keys() if (ratio := _median(targets[name] / sizes[name]))}
    for name in ("alpha", "cv"):
        if not 1 / TIMES_OTHERS <= ratios.pop(name, 1.0) <= TIMES_OTHERS:
            raise ValueError(f"{name}: expected it in {TARGETS[name].unit}, got another unit")
    if not ratios and "lumo" in targets:
        ratios["lumo"] = max(1.0, _median(targets["lumo"]) / USUAL_LUMO)
    unit = _energy_unit(ratios)
    for name in targets:
        targets[name] = targets[name] * (unit if TARGETS[name].energy else 1.0) - atoms.get(name, 0.0)
    return replace(molecules, targets=targets)


def _energy_unit(ratios: Mapping[str, float]) -> float:
    """The unit, in eV, of energies that are so many times as large as those of other molecules are in Hartree."""
    units = {}
    for name, ratio in ratios.items():
        fitting = [unit for unit, times in ((HARTREE, 1.0), (1.0, HARTREE)) if 1 / TIMES <= ratio / times <= TIMES]
        if not fitting:
            raise ValueError(f"{name}: expected energies in Hartree or in eV, got {ratio:.3g} times the usual Hartree")
        units[name] = fitting[0]
    if len(set(units.values())) > 1:
        of_each = ", ".join(f"{name} in {'eV' if unit == 1.0 else 'Hartree'}" for name, unit in sorted(units.items()))
        raise ValueError(f"expected energies in one unit, got {of_each}")
    return next(iter(units.values()), HARTREE)


def _median(values: np.ndarray) -> float:
    """The median absolute value of what is known; 0 where nothing is."""
    known = np.abs(values[np.isfinite(values)])
    return float(np.median(known)) if len(known) else 0.0


def _check_positions(molecules: Molecules) -> None:
    rows = np.unique(np.linspace(0, len(molecules) - 1, SAMPLE).astype(np.int64)) if len(molecules) else np.arange(0)
    first = molecules.first_atom
    nearest = [
        pdist(molecules.positions[first[row] : first[row + 1]]).min() for row in rows if molecules.num_atoms[row] > 1
    ]
    if nearest and not NEAREST[0] <= np.median(nearest) <= NEAREST[1]:
        raise ValueError(f"positions: expected Å, got molecules whose nearest atoms are {np.median(nearest):.3g} apart")
