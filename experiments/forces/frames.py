"""Structures with energies, forces and stress, in files that ASE reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.checkpoints import in_few_lines
from equivariant_attention.graphs import Graph, batch
from equivariant_attention.models import reference_energies
from equivariant_attention.models.elements import LARGEST_ATOMIC_NUMBER
from equivariant_attention.neighbors import radius_graph
from equivariant_attention.plan import Plan
from experiments.forces.md17 import read_md17

# Under which names programs write them; ASE itself knows the first of each.
KEYS = {
    "energy": ("energy", "REF_energy", "dft_energy", "Energy", "free_energy"),
    "forces": ("forces", "REF_forces", "dft_forces", "force"),
    "stress": ("stress", "REF_stress", "dft_stress"),
    "virial": ("virial", "virials", "REF_virial", "REF_virials", "dft_virial"),
}

Sample = dict[str, Any]
# Graphs, what is known of them ahead, cells; energies, forces, stresses, and which of these are known.
Batch = tuple[Graph, Plan, Tensor | None, Tensor, Tensor, Tensor, Tensor]


def read_frames(path: str) -> list[Atoms]:
    """All structures of a file.

    Args:
        path: of a file that ASE reads, or an .npz as MD17 has them (:func:`read_md17`).

    Raises:
        ValueError: it cannot be read, or there are none in it.
        OSError: from the file system.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a device may have no end
        raise ValueError(f"{path}: expected a file")
    frames = read_md17(path) if path.endswith(".npz") else _read_by_ase(path)
    if not frames:
        raise ValueError(f"{path}: expected structures, got none")
    return frames


def _read_by_ase(path: str) -> list[Atoms]:
    try:
        return ase.io.read(path, index=":")
    except Exception as error:  # every format of ASE fails in its own way, some with an OSError of their own
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path}: ASE cannot read it: {in_few_lines(error, 1)}") from error


def labels(atoms: Atoms, where: str) -> dict[str, Any]:
    """Energy, forces ``[atoms, 3]`` and stress ``[3, 3]``, or None, of a structure; a virial is -V times the stress.

    Args:
        atoms: with them.
        where: it comes from, for the message.

    Raises:
        ValueError: it has no energy or no forces, something is not finite or of another shape, a periodic cell has no
            volume, or an atom is of no element.
    """
    try:
        return _labels(atoms)
    except (TypeError, ValueError) as error:  # what is no number, or of another shape, fails in many ways
        raise ValueError(f"{where}: {in_few_lines(error, 1)}") from error


def _labels(atoms: Atoms) -> dict[str, Any]:
    stored: dict[str, Any] = {**atoms.info, **atoms.arrays, **(atoms.calc.results if atoms.calc is not None else {})}
    energy, forces, stress, virial = (_first(stored, names) for names in KEYS.values())
    if energy is None or forces is None:
        raise ValueError(f"expected energy and forces, under one of {KEYS['energy']} and {KEYS['forces']}")
    vectors = atoms.cell.array[atoms.pbc]
    if np.size(energy) != 1:
        raise ValueError(f"expected one energy, got {np.size(energy)}")
    if atoms.pbc.any() and not (vectors.any(axis=1).all() and abs(atoms.cell.complete().volume) > 0):  # NaN is none
        raise ValueError(f"expected a periodic cell with a volume, got {atoms.cell.array.tolist()}")
    if not atoms.pbc.any():
        stress = virial = None
    if stress is None and virial is not None:
        stress = -_matrix(virial) / atoms.get_volume()
    stress = None if stress is None else _matrix(stress)
    found = {"energy": float(np.asarray(energy).item()), "forces": np.asarray(forces, dtype=float), "stress": stress}
    if found["forces"].shape != (len(atoms), 3):
        raise ValueError(f"expected forces [{len(atoms)}, 3], got {list(found['forces'].shape)}")
    if not all(value is None or np.isfinite(value).all() for value in (*found.values(), atoms.positions)):
        raise ValueError("expected finite numbers, got NaN or infinity")
    if not ((atoms.numbers >= 1) & (atoms.numbers <= LARGEST_ATOMIC_NUMBER)).all():
        raise ValueError(f"expected elements 1 to {LARGEST_ATOMIC_NUMBER}, got {sorted({*atoms.numbers.tolist()})}")
    return found


def _first(stored: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((stored[name] for name in names if stored.get(name) is not None), None)


def _matrix(value: Any) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.shape == (6,):
        return voigt_6_to_full_3x3_stress(array)
    if array.size != 9:
        raise ValueError(f"expected 6 or 9 numbers of a stress or virial, got {list(array.shape)}")
    return array.reshape(3, 3)


class Frames(Dataset):
    """Structures with their labels; energies are counted from those of the elements, which float32 could not hold.

    Args:
        frames: the structures.
        where: they come from, for messages.
        cutoff: how far edges reach.
        reference: energies of the elements, float64 ``[119]``; None, those that fit these structures best.

    Attributes:
        reference: as above.
        z: of all structures side by side.
    """

    def __init__(self, frames: Sequence[Atoms], where: str, cutoff: float, reference: Tensor | None = None) -> None:
        self.cutoff = cutoff
        found = [labels(atoms, f"{where}, structure {i + 1}") for i, atoms in enumerate(frames)]
        numbers = [torch.from_numpy(atoms.numbers).long() for atoms in frames]
        self.z = torch.cat(numbers)
        if reference is None:
            owner = torch.arange(len(frames)).repeat_interleave(_sizes(numbers))
            energy = torch.tensor([label["energy"] for label in found], dtype=torch.float64)
            reference = reference_energies(self.z, owner, energy)
        self.reference = reference
        self.samples: list[Sample] = []
        for atoms, label, z in zip(frames, found, numbers, strict=True):
            stress = label["stress"]
            self.samples.append(
                {
                    "z": z,
                    "x": torch.from_numpy(atoms.positions),
                    "cell": torch.from_numpy(atoms.cell.array),
                    "pbc": torch.from_numpy(atoms.pbc),
                    "energy": label["energy"] - self.reference[z].sum(),
                    "forces": torch.from_numpy(label["forces"]),
                    "stress": torch.from_numpy(np.zeros((3, 3)) if stress is None else stress),
                    "has_stress": torch.tensor(stress is not None),
                }
            )

    @property
    def forces(self) -> Tensor:
        """Those of all atoms, ``[atoms, 3]``."""
        return torch.cat([sample["forces"] for sample in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """A structure and its labels, with the graph of its neighbours, which is made anew: that takes much memory."""
        sample = self.samples[index]
        G = radius_graph(sample["x"], self.cutoff, cell=sample["cell"], pbc=sample["pbc"])
        G.ndata["z"] = sample["z"]
        if "offset" not in G.edata:  # as of structures that do not repeat, side by side with others that do
            G.edata["offset"] = torch.zeros_like(G.edata["d"])
        return {**sample, "graph": G}


def _sizes(parts: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(part) for part in parts])


def collate(samples: list[Sample], graph: str = "own") -> Batch:
    """Structures side by side.

    Args:
        samples: of :class:`Frames`.
        graph: not looked at: forces are derivatives of the library's own graphs.

    Returns:
        the graphs; their plan; cells ``[structures, 3, 3]``, None where no structure repeats; energy ``[structures]``,
        forces ``[atoms, 3]``, stress ``[structures, 3, 3]``, and whether that is known.
    """
    G = batch([sample["graph"] for sample in samples])
    names = ("cell", "energy", "stress", "has_stress")
    cell, energy, stress, has_stress = (torch.stack([sample[name] for sample in samples]) for name in names)
    repeats = any(sample["pbc"].any() for sample in samples)
    forces = torch.cat([sample["forces"] for sample in samples])
    return G, Plan(G), cell if repeats else None, energy, forces, stress, has_stress
