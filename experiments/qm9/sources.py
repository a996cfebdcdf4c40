"""Where molecules come from; whatever the source, they end up in one table, in the same units."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.qm9.bonds import with_bonds
from experiments.qm9.download import from_download
from experiments.qm9.molecules import Molecules, draw_split
from experiments.qm9.packaged import from_qm9pack
from experiments.qm9.published import from_published
from experiments.qm9.targets import DEBYE, TARGETS
from experiments.qm9.units import in_table_units
from utils.arrays import as_floats, as_integers, read_npz

EMBEDDED = Path(__file__).parent / "embedded" / "molecules.npz"

__all__ = ["embedded", "from_arrays", "from_download", "from_published", "from_qm9pack"]

MOST_MOLECULES = 1 << 20  # whose bonds are perceived: their arrays take gigabytes

# Targets of other methods than QM9's, as files call them: the name here, and the factor to its unit but for energies'.
OTHER_TARGETS = {
    "g4mp2_atom": ("atomisation", 1.0),
    "homo_hf": ("homo", 1.0),
    "lumo_hf": ("lumo", 1.0),
    "dip_hf": ("dipole", DEBYE),
}


def from_arrays(
    path: str | os.PathLike[str],
    cache: str | os.PathLike[str] | None,
    *,
    workers: int | None = None,
    progress: bool = False,
    limit: int | None = None,
) -> Molecules:
    """Molecules in an .npz of ragged arrays; RDKit perceives their bonds from the positions.

    The file holds ``N`` (atoms of each molecule), ``Z`` (atomic numbers) and ``R`` (Å, ``[atoms, 3]``), and may hold
    ``idx`` (numbers in QM9), ``validation`` (a mask) and targets in QM9's own units: energies in Hartree, or all in eV
    (which of them, their sizes tell: see :func:`~experiments.qm9.units.in_table_units`), total ones not yet relative to
    free atoms; others as in ``TARGETS``. Dipole vectors ``dip_hf``, in atomic units, are ``dipole``
    here, and their norm ``mu``; without ``gap``, it is the difference of ``lumo`` and ``homo``.

    Rows outside ``validation`` are for training and none for a test, for which the validation rows serve as well, see
    :meth:`Molecules.part`. Without ``validation``, a tenth each is drawn for validation and test.

    Args:
        path: the file.
        cache: folder where the bonds are kept and found again; None to perceive them each time.
        workers: processes that perceive bonds; None for one per core that this process may use.
        progress: show a progress bar.
        limit: how many molecules to keep, evenly spread over the file; None for all.

    Raises:
        ValueError: the file, named, is not what it should be, or ``limit`` is not positive.
        OSError: it cannot be read, or the cache cannot be written to.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    try:
        content = read_npz(path)
        if missing := {"N", "Z", "R"} - content.keys():
            raise ValueError(f"expected N, Z and R, without {sorted(missing)}")
        num_atoms, numbers = as_integers("N", content["N"]), as_integers("Z", content["Z"])
        if num_atoms.size > MOST_MOLECULES:
            raise ValueError(f"N: expected at most {MOST_MOLECULES:,} molecules, got {num_atoms.size:,}")
        molecules = Molecules(
            names=_names_of(content, len(num_atoms)),
            split=_split_of(content, len(num_atoms)),
            perceived=np.zeros(len(num_atoms), dtype=bool),
            num_atoms=num_atoms,
            numbers=numbers,
            positions=as_floats("R", content["R"]),
            num_bonds=np.zeros_like(num_atoms),
            bonds=np.empty((0, 2), dtype=np.int64),
            bond_types=np.empty(0, dtype=np.int64),
            targets=_targets_of(content),
        )
        molecules = _with_gap(in_table_units(molecules))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if limit is not None and limit < len(molecules):
        molecules = molecules.take(np.linspace(0, len(molecules) - 1, limit).round().astype(np.int64))
    return with_bonds(molecules, cache, workers, progress)


def embedded() -> Molecules:
    """The molecules that come with the code: small organic ones of H C N O F, four fifths of them for training.

    Geometries and labels (``atomisation``, ``homo``, ``lumo``, ``gap``, ``mu``, ``dipole``) are by GFN2-xTB, a
    semi-empirical method: real physics, but not QM9's. ``experiments/qm9/embedded/generate.py`` made them.
    """
    return Molecules.load(EMBEDDED)


def _names_of(content: Mapping[str, np.ndarray], molecules: int) -> np.ndarray:
    """Numbers in QM9 where they are known, else the rows of the file."""
    if "idx" in content:
        return np.array([f"gdb_{number}" for number in as_integers("idx", content["idx"])])
    return np.array([f"row_{row}" for row in range(molecules)])


def _split_of(content: Mapping[str, np.ndarray], molecules: int) -> np.ndarray:
    if "validation" in content:
        return as_integers("validation", content["validation"]).astype(np.int8)
    return draw_split(molecules, molecules - 2 * (molecules // 10), molecules // 10)


def _targets_of(content: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The targets, energies as in the file."""
    factors = {**OTHER_TARGETS, **{name: (name, 1.0) for name in TARGETS}}
    targets = {
        target: factor * as_floats(name, content[name]) for name, (target, factor) in factors.items() if name in content
    }
    if "dipole" in targets and "mu" not in targets:
        targets["mu"] = np.linalg.norm(targets["dipole"], axis=-1)
    return targets


def _with_gap(molecules: Molecules) -> Molecules:
    """The molecules with the difference of ``lumo`` and ``homo``, unless it is there."""
    targets = molecules.targets
    if "gap" in targets or not {"homo", "lumo"} <= targets.keys():
        return molecules
    return replace(molecules, targets={**targets, "gap": targets["lumo"] - targets["homo"]})
