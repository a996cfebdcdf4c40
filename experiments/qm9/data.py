"""Molecules as graphs, one by one and in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.envelope import polynomial_envelope
from equivariant_attention.graphs import as_graph
from experiments.qm9.molecules import BONDS, Molecules
from experiments.qm9.targets import ELEMENTS, TARGETS
from utils.graphs import make_graph

ATOM_FEATURES = len(ELEMENTS) + 1  # which element, and its atomic number
NO_BOND = len(BONDS)


@dataclass(frozen=True)
class Neighbours:
    """Which atoms of a molecule have edges to each other; bonded ones, unless said otherwise.

    Args:
        fully_connected: all of them.
        cutoff: those within this distance, in Å.
        envelope: p of the envelope with which edges end smoothly at the cutoff; None for edges that just end.

    Raises:
        ValueError: both kinds are asked for, or an envelope without a cutoff.
    """

    fully_connected: bool = False
    cutoff: float | None = None
    envelope: int | None = None

    def __post_init__(self) -> None:
        if self.fully_connected and self.cutoff is not None:
            raise ValueError("cutoff: expected none with fully_connected")
        if self.envelope is not None and self.cutoff is None:
            raise ValueError("envelope: expected none without a cutoff")

    @property
    def edge_dim(self) -> int:
        """Number of features of an edge: the bond types and, where atoms without a bond have edges, 'no bond'."""
        return len(BONDS) + (self.fully_connected or self.cutoff is not None)

    def edges(self, bond_types: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The edges of one molecule, both ways, ordered by destination, then source.

        Args:
            bond_types: of every pair of atoms, ``NO_BOND`` where there is none, int ``[n, n]``.
            x: positions, Å, ``[n, 3]``.

        Returns:
            src and dst, int64 ``[edges]``.
        """
        if self.fully_connected:
            connected = np.ones_like(bond_types, dtype=bool)
        elif self.cutoff is not None:
            connected = np.linalg.norm(x[:, None] - x[None], axis=2) <= self.cutoff
        else:
            connected = bond_types != NO_BOND
        dst, src = np.nonzero(connected & ~np.eye(len(x), dtype=bool))
        return src, dst

    def weigh(self, r: np.ndarray) -> np.ndarray:
        """The envelope at distances r ``[edges]``: ``[edges, 1]``, or ``[edges, 0]`` without one."""
        if self.envelope is None:
            return np.empty((len(r), 0))
        return polynomial_envelope(torch.from_numpy(r), self.cutoff, self.envelope).unsqueeze(1).numpy()


class Sample(NamedTuple):
    """One molecule.

    Attributes:
        f: features of the atoms ``[n, 6]``.
        x: positions, Å, ``[n, 3]``.
        src, dst: int64 ``[edges]``.
        w: features of the edges ``[edges, edge_dim]``.
        envelope: ``[edges, 1]``, or ``[edges, 0]`` where edges just end.
        target: ``[1]``, or ``[3]`` for a vector; NaN where unknown.
    """

    f: Tensor
    x: Tensor
    src: Tensor
    dst: Tensor
    w: Tensor
    envelope: Tensor
    target: Tensor


class MoleculeDataset(Dataset):
    """Molecules with one of their targets, made into graphs when asked for.

    Args:
        molecules: all of them are samples.
        task: name of the target; one that the molecules do not have is NaN.
        neighbours: which atoms have edges.
        rotate: turn each molecule at random, differently in each epoch.
        seed: of the rotations, which depend on it, the epoch and the sample's index alone.
    """

    def __init__(
        self, molecules: Molecules, task: str, neighbours: Neighbours, *, rotate: bool = False, seed: int = 0
    ) -> None:
        self.molecules, self.neighbours, self.rotate, self.seed, self.epoch = molecules, neighbours, rotate, seed, 0
        columns = 3 if TARGETS[task].vector else 1
        unknown = np.full((len(molecules), columns), np.nan)
        self.targets = molecules.targets.get(task, unknown).reshape(len(molecules), columns)
        self._first_atom, self._first_bond = molecules.first_atom, molecules.first_bond
        self._features = atom_features(molecules.numbers)
        self._edge_features = np.eye(NO_BOND + 1)[:, : neighbours.edge_dim]

    def set_epoch(self, epoch: int) -> None:
        """Choose the rotations.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.molecules)

    def __getitem__(self, index: int) -> Sample:
        atoms = slice(*self._first_atom[index : index + 2])
        bonds = slice(*self._first_bond[index : index + 2])
        x, (a, b) = self.molecules.positions[atoms], self.molecules.bonds[bonds].T
        types = np.full((len(x), len(x)), NO_BOND)
        types[a, b] = types[b, a] = self.molecules.bond_types[bonds]
        src, dst = self.neighbours.edges(types, x)
        target = self.targets[index]
        if self.rotate:
            quaternion = np.random.default_rng((self.seed, self.epoch, index)).normal(size=4)
            rotation = Rotation.from_quat(quaternion).as_matrix()
            x, target = x @ rotation.T, rotation @ target if len(target) == 3 else target
        envelope = self.neighbours.weigh(np.linalg.norm(x[dst] - x[src], axis=1))
        arrays = self._features[atoms], x, src, dst, self._edge_features[types[dst, src]], envelope, target
        return Sample(*map(torch.from_numpy, arrays))


def atom_features(numbers: np.ndarray) -> np.ndarray:
    """Which of H, C, N, O, F an atom is, one-hot, and its atomic number: ``[atoms, 6]``.

    Args:
        numbers: atomic numbers ``[atoms]``.
    """
    return np.concatenate([numbers[:, None] == [*ELEMENTS], numbers[:, None]], axis=1).astype(np.float64)


def collate(samples: list[Sample], graph: str = "own") -> tuple[Any, Tensor]:
    """A batch of molecules.

    Args:
        samples: of a :class:`MoleculeDataset`.
        graph: as for :func:`utils.graphs.make_graph`.

    Returns:
        the graphs, with ``ndata['f']`` ``[N, 6, 1]``, ``edata['d']`` ``[E, 3]``, ``edata['w']`` ``[E, edge_dim]`` and,
        with an envelope, ``edata['envelope']`` ``[E, 1]``; and the targets ``[molecules, 1]`` or ``[molecules, 3]``.
    """
    f, x, src, dst, w, envelope, target = zip(*samples, strict=True)
    atoms, edges = torch.tensor([len(part) for part in f]), torch.tensor([len(part) for part in src])
    first = (atoms.cumsum(0) - atoms).repeat_interleave(edges)
    src, dst, x = torch.cat(src) + first, torch.cat(dst) + first, torch.cat(x)
    G = make_graph(graph, src, dst, len(x))
    G.set_batch_num_nodes(atoms)
    G.set_batch_num_edges(edges)
    fields = as_graph(G)
    fields.ndata["f"] = torch.cat(f).unsqueeze(-1)
    fields.edata["d"], fields.edata["w"] = x[dst] - x[src], torch.cat(w)
    if envelope[0].shape[1]:
        fields.edata["envelope"] = torch.cat(envelope)
    return G, torch.stack(target)


def with_target(molecules: Molecules, task: str) -> Molecules:
    """The molecules whose target is known.

    Args:
        molecules: any.
        task: name of the target.

    Raises:
        ValueError: it is known of none.
    """
    values = molecules.targets.get(task, np.full(len(molecules), np.nan))
    rows = np.isfinite(values.reshape(len(molecules), -1)).all(axis=1)
    if not rows.any():
        raise ValueError(f"task: expected one of {sorted(molecules.targets)}, which are known here, got {task}")
    return molecules.take(rows)
