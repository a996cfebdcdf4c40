import itertools

import pytest
import torch

from experiments.qm9.adapted import of_some_targets, widened
from experiments.qm9.data import MoleculeDataset, Neighbours
from experiments.qm9.models import SE3Transformer, SE3TransformerSeveral
from experiments.qm9.scaling import ScaledTogether
from experiments.qm9.targets import TARGETS
from tests.experiments.qm9.cases import table

TASKS = "homo", "mu", "alpha", "lumo", "cv"


def several(tasks):
    readouts = [TARGETS[task].readout for task in tasks]
    net = SE3TransformerSeveral(2, 6, 4, num_degrees=2, edge_dim=4, div=2, n_heads=2, readouts=readouts)
    model = ScaledTogether(net, len(tasks), [i for i, readout in enumerate(readouts) if readout == "length"]).double()
    for buffer in (model.mean, model.std, model.per_element):
        buffer.copy_(torch.rand_like(buffer))
    return model


def test_every_choice_of_targets_is_predicted_as_before():
    G, plan, _ = MoleculeDataset(table(), "homo", Neighbours()).__getitems__(range(5))
    whole = several(TASKS)
    everything = whole(G, plan=plan)
    for size in range(1, len(TASKS) + 1):
        for ours in itertools.permutations(TASKS, size):
            if size > 2 and ours > ours[::-1]:
                continue
            some = several(ours)
            some.load_state_dict(of_some_targets(whole.state_dict(), TASKS, ours, 4))
            columns = [TASKS.index(task) for task in ours]
            torch.testing.assert_close(some(G, plan=plan), everything[:, columns])


def test_weights_of_other_targets_are_refused():
    with pytest.raises(ValueError, match=r"^mean: expected that of homo, mu, alpha, got shape \[5\]"):
        of_some_targets(several(TASKS).state_dict(), TASKS[:3], TASKS[:1], 4)
    with pytest.raises(ValueError, match=r"^net.of_atoms.2.weight: expected that of homo, mu, alpha, lumo, cv"):
        of_some_targets(several(TASKS).state_dict(), TASKS, TASKS[:2], 8)


@pytest.mark.parametrize("beyond_bonds", [False, True])
def test_wider_weights_predict_the_same(beyond_bonds):
    options = {"cutoff": 2.5} if beyond_bonds else {}
    outputs, weights = [], None
    for extended in (False, True):
        neighbours = Neighbours(extended=extended, **options)
        net = SE3Transformer(2, 6, 4, num_degrees=2, edge_dim=neighbours.features.number, div=2, n_heads=2).double()
        if weights is not None:
            net.load_state_dict(widened(weights, net.state_dict()))
        weights = net.state_dict()
        G, plan, _ = MoleculeDataset(table(), "homo", neighbours).__getitems__(range(5))
        outputs.append(net(G, plan=plan))
    torch.testing.assert_close(*outputs)
    assert widened(weights, weights).keys() == weights.keys()
