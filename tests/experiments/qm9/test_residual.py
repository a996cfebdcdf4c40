from functools import partial

import pytest
import torch

from equivariant_attention.gallery import symmetric_graphs
from equivariant_attention.graphs import Graph
from equivariant_attention.testing import assert_equivariant
from experiments.qm9.data import ATOM_FEATURES, atom_features
from experiments.qm9.residual import BondFeatures, SE3TransformerResidual
from experiments.qm9.targets import ELEMENTS

OF_ELEMENTS = {
    name: G for name, G in symmetric_graphs(torch.float64).items() if {*G.ndata["z"].tolist()} <= {*ELEMENTS}
}


def residual(num_degrees=3):
    torch.manual_seed(0)
    return SE3TransformerResidual(2, ATOM_FEATURES, 48, num_degrees, edge_dim=1, n_heads=2)


def as_molecule(G, dtype=torch.float64):
    """A graph of the gallery with the fields that the model reads; all bonds of one kind."""
    molecule = Graph(*G.edges(), G.num_nodes())
    molecule.ndata["f"] = torch.from_numpy(atom_features(G.ndata["z"].numpy())).to(dtype).unsqueeze(-1)
    molecule.edata["d"] = G.edata["d"].to(dtype)
    molecule.edata["w"] = torch.ones(G.num_edges(), 1, dtype=dtype)
    return molecule


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OF_ELEMENTS)
def test_symmetric_molecules(name, dtype):
    """Rotations, permutations and batches, where vectors vanish by symmetry up to rounding."""
    assert_equivariant(
        residual().to(dtype), as_molecule(OF_ELEMENTS[name], dtype), output_degree=0, output_on="graphs", rotations=3
    )


@pytest.mark.parametrize("name", sorted(OF_ELEMENTS.keys() - {"coincident"}))  # whose edges have no direction at first
def test_energies_move_as_the_atoms_do(name):
    """Nothing jumps, and vectors that symmetry makes zero do not grow from layer to layer: a thousandth of the
    displacement, about a thousandth of the change."""
    torch.manual_seed(0)
    model = SE3TransformerResidual(6, ATOM_FEATURES, 48, 2, edge_dim=1, n_heads=2).double()
    moved = (symmetric_graphs(torch.float64, displacement)[name] for displacement in (0, 1e-6, 1e-3))
    still, little, more = (model(as_molecule(G)).item() for G in moved)
    assert abs(little - still) < 5e-3 * abs(more - still)


def test_radial_weights_are_shared_by_the_two_directions_of_a_bond():
    G = BondFeatures()(as_molecule(OF_ELEMENTS["allene"], torch.float32))
    src, dst = G.edges()
    w = {(a, b): row for a, b, row in zip(src.tolist(), dst.tolist(), G.edata["w"], strict=True)}
    assert all(torch.equal(row, w[b, a]) for (a, b), row in w.items())
    assert G.edata["w"].shape[1] == 1 + BondFeatures().num_features
    pairs = G.edata["w"][:, 1:16]
    assert (pairs.sum(dim=1) == 1).all()
    elements = [{int(z) for z in ends} for ends in OF_ELEMENTS["allene"].ndata["z"][torch.stack([src, dst])].T]
    assert len({*map(frozenset, elements)}) == len({*pairs.argmax(dim=1).tolist()})


@pytest.mark.parametrize("change", ["bond", "element"])
def test_bonds_and_elements_count(change):
    model, G = residual().double(), as_molecule(OF_ELEMENTS["CO2"])
    before = model(G)
    if change == "bond":
        G.edata["w"] = 0 * G.edata["w"]
    else:
        G.ndata["f"] = G.ndata["f"].roll(1, dims=1)
    assert (model(G) - before).abs() > 1e-6


def test_scalars_alone():
    model = residual(num_degrees=1).double()
    assert_equivariant(partial(model), as_molecule(OF_ELEMENTS["CF4"]), output_degree=0, output_on="graphs")
