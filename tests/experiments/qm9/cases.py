"""Molecules that the tests of this folder share."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from equivariant_attention.graphs import as_graph
from experiments.qm9.bonds import bonds_of
from experiments.qm9.molecules import Molecules
from experiments.qm9.polarizability import charge_axes
from tests.cases import random_graph

SHARED = Path(__file__).parents[4] / "shared" / "data"
SMILES = ("O", "CC=O", "C#N", "c1ccoc1", "FC(F)F", "CC(N)C(=O)O")


def rdkit_molecule(smiles):
    """With hydrogen atoms and the positions of a conformer; a copy, as some tests change it."""
    return Chem.Mol(_embedded(smiles))


@cache
def _embedded(smiles):
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(molecule, randomSeed=1) == 0
    return molecule


def arrays_of(smiles):
    """Atomic numbers ``[n]`` and positions ``[n, 3]``."""
    molecule = rdkit_molecule(smiles)
    return np.array([a.GetAtomicNum() for a in molecule.GetAtoms()]), molecule.GetConformer().GetPositions()


@cache
def table(smiles=SMILES):
    """The molecules, two for every split, with bonds as written and two targets, one of them a vector."""
    molecules = [rdkit_molecule(s) for s in smiles]
    atoms = [arrays_of(s) for s in smiles]
    bonds = [bonds_of(m) for m in molecules]
    return Molecules(
        names=np.array(smiles),
        split=(np.arange(len(smiles)) % 3).astype(np.int8),
        perceived=np.ones(len(smiles), dtype=bool),
        num_atoms=np.array([len(numbers) for numbers, _ in atoms]),
        numbers=np.concatenate([numbers for numbers, _ in atoms]),
        positions=np.concatenate([positions for _, positions in atoms]),
        num_bonds=np.array([len(pairs) for pairs, _ in bonds]),
        bonds=np.concatenate([pairs for pairs, _ in bonds]),
        bond_types=np.concatenate([types for _, types in bonds]),
        targets={
            "homo": np.linspace(-7.0, -5.0, len(smiles)),
            "dipole": np.arange(3.0 * len(smiles)).reshape(-1, 3),
        },
    )


def with_tensors(molecules, tensors=None):
    """Molecules with these polarisability tensors, given in the orientation of their positions, or with random ones."""
    if tensors is None:
        halves = np.random.default_rng(0).normal(size=(len(molecules), 3, 3))
        tensors = halves + halves.swapaxes(1, 2) + 10 * molecules.num_atoms[:, None, None] * np.eye(3)
    _, axes = charge_axes(molecules)
    alpha = np.trace(tensors, axis1=1, axis2=2) / 3
    known = {"polarizability": axes.swapaxes(1, 2) @ tensors @ axes, "alpha": alpha}
    return replace(molecules, targets={**molecules.targets, **known})


def random_molecules(kind="own"):
    """Three graphs of features as models are given them, 6 of each atom and 5 of each edge, at random."""
    G = random_graph(torch.float64, edge_dim=5, kind=kind)
    graph = as_graph(G)
    graph.ndata["f"] = torch.randn(graph.num_nodes(), 6, 1, dtype=torch.float64)
    return G
