from dataclasses import replace

import numpy as np
import pytest
import torch

from equivariant_attention.graphs import as_graph
from experiments.qm9 import sources
from experiments.qm9.data import MoleculeDataset, Neighbours, collate, pad, target_values, with_target
from experiments.qm9.models import SE3Transformer
from experiments.qm9.polarizability import possible_tensors
from tests.experiments.qm9.cases import SMILES, table, with_tensors
from utils.graphs import cast
from utils.loaders import samples_of

KINDS = {
    "bonded": Neighbours(),
    "fully connected": Neighbours(fully_connected=True),
    "cutoff": Neighbours(cutoff=2.0),
    "smooth": Neighbours(cutoff=2.0, envelope=6),
    "extended": Neighbours(extended=True),
}
ACETALDEHYDE = SMILES.index("CC=O")


def dataset(kind="bonded", task="homo", **options):
    return MoleculeDataset(table(), task, KINDS[kind], **options)


def fields(data, index):
    """Edges, their features and distances, and features of the atoms, of one molecule."""
    G, _, _ = data[index]
    return *G.edges(), G.edata["w"], G.edata["d"].norm(dim=1), G.ndata["f"].squeeze(-1)


def test_bonded_edges_are_the_bonds_both_ways():
    molecules = table()
    src, dst, w, _, _ = fields(dataset(), ACETALDEHYDE)
    start, end = molecules.first_bond[ACETALDEHYDE : ACETALDEHYDE + 2]
    bonds = np.column_stack([molecules.bonds, molecules.bond_types])[start:end].tolist()
    expected = {(a, b, t) for i, j, t in bonds for a, b in ((i, j), (j, i))}
    assert {*map(tuple, torch.stack([src, dst, w.argmax(dim=1)], dim=1).tolist())} == expected
    assert w.shape == (12, 4)
    assert w.sum(dim=1).eq(1).all()
    assert sorted(w.sum(dim=0).tolist()) == [0, 0, 2, 10]  # one double bond


def test_other_edges_know_which_pairs_are_bonded():
    (bonds, *_), (_, _, w, r, f), (near, *_) = (
        fields(dataset(kind), ACETALDEHYDE) for kind in ("bonded", "fully connected", "cutoff")
    )
    n = len(f)
    assert w.shape == (n * (n - 1), 5)
    assert w[:, 4].sum() == n * (n - 1) - len(bonds)
    assert len(near) == (r <= 2).sum()
    assert KINDS["cutoff"].features.number == KINDS["fully connected"].features.number == 5


def test_atom_features_are_element_and_atomic_number():
    *_, f = fields(dataset(), ACETALDEHYDE)  # C C O H H H H
    assert f[:, 5].tolist() == [6, 6, 8, 1, 1, 1, 1]
    assert f[:, :5].argmax(dim=1).tolist() == [1, 1, 3, 0, 0, 0, 0]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("graph", ["own", "dgl"])
def test_batches(name, graph):
    if graph == "dgl":
        pytest.importorskip("dgl")
    data = dataset(name, "dipole")
    G, plan, target = collate(samples_of(data, range(len(data))), graph)
    plan.check(G)
    G = as_graph(G)
    assert G.batch_num_nodes().tolist() == data.molecules.num_atoms.tolist()
    assert G.batch_num_edges().tolist() == [data[i][0].num_edges() for i in range(len(data))]
    src, dst = G.edges()
    x = torch.from_numpy(data.molecules.positions)
    torch.testing.assert_close(G.edata["d"], x[dst.long()] - x[src.long()])
    assert G.ndata["f"].shape == (G.num_nodes(), 6, 1)
    assert G.edata["w"].shape == (G.num_edges(), KINDS[name].features.number)
    assert ("envelope" in G.edata) == (name == "smooth")
    np.testing.assert_array_equal(target, data.molecules.targets["dipole"])


def test_rotations_are_drawn_from_seed_epoch_and_index_and_turn_the_target():
    still, turning = dataset("fully connected", "dipole"), dataset("fully connected", "dipole", rotate=True, seed=3)
    before = still.molecules.positions.copy()
    first = turning[1]
    turning.set_epoch(1)
    second = turning[1]
    again = dataset("fully connected", "dipole", rotate=True, seed=3)[1]
    assert torch.equal(first[0].edata["d"], again[0].edata["d"])
    assert not torch.allclose(first[0].edata["d"], second[0].edata["d"])
    d, target = still[1][0].edata["d"], still[1][2]
    for G, _, turned in (first, second):
        torch.testing.assert_close(G.edata["d"] @ turned.T, d @ target.T)
        torch.testing.assert_close(G.edata["d"] @ G.edata["d"].T, d @ d.T)
    np.testing.assert_array_equal(turning.molecules.positions, before)


@pytest.mark.parametrize("rotate", [False, True])
def test_half_of_the_molecules_are_mirrored_and_vectors_with_them(rotate):
    molecules = table().take(np.full(200, ACETALDEHYDE))
    options = {"mirror": True, "rotate": rotate, "seed": 3}
    still, mirrored = (MoleculeDataset(molecules, "dipole", KINDS["bonded"], **o) for o in ({}, options))

    def handedness(data):
        G, _, dipoles = data.__getitems__(range(200))
        x = G.ndata["x"].view(200, -1, 3)
        return torch.linalg.det(torch.stack([x[:, 1] - x[:, 0], x[:, 2] - x[:, 0], dipoles], dim=1))

    ratio = handedness(mirrored) / handedness(still)
    torch.testing.assert_close(ratio.abs(), torch.ones_like(ratio))
    assert 60 < (ratio < 0).sum() < 140
    mirrored.set_epoch(1)
    assert not torch.equal(handedness(mirrored).sign(), handedness(still).sign() * ratio.sign())


@pytest.mark.parametrize("mirror", [False, True])
def test_all_tensors_that_a_molecule_may_have_turn_with_it(mirror):
    molecules = with_tensors(table())
    still = MoleculeDataset(molecules, "polarizability", KINDS["fully connected"])
    turning = MoleculeDataset(molecules, "polarizability", KINDS["fully connected"], rotate=True, mirror=mirror, seed=3)
    assert torch.equal(still.__getitems__([4, 1])[2], torch.from_numpy(possible_tensors(molecules)[[4, 1]]))
    before, possible = (still[ACETALDEHYDE][k] for k in (0, 2))
    after, turned = (turning[ACETALDEHYDE][k] for k in (0, 2))
    assert not torch.allclose(turned, possible)
    d, d_turned = before.edata["d"], after.edata["d"]
    of_edges = [torch.einsum("ei,nkij,fj->nkef", e, T, e) for e, T in ((d, possible), (d_turned, turned))]
    torch.testing.assert_close(*of_edges)


def test_several_targets_are_columns_and_three_of_them_no_vector():
    values = np.arange(6.0)
    molecules = replace(table(), targets={"homo": values, "mu": values**2, "cv": -values})
    data = MoleculeDataset(molecules, "mu,cv,homo", KINDS["bonded"], rotate=True)
    expected = np.stack([values**2, -values, values], axis=1)
    np.testing.assert_array_equal(data.targets, expected)
    np.testing.assert_array_equal(data.__getitems__([4, 1])[2], expected[[4, 1]])


def test_an_atom_alone_has_no_edges_and_can_be_predicted():
    data = MoleculeDataset(table(("F[H]", "[F]")), "homo", KINDS["bonded"])
    assert data[1][0].num_edges() == 0
    model = SE3Transformer(1, 6, 4, num_degrees=2, div=2).double()
    for indices in ([1], [0, 1]):
        G, plan, _ = samples_of(data, indices)
        assert model(G, plan=plan).isfinite().all()


def test_unknown_targets():
    molecules = table()
    molecules = replace(molecules, targets={"homo": np.where(np.arange(6) == 2, np.nan, molecules.targets["homo"])})
    assert [*with_target(molecules, "homo").names] == [*SMILES[:2], *SMILES[3:]]
    assert MoleculeDataset(molecules, "dipole", KINDS["bonded"])[0][2].isnan().tolist() == [[True] * 3]
    assert np.isnan(target_values(molecules, "polarizability")).all()
    with pytest.raises(ValueError, match=r"task: expected one of \['homo'\].*got gap"):
        with_target(molecules, "gap")


def test_numbers_become_those_of_the_training():
    G, _, target = cast(collate(dataset("smooth")[0]), torch.float32)
    assert {value.dtype for value in (*G.ndata.values(), *G.edata.values(), target)} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((True, 2.0), "cutoff: expected none with fully_connected"), ((False, None, 6), "envelope: .* without a cutoff")],
)
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Neighbours(*arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_padded_batches_are_the_batches_and_a_graph_more(kind):
    G, plan, target = collate(samples_of(dataset(kind), range(5)))
    more, its_plan, its_target = pad((G, plan, target))
    assert torch.equal(its_target, target)
    assert more.batch_size == len(target) + 1
    assert torch.equal(more.batch_num_nodes()[:-1], G.batch_num_nodes())
    its_plan.check(more)
    for name, value in (*G.ndata.items(), *G.edata.items()):
        padded = more.ndata[name] if name in more.ndata else more.edata[name]
        assert torch.equal(padded[: len(value)], value)


def test_there_are_few_sizes_of_padded_batches_and_18_tensors_in_each():
    molecules = sources.embedded()
    data, rng = MoleculeDataset(molecules, "homo", Neighbours()), np.random.default_rng(0)
    sizes, edges, padded_edges = set(), 0, 0
    for _ in range(100):
        batch = collate(samples_of(data, rng.choice(len(data), 96, replace=False).tolist()))
        G, plan, _ = pad(batch)
        sizes.add((G.num_nodes(), G.num_edges(), len(plan.pairs)))
        edges, padded_edges = edges + batch[0].num_edges(), padded_edges + G.num_edges()
        assert len(G.tensors()) + len(plan.tensors()) + 1 == 18
    assert len(sizes) <= 10
    assert padded_edges <= 1.04 * edges
