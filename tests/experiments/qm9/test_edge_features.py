import itertools

import torch

from experiments.qm9.data import MoleculeDataset, Neighbours
from experiments.qm9.edge_features import CENTRES, PAIRS, EdgeFeatures
from experiments.qm9.molecules import BONDS
from experiments.qm9.targets import ELEMENTS
from tests.experiments.qm9.cases import table


def features_of(src, dst, length, bond_type=0, **options):
    d = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64) * length
    return EdgeFeatures(False, True, **options)(*(torch.tensor([x]) for x in (bond_type, src, dst)), d)[0]


def test_as_published_it_is_the_type_of_the_bond():
    for beyond_bonds in (False, True):
        features = EdgeFeatures(beyond_bonds, extended=False)
        types = torch.arange(features.number)
        found = features(types, types + 6, types + 6, torch.randn(len(types), 3, dtype=torch.float64))
        assert torch.equal(found, torch.eye(len(BONDS) + beyond_bonds, dtype=torch.float64))


def test_every_pair_of_elements_has_a_feature_the_same_both_ways():
    found = {}
    for src, dst in itertools.product(ELEMENTS, repeat=2):
        pair = features_of(src, dst, 1.1)[len(BONDS) : len(BONDS) + PAIRS]
        assert pair.sum() == pair.max() == 1
        found.setdefault(frozenset((src, dst)), set()).add(int(pair.argmax()))
    assert sorted(index for (index,) in found.values()) == list(range(PAIRS))


def test_gaussians_tell_lengths_apart():
    for length in (0.96, 1.09, 1.54):
        gaussians = features_of(6, 1, length)[len(BONDS) + PAIRS :]
        assert gaussians.argmax() == (CENTRES - length).abs().argmin()
        torch.testing.assert_close(gaussians.log(), -50 * (CENTRES - length) ** 2)


def test_both_directions_of_an_edge_see_the_same_bits():
    G, _, _ = MoleculeDataset(table(), "homo", Neighbours(extended=True))[0]
    src, dst = G.edges()
    edges = {(int(a), int(b)): row for a, b, row in zip(src, dst, G.edata["w"], strict=True)}
    assert all(torch.equal(row, edges[b, a]) for (a, b), row in edges.items())
