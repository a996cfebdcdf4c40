"""Molecules as graphs, one by one and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.envelope import polynomial_envelope
from equivariant_attention.padding import Sizes, padded
from equivariant_attention.plan import Plan
from experiments.qm9.edge_features import EdgeFeatures
from experiments.qm9.molecules import BONDS, Molecules
from experiments.qm9.polarizability import possible_tensors
from experiments.qm9.targets import ELEMENTS, TARGETS, names_of
from utils.graph_table import GraphTable

ATOM_FEATURES = len(ELEMENTS) + 1  # which element, and its atomic number
NO_BOND = len(BONDS)

Batch = tuple[Any, Plan, Tensor]  # graphs, what is known of them ahead, targets


@dataclass(frozen=True)
class Neighbours:
    """Which atoms of a molecule have edges to each other; bonded ones, unless said otherwise.

    Args:
        fully_connected: all of them.
        cutoff: those within this distance, in Å.
        envelope: p of the envelope with which edges end smoothly at the cutoff; None for edges that just end.
        extended: edges tell more than the type of the bond, see :class:`~experiments.qm9.edge_features.EdgeFeatures`.

    Raises:
        ValueError: both kinds are asked for, or an envelope without a cutoff.
    """

    fully_connected: bool = False
    cutoff: float | None = None
    envelope: int | None = None
    extended: bool = False

    def __post_init__(self) -> None:
        if self.fully_connected and self.cutoff is not None:
            raise ValueError("cutoff: expected none with fully_connected")
        if self.envelope is not None and self.cutoff is None:
            raise ValueError("envelope: expected none without a cutoff")

    @cached_property
    def features(self) -> EdgeFeatures:
        """What edges tell."""
        return EdgeFeatures(self.fully_connected or self.cutoff is not None, self.extended)

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

    def weigh(self, r: Tensor) -> Tensor:
        """The envelope, where there is one, at distances r ``[edges, 1]``."""
        return polynomial_envelope(r, self.cutoff, self.envelope)


class MoleculeDataset(Dataset):
    """Molecules with one of their targets or several, as graphs that are prepared once.

    Args:
        molecules: all of them are samples.
        task: name of the target, or of several (:func:`~experiments.qm9.targets.names_of`); one that the molecules do
            not have is NaN.
        neighbours: which atoms have edges.
        rotate: turn each molecule at random, differently in each epoch.
        mirror: turn half of the molecules into their mirror images, others in each epoch: energies know no left and
            right, but models of SO(3) have to be shown.
        seed: of what is drawn, which depends on it, the epoch and the sample's index alone.
    """

    def __init__(
        self,
        molecules: Molecules,
        task: str,
        neighbours: Neighbours,
        *,
        rotate: bool = False,
        mirror: bool = False,
        seed: int = 0,
    ) -> None:
        self.molecules, self.neighbours, self.rotate, self.mirror = molecules, neighbours, rotate, mirror
        self.seed, self.epoch = seed, 0
        self.targets, self._kind = target_values(molecules, task), TARGETS[names_of(task)[0]].kind
        self._atom_features = torch.from_numpy(atom_features(np.arange(max(ELEMENTS) + 1)))
        self._table = _table(molecules, neighbours)

    def set_epoch(self, epoch: int) -> None:
        """Choose the rotations and the mirror images.

        Args:
            epoch: number of the epoch, from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.molecules)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A batch of molecules, see :func:`collate`, gathered at once."""
        target, turns = torch.from_numpy(self.targets[np.asarray(indices)]), None
        if self.rotate or self.mirror:
            turns = torch.from_numpy(np.stack([self._drawn(index) for index in indices]))
            target = _turned(target, self._kind, turns)
        G, plan = self._table.batch(indices, turns)
        z, (src, dst) = G.ndata.pop("z").long(), G.edges()
        G.ndata["f"] = self._atom_features[z].unsqueeze(-1)
        G.edata["w"] = self.neighbours.features(G.edata.pop("bond_type"), z[src.long()], z[dst.long()], G.edata["d"])
        if self.neighbours.envelope is not None:
            G.edata["envelope"] = self.neighbours.weigh(G.edata["d"].norm(dim=1, keepdim=True))
        return G, plan, target

    def _drawn(self, index: int) -> np.ndarray:
        """The turn of a molecule in this epoch, its determinant -1 where it is mirrored: ``[3, 3]``."""
        rng = np.random.default_rng((self.seed, self.epoch, index))
        turn = Rotation.from_quat(rng.normal(size=4)).as_matrix() if self.rotate else np.eye(3)
        return rng.choice((-1, 1)) * turn if self.mirror else turn


def _turned(target: Tensor, kind: str, turns: Tensor) -> Tensor:
    if kind == "vector":
        return (turns @ target.unsqueeze(-1)).squeeze(-1)
    if kind == "tensor":
        turns = turns.unsqueeze(1)  # one turn for all the tensors that a molecule may have
        return turns @ target @ turns.mT
    return target


def _table(molecules: Molecules, neighbours: Neighbours) -> GraphTable:
    """Graphs of molecules, with the fields 'z' and 'bond_type'."""
    first_atom, first_bond = molecules.first_atom, molecules.first_bond
    sources, destinations, types = ([np.empty(0, np.int16)] for _ in range(3))
    for number in range(len(molecules)):
        x = molecules.positions[slice(*first_atom[number : number + 2])]
        bonds = slice(*first_bond[number : number + 2])
        a, b = molecules.bonds[bonds].T
        bond_types = np.full((len(x), len(x)), NO_BOND, np.int16)
        bond_types[a, b] = bond_types[b, a] = molecules.bond_types[bonds]
        src, dst = neighbours.edges(bond_types, x)
        sources.append(src.astype(np.int16))
        destinations.append(dst.astype(np.int16))
        types.append(bond_types[dst, src])
    return GraphTable(
        molecules.num_atoms,
        np.array([len(src) for src in sources[1:]], dtype=np.int64),
        np.concatenate(sources),
        np.concatenate(destinations),
        molecules.positions,
        {"z": molecules.numbers.astype(np.int8)},
        {"bond_type": np.concatenate(types)},
    )


def atom_features(numbers: np.ndarray) -> np.ndarray:
    """Which of H, C, N, O, F an atom is, one-hot, and its atomic number: ``[atoms, 6]``.

    Args:
        numbers: atomic numbers ``[atoms]``.
    """
    return np.concatenate([numbers[:, None] == [*ELEMENTS], numbers[:, None]], axis=1).astype(np.float64)


def collate(batch: Batch, graph: str = "own") -> Batch:
    """A batch of molecules.

    Args:
        batch: of a :class:`MoleculeDataset`.
        graph: class of the graphs, ``'own'`` or ``'dgl'``.

    Returns:
        the graphs, with ``ndata['f']`` ``[N, 6, 1]``, ``ndata['x']`` ``[N, 3]``, ``edata['d']`` ``[E, 3]``,
        ``edata['w']`` ``[E, features]`` and, with an envelope, ``edata['envelope']`` ``[E, 1]``; their plan; and the
        targets ``[molecules, targets]`` or, of a vector, ``[molecules, 3]``, of a tensor ``[molecules, 4, 3, 3]``.
    """
    G, plan, target = batch
    return (G.to_dgl() if graph == "dgl" else G), plan, target


def pad(batch: Batch) -> Batch:
    """The batch with a graph of padding at its end, so that there are few sizes; it has no target.

    Args:
        batch: from :func:`collate`.
    """
    G, plan, target = batch
    return *padded(G, plan, Sizes.of(G, plan).rounded()), target


def target_values(molecules: Molecules, task: str) -> np.ndarray:
    """The targets of molecules, NaN where unknown.

    Args:
        molecules: any.
        task: name of the target, or of several.

    Returns:
        ``[molecules, targets]`` or, of a vector, ``[molecules, 3]``; of a tensor the four that it may be, ``[molecules,
        4, 3, 3]``, see :func:`~experiments.qm9.polarizability.possible_tensors`.
    """
    if TARGETS[names_of(task)[0]].kind == "tensor":
        return possible_tensors(molecules)
    count, columns = len(molecules), []
    for name in names_of(task):
        width = prod(TARGETS[name].shape)
        columns.append(molecules.targets.get(name, np.full((count, width), np.nan)).reshape(count, width))
    return np.concatenate(columns, axis=1)


def with_target(molecules: Molecules, task: str) -> Molecules:
    """The molecules whose target, or of several all, is known.

    Args:
        molecules: any.
        task: name of the target, or of several.

    Raises:
        ValueError: it is known of none.
    """
    rows = np.isfinite(target_values(molecules, task)).reshape(len(molecules), -1).all(axis=1)
    if not rows.any():
        raise ValueError(f"task: expected one of {sorted(molecules.targets)}, which are known here, got {task}")
    return molecules.take(rows)
