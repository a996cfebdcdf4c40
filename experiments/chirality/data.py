"""Molecules in space with the handedness of their stereocentres, mirror images, and batches of bonded graphs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdCIPLabeler, rdDetermineBonds, rdDistGeom
from torch import Tensor
from torch.utils.data import Dataset

from equivariant_attention.graphs import batch
from equivariant_attention.plan import Plan
from experiments.qm9.bonds import rdkit_molecule, single_bonds
from experiments.qm9.sources import EMBEDDED
from utils.arrays import as_floats, as_integers, read_npz
from utils.caches import load_or_make
from utils.graphs import make_graph

ELEMENTS = (6, 7, 8, 9)  # of the nodes; hydrogen atoms are counted on the atoms that they are bonded to
SIGNS = {"R": 1, "S": -1}
SPLITS = ("train", "valid", "test")
VERSION = 1  # raise it when the same molecules get other labels: old caches are then ignored

Sample = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Batch = tuple[Any, Plan, Tensor, Tensor]  # graphs, what is known of them ahead, stereocentres, their hands


@dataclass(frozen=True)
class Molecules:
    """Molecules that have stereocentres, atom after atom.

    Args:
        num_atoms: of every molecule, int64 ``[molecules]``.
        numbers: atomic numbers, int64 ``[atoms]``.
        positions: Å, float64 ``[atoms, 3]``.
        signs: 1 for R, -1 for S, 0 for all other atoms, int64 ``[atoms]``.
        split: 0 for training, 1 for validation, 2 for test, int64 ``[molecules]``.
    """

    num_atoms: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    signs: np.ndarray
    split: np.ndarray


# ---------------------------------------------------------------------------------------------------------- labels


def handedness(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
    """What RDKit calls the stereocentres of a neutral molecule by the rules of Cahn, Ingold and Prelog.

    Pseudoasymmetric centres, r and s, which a mirror does not change, count as none.

    Args:
        numbers: atomic numbers ``[n]``.
        positions: Å, ``[n, 3]``.

    Returns:
        1 for R, -1 for S and 0 for none, int64 ``[n]``; None where RDKit finds no bonds that make sense.
    """
    molecule = rdkit_molecule(numbers, positions)
    with rdBase.BlockLogs():
        try:
            rdDetermineBonds.DetermineBonds(molecule, charge=0, embedChiral=False)
            Chem.SanitizeMol(molecule)
            Chem.AssignStereochemistryFrom3D(molecule)
            rdCIPLabeler.AssignCIPLabels(molecule)
        except (ValueError, RuntimeError):
            return None
    codes = [atom.GetProp("_CIPCode") if atom.HasProp("_CIPCode") else "" for atom in molecule.GetAtoms()]
    return np.array([SIGNS.get(code, 0) for code in codes], dtype=np.int64)


def labelled(candidates: Sequence[tuple[np.ndarray, np.ndarray, int]]) -> dict[str, np.ndarray]:
    """Of molecules, those with stereocentres; the fields of :class:`Molecules`.

    Args:
        candidates: atomic numbers, positions and split of each.

    Raises:
        ValueError: there are none.
    """
    rows = []
    for numbers, positions, split in candidates:
        signs = handedness(numbers, positions)
        if signs is not None and signs.any():
            rows.append((len(numbers), numbers, positions, signs, split))
    if not rows:
        raise ValueError(f"molecules: expected some with stereocentres, got none among {len(candidates)}: take more")
    num_atoms, numbers, positions, signs, split = zip(*rows, strict=True)
    return {
        "num_atoms": np.array(num_atoms, dtype=np.int64),
        "numbers": np.concatenate(numbers).astype(np.int64),
        "positions": np.concatenate(positions).astype(np.float64),
        "signs": np.concatenate(signs),
        "split": np.array(split, dtype=np.int64),
    }


# ----------------------------------------------------------------------------------------------------------- sources


def from_arrays(path: str | os.PathLike[str], limit: int | None, seed: int, cache: str | os.PathLike[str]) -> Molecules:
    """Molecules of an .npz of ragged arrays, labelled by RDKit.

    Args:
        path: holds ``N`` (atoms of each molecule), ``Z`` (atomic numbers), ``R`` (Å, ``[atoms, 3]``) and maybe
            ``validation`` (a mask), whose rows are for the test then; else a tenth is drawn for it. Another tenth of
            the rest is for validation.
        limit: how many molecules to look at, drawn at random; None for all.
        seed: of these draws.
        cache: folder in which the result is kept and found again.

    Raises:
        ValueError: the file, named, is not what it should be.
        OSError: it cannot be read, or the cache not be written to.
    """
    content = read_npz(Path(path))
    try:
        if missing := sorted({"N", "Z", "R"} - content.keys()):
            raise ValueError(f"expected 'N', 'Z' and 'R', got no {missing}")
        sizes, numbers = as_integers("N", content["N"]), as_integers("Z", content["Z"])
        positions = as_floats("R", content["R"])
        if sizes.ndim != 1 or sizes.min(initial=1) < 1 or positions.shape != (int(sizes.sum()), 3):
            raise ValueError(f"R: expected shape {[int(sizes.sum()), 3]}, got {list(positions.shape)}")
        if numbers.shape != positions.shape[:1] or not np.isfinite(positions).all():
            raise ValueError(f"Z, R: expected finite numbers of {len(positions)} atoms")
        check_elements(numbers)
        rng = np.random.default_rng(seed)
        test = (
            np.asarray(content["validation"], dtype=bool) if "validation" in content else rng.random(len(sizes)) < 0.1
        )
        if test.shape != sizes.shape:
            raise ValueError(f"validation: expected shape {list(sizes.shape)}, got {list(test.shape)}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    split = np.where(test, 2, (rng.random(len(sizes)) < 0.1).astype(int))
    chosen = rng.permutation(len(sizes))[:limit]
    ends = np.concatenate([[0], np.cumsum(sizes)])

    def make() -> dict[str, np.ndarray]:
        rows = [(slice(ends[i], ends[i + 1]), int(split[i])) for i in chosen]
        return labelled([(numbers[atoms], positions[atoms], of) for atoms, of in rows])

    key = hashlib.sha256(f"{VERSION} {rdBase.rdkitVersion} {limit} {seed}".encode())
    for array in (sizes, numbers, positions, split):
        key.update(np.ascontiguousarray(array).tobytes())
    return _cached(cache, key.hexdigest(), make)


def embedded(conformers: int, limit: int | None, seed: int, cache: str | os.PathLike[str]) -> Molecules:
    """Molecules of the SMILES that come with QM9's experiment, put into space by RDKit.

    SMILES that do not say which hand a stereocentre has get either at random. Of every ten of them with stereocentres
    one is for the test and one for validation, with all its conformers.

    Args:
        conformers: of each.
        limit: how many SMILES to look at, drawn at random; None for all.
        seed: of draws and conformers.
        cache: folder in which the result is kept and found again.

    Raises:
        ValueError: there is no stereocentre among them.
        OSError: the cache cannot be written to.
    """
    smiles = np.random.default_rng(seed).permutation(EMBEDDED.with_suffix(".smi").read_text().split())[:limit].tolist()

    def make() -> dict[str, np.ndarray]:
        molecules = [Chem.AddHs(Chem.MolFromSmiles(name)) for name in smiles]
        chiral = [molecule for molecule in molecules if Chem.FindMolChiralCenters(molecule, includeUnassigned=True)]
        candidates = []
        for number, molecule in enumerate(chiral):
            numbers = np.array([atom.GetAtomicNum() for atom in molecule.GetAtoms()])
            parameters = rdDistGeom.ETKDGv3()
            parameters.randomSeed = seed
            found = rdDistGeom.EmbedMultipleConfs(molecule, conformers, parameters)
            split = {0: 2, 1: 1}.get(number % 10, 0)
            candidates += [(numbers, molecule.GetConformer(one).GetPositions(), split) for one in found]
        return labelled(candidates)

    key = hashlib.sha256(f"{VERSION} {rdBase.rdkitVersion} {conformers} {seed} {smiles}".encode())
    return _cached(cache, key.hexdigest(), make)


def _cached(cache: str | os.PathLike[str], key: str, make: Any) -> Molecules:
    return Molecules(**load_or_make(Path(cache) / f"handedness_{key[:16]}.npz", key, make, "labelling"))


def check_elements(numbers: np.ndarray) -> None:
    """Refuse elements that the models do not know.

    Args:
        numbers: atomic numbers.

    Raises:
        ValueError: there are others.
    """
    if others := sorted({*np.unique(numbers).tolist()} - {1, *ELEMENTS}):
        raise ValueError(f"Z: expected atomic numbers among {(1, *ELEMENTS)}, got also {others}")


# ----------------------------------------------------------------------------------------------------------- samples


class Handed(Dataset):
    """Molecules and mirror images.

    An item is (features, positions, bonds, signs) of the atoms but hydrogen: float32 ``[n, 5]``, which element, and a
    quarter of the number of hydrogen atoms bonded to it; float32 ``[n, 3]``, Å; the two atoms of each bond, int64
    ``[bonds, 2]``; and int64 ``[n]``, 1 for R, -1 for S, 0 for what is no stereocentre. Bonds are told by distance.

    Args:
        molecules: of all splits.
        split: ``'train'``, where a molecule or its mirror image is drawn, in each epoch anew; ``'valid'`` or
            ``'test'``, where both are there, one after the other.
        seed: of the draws.

    Raises:
        ValueError: the split has no molecules.
    """

    def __init__(self, molecules: Molecules, split: Literal["train", "valid", "test"], seed: int = 0) -> None:
        ends = np.concatenate([[0], np.cumsum(molecules.num_atoms)])
        atoms = [slice(*ends) for ends in pairwise(ends)]
        fields = molecules.numbers, molecules.positions, molecules.signs
        chosen = [a for a, of in zip(atoms, molecules.split, strict=True) if of == SPLITS.index(split)]
        if not chosen:
            raise ValueError(f"molecules: expected some with stereocentres for {split!r}, got none: take more")
        self.samples = [without_hydrogen(*(field[a] for field in fields)) for a in chosen]
        self.split, self.seed = split, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the mirror images of an epoch of the training.

        Args:
            epoch: number of the epoch, from 0.
        """
        if self.split == "train":
            self._hands = np.random.default_rng((self.seed, epoch)).choice((1, -1), len(self.samples))
        else:
            self._hands = np.tile((1, -1), len(self.samples))

    def __len__(self) -> int:
        return len(self._hands)

    def __getitem__(self, index: int) -> Sample:
        features, positions, bonds, signs = self.samples[index if self.split == "train" else index // 2]
        hand = self._hands[index]
        return features, positions * np.float32(hand), bonds, signs * hand


def without_hydrogen(numbers: np.ndarray, positions: np.ndarray, signs: np.ndarray) -> Sample:
    """An item of :class:`Handed`.

    Args:
        numbers, positions, signs: of all atoms of a molecule, as of :class:`Molecules`.
    """
    bonds, _ = single_bonds(numbers, positions)
    heavy, kept = numbers > 1, np.cumsum(numbers > 1) - 1
    src, dst = np.concatenate([bonds, bonds[:, ::-1]]).T
    hydrogens = np.bincount(dst[~heavy[src]], minlength=len(numbers))
    features = np.column_stack([*(numbers == element for element in ELEMENTS), hydrogens / 4])[heavy]
    between = kept[bonds[heavy[bonds].all(axis=1)]]
    return features.astype(np.float32), positions[heavy].astype(np.float32), between.reshape(-1, 2), signs[heavy]


def collate(samples: Sequence[Sample], graph: Literal["own", "dgl"] = "own") -> Batch:
    """Join molecules into one batched graph, with an edge each way for every bond.

    Args:
        samples: items of :class:`Handed`.
        graph: ``'own'`` for :class:`~equivariant_attention.graphs.Graph`, ``'dgl'`` for a ``dgl.DGLGraph``.

    Returns:
        G, with ``ndata['f']`` ``[nodes, 5, 1]``, ``ndata['x']`` ``[nodes, 1, 3]`` and ``edata['d']`` ``[edges, 3]``;
        its plan; the nodes that are stereocentres, int64 ``[centres]``; and 1 for R, 0 for S of each, float32
        ``[centres]``.

    Raises:
        ValueError: another ``graph``.
    """
    graphs = []
    for features, positions, bonds, _ in samples:
        ends = torch.from_numpy(bonds)
        src, dst = torch.cat([ends, ends.flip(1)]).T
        x = torch.from_numpy(positions)
        G = make_graph(graph, src, dst, len(x))
        G.ndata["f"], G.ndata["x"] = torch.from_numpy(features).unsqueeze(-1), x.unsqueeze(1)
        G.edata["d"] = x[dst] - x[src]
        graphs.append(G)
    signs = torch.from_numpy(np.concatenate([signs for *_, signs in samples]))
    centres = signs.nonzero().squeeze(1)
    G = batch(graphs)
    return G, Plan(G), centres, (signs[centres] > 0).float()
