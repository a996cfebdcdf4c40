"""Steps that are recorded, by a stand-in for CUDA graphs, which is called where a GPU would repeat."""

import pytest
import torch

from equivariant_attention.neighbors import fully_connected_graph
from equivariant_attention.plan import Plan
from tests.rewound import Rewound
from utils.capture import Captured, refill, sizes_of


def sample(n):
    G = fully_connected_graph(torch.randn(n, 3))
    return G, Plan(G), (torch.randn(n), None)


def summed(batch):
    G, plan, (values, _) = batch
    plan.check(G)
    return G.edata["d"].sum() + values.index_select(0, plan.src).sum()


def test_the_first_of_each_size_is_called_the_second_recorded_the_others_replayed():
    recorder = Rewound(lambda: [])
    captured = Captured(summed, lambda batch: batch, recorder)
    batches = [sample(n) for n in (3, 4, 3, 3, 4, 4, 3)]
    for batch in batches:
        assert captured(batch) == summed(batch)
    calls = ["run", "run", "record", "replay", "replay", "record", "replay", "replay", "replay"]
    assert recorder.calls == calls


def test_batches_are_read_and_not_written_to():
    captured = Captured(summed, lambda batch: batch, Rewound(lambda: []))
    batches = [sample(3) for _ in range(4)]
    before = [[v.clone() for v in (*G.tensors().values(), *plan.tensors().values())] for G, plan, _ in batches]
    for batch in batches:
        captured(batch)
    for (G, plan, _), kept in zip(batches, before, strict=True):
        assert all(map(torch.equal, (*G.tensors().values(), *plan.tensors().values()), kept))


def test_recorded_tensors_stay_where_they_are():
    seen = []

    def function(batch):
        G, plan, (values, _) = batch
        seen.append([v.data_ptr() for v in (*G.tensors().values(), plan.src, plan.order, values)])
        return values

    captured = Captured(function, lambda batch: batch, Rewound(lambda: []))
    for _ in range(4):
        captured(sample(3))
    called, *recorded = seen
    assert all(places == recorded[0] for places in recorded)
    assert called != recorded[0]


def test_sizes_are_names_shapes_and_dtypes():
    G, plan, (values, _) = sample(3)
    assert sizes_of((G, plan, (values, None))) == sizes_of(sample(3))
    different = [
        (G, plan, (values, values)),
        (G, plan, (values.double(), None)),
        (G, plan, (values[:2], None)),
        sample(4),
    ]
    more = G.local_var()
    more.ndata["f"] = values
    different.append((more, plan, (values, None)))
    assert len({sizes_of(batch) for batch in [sample(3), *different]}) == 6


def test_a_batch_of_another_size_does_not_fit():
    with pytest.raises(ValueError, match="other must have 3 nodes, got 4"):
        refill(sample(3), sample(4))
