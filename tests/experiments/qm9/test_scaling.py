import pytest
import torch

from experiments.qm9.models import TFN
from experiments.qm9.scaling import Scaled, ScaledTensor, ScaledTogether
from tests.experiments.qm9.cases import random_molecules


def network(outputs=1):
    return TFN(2, 6, 4, num_degrees=2, edge_dim=5, output_dim=outputs)


def counts(sizes):
    """Atoms of each element, ``[molecules, elements]``, where all are of two elements."""
    return torch.tensor([[1, int(size) - 1, 0, 0, 0] for size in sizes])


def test_scaled_outputs():
    net, G = network().double(), random_molecules()
    targets, sizes = torch.tensor([[3.0], [5.0], [10.0]]).double(), torch.tensor([5, 4, 6])
    plain, per_atom = Scaled(net).double(), Scaled(net, per_atom=True).double()
    for model in (plain, per_atom):
        model.fit(targets, counts(sizes))
    torch.testing.assert_close(plain(G), 6 + targets.std(correction=0) * net(G))
    in_molecule_of_mean_size = targets[:, 0] * 5 / sizes
    expected = in_molecule_of_mean_size.mean() + in_molecule_of_mean_size.std(correction=0) * net(G)
    torch.testing.assert_close(per_atom(G), expected * sizes.unsqueeze(1) / 5)
    for model, known in ((plain, 6 * torch.ones(3, 1)), (per_atom, in_molecule_of_mean_size.mean() * sizes / 5)):
        torch.testing.assert_close(model.without_network(counts(sizes)), known.reshape(3, 1).double())


def test_scaled_vectors_have_no_mean():
    model = Scaled(network()).double()
    model.fit(torch.tensor([[3.0, 0, 4], [3, 0, 4]]).double(), counts([5, 4]))
    assert (model.mean, model.std) == (0, 5)
    with pytest.raises(ValueError, match="targets: expected more than one value"):
        Scaled(network()).fit(torch.ones(3, 1), counts([5, 4, 6]))


def test_scaled_accepts_published_weights_and_its_own():
    net, model = network(), Scaled(network())
    model.fit(torch.tensor([[3.0], [5.0]]), counts([5, 4]))
    published = net.state_dict()
    model.load_state_dict(published)
    assert (model.mean, model.std) == (4, 1)
    assert published.keys() == net.state_dict().keys()
    again = Scaled(network())
    again.load_state_dict(model.state_dict())
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})


def test_together_lengths_have_a_scale_alone():
    counts_of = torch.tensor([[4, 1, 0, 0, 0], [6, 2, 0, 0, 0], [2, 1, 0, 1, 0], [4, 2, 0, 1, 0], [2, 2, 0, 0, 0]])
    targets = torch.tensor([[3.0, 1], [8, 2], [1, 3], [2, 1], [4, 5]], dtype=torch.float64)
    model = ScaledTogether(network(2), 2, lengths=[1]).double()
    model.fit(targets, counts_of)
    torch.testing.assert_close(model.std[1], targets[:, 1].square().mean().sqrt())
    G = random_molecules()
    torch.testing.assert_close(model(G)[:, 1], model.std[1] * model.net(G)[:, 1])
    assert not torch.allclose(model(G)[:, 0], model.std[0] * model.net(G)[:, 0])


def test_together_each_target_has_its_own_unit_above_its_atoms():
    counts_of = torch.tensor([[4, 1, 0, 0, 0], [6, 2, 0, 0, 0], [2, 1, 0, 1, 0], [4, 2, 0, 1, 0], [2, 2, 0, 0, 0]])
    linear = torch.tensor([[1.0, 100.0], [2.0, 0.0], [0.5, 0.0], [7.0, -3.0], [9.0, 0.0]]).double()
    more = torch.tensor([[1.0, -10.0], [-1.0, 10.0], [0.0, 30.0], [2.0, 0.0], [-1.0, 20.0]]).double()
    targets = 5 + counts_of.double() @ linear + more
    model = ScaledTogether(network(2), 2).double()
    model.fit(targets, counts_of)
    left = targets - model.without_network(counts_of)
    torch.testing.assert_close(left.mean(dim=0), torch.zeros(2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(counts_of.double().T @ left, torch.zeros(5, 2).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(model.std, left.std(dim=0, correction=0))
    G = random_molecules()
    G.ndata["f"][:, :5, 0] = torch.eye(5).double()[torch.arange(G.num_nodes()) % 5]
    sums = torch.stack([part.sum(dim=0) for part in G.ndata["f"][:, :5, 0].split(G.batch_num_nodes().tolist())])
    torch.testing.assert_close(model(G), model.without_network(sums) + model.std * model.net(G))
    again = ScaledTogether(network(2), 2).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(G), model(G))


def test_together_what_the_atoms_tell_already_is_refused():
    known = torch.tensor([[4, 1, 0, 0, 0], [6, 2, 0, 0, 0], [2, 1, 0, 1, 0], [3, 3, 0, 0, 0], [8, 1, 0, 0, 0]])
    targets = torch.stack([known[:, 0] * 2.0, torch.tensor([1.0, 5, 2, 8, 3])], dim=1).double()
    with pytest.raises(ValueError, match="targets: expected more of each than what is linear in the atoms"):
        ScaledTogether(network(), 2).fit(targets, known)


def test_scaled_tensors_are_isotropic_above_what_the_network_learns():
    net = torch.nn.Module()
    net.forward = lambda G, basis_and_r, plan: torch.arange(27.0, dtype=torch.float64).view(3, 9)
    model, G = ScaledTensor(net).double(), random_molecules()
    sizes = torch.arange(1, 7)
    one = torch.eye(3, dtype=torch.float64)
    rest = torch.tensor([[0.0, 3, 0], [3, 0, 0], [0, 0, 0]], dtype=torch.float64)
    isotropic = 2.0 + sizes.double() + 0.5  # a constant, 1 for every atom of the second element, 1.5 for the first
    targets = (isotropic.view(-1, 1, 1) * one + rest).unsqueeze(1).expand(-1, 4, -1, -1)
    model.fit(targets, counts(sizes))
    torch.testing.assert_close(model.std, torch.tensor([18.0**0.5], dtype=torch.float64))
    without = model.without_network(counts([4, 9])).unflatten(1, (3, 3))
    torch.testing.assert_close(without, torch.tensor([6.5, 11.5], dtype=torch.float64).view(-1, 1, 1) * one)
    G.ndata["f"][:] = 0
    G.ndata["f"][:, 1] = 1  # all of the second element, of which each molecule's others have a constant less
    of_molecules = torch.stack([torch.tensor([0, int(n), 0, 0, 0]) for n in G.batch_num_nodes()])
    expected = model.without_network(of_molecules) + 18.0**0.5 * net.forward(G, None, None)
    torch.testing.assert_close(model(G), expected)


def test_isotropic_tensors_that_the_atoms_tell_are_refused():
    targets = torch.ones(6, 4, 1, 1, dtype=torch.float64) * torch.zeros(3, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="targets: expected more of each than what is linear in the atoms"):
        ScaledTensor(network()).fit(targets, counts(range(1, 7)))


def test_outputs_of_low_precision_are_no_worse_than_those_of_the_network():
    """In bfloat16, numbers near -6.5 are .03 apart."""
    G, net = random_molecules(), network()
    for value in (*G.ndata.values(), *G.edata.values()):
        value.data = value.float()
    model = Scaled(net)
    model.mean.fill_(-6.5)
    model.std.fill_(0.01)
    with torch.autocast("cpu", torch.bfloat16):
        found, of_network = model(G), net(G)
    assert (found.dtype, of_network.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(found, -6.5 + 0.01 * of_network.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -3.3])
def test_targets_that_differ_by_rounding_alone_are_refused(value):
    targets = torch.full((7, 1), value, dtype=torch.float64)
    for model in (Scaled(network()), Scaled(network(), per_atom=True)):
        same = counts([4] * 7)
        with pytest.raises(ValueError, match="targets: expected more than one value to learn from"):
            model.fit(targets, same)
