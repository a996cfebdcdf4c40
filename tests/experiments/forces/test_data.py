import torch
from ase import Atoms
from ase.calculators.morse import MorsePotential

from experiments.forces.data import STIFFNESS, Clusters, clusters, collate, morse_energy, morse_forces


def made(number=5, seed=0):
    return clusters(number, 6, 0.05, torch.Generator().manual_seed(seed))


def test_energies_and_forces_are_those_of_ase():
    x = made()
    energies, forces = morse_energy(x), morse_forces(x)
    for i in range(len(x)):
        calculator = MorsePotential(epsilon=1, r0=1, rho0=STIFFNESS, rcut1=50, rcut2=60)
        atoms = Atoms("Ar6", x[i].numpy(), calculator=calculator)
        assert abs(atoms.get_potential_energy() - energies[i].item()) < 1e-10
        torch.testing.assert_close(torch.from_numpy(atoms.get_forces()), forces[i], rtol=0, atol=1e-10)


def test_clusters_are_seeded_near_minima_and_do_not_fall_apart():
    assert torch.equal(made(), made())
    assert not torch.equal(made(), made(seed=1))
    relaxed = clusters(50, 8, 0.0, torch.Generator().manual_seed(0))
    assert morse_forces(relaxed).abs().max() < 1e-3
    assert torch.cdist(relaxed, relaxed).amax() < 3


def test_a_batch_is_its_clusters_side_by_side():
    data = Clusters(made(3), 2.5)
    G, plan, energy, forces = collate([data[i] for i in (2, 0)])
    assert G.batch_num_nodes().tolist() == [6, 6]
    assert G.ndata["z"].tolist() == [18] * 12
    assert torch.equal(G.ndata["x"].view(2, 6, 3), data.x[[2, 0]])
    assert torch.equal(plan.src, G.edges()[0])
    assert G.edata["d"].norm(dim=1).max() <= 2.5
    assert torch.equal(forces.view(2, 6, 3), data.forces[[2, 0]])
    assert torch.equal(energy, data.energy[[2, 0]])
