import numpy as np
import pytest
import torch

from equivariant_attention.graphs import Graph
from experiments.toy_optimisation.data import SpringsDataset, collate, energies
from experiments.toy_optimisation.models import pair_potential


def test_distributions():
    samples = [SpringsDataset(1500)[i] for i in range(1500)]
    x = np.stack([x for x, _ in samples])
    a = np.stack([a for _, a in samples])[:, ~np.eye(10, dtype=bool)]
    assert x.mean() == pytest.approx(0, abs=0.01)
    assert x.std(axis=(0, 1)) == pytest.approx(0.5, rel=0.03)
    assert (a.min() >= 0, a.max() < 1, a.mean()) == (True, True, pytest.approx(0.5, abs=0.005))
    assert a.std() == pytest.approx(12**-0.5, rel=0.01)


def test_parameters_are_of_pairs():
    _, a = SpringsDataset(1)[0]
    assert np.array_equal(a, a.T)
    assert len(np.unique(a[np.triu_indices(10, k=1)])) == 45
    assert not a.diagonal().any()


def test_every_epoch_is_new_in_training_alone():
    for split in ("train", "valid", "log"):
        dataset = SpringsDataset(5, 4, split, seed=3)
        first = dataset[2][0]
        dataset.set_epoch(1)
        assert np.array_equal(dataset[2][0], first) == (split != "train")
        dataset.set_epoch(0)
        assert np.array_equal(dataset[2][0], first)


def test_graphs_depend_on_seed_split_and_index_alone():
    first = SpringsDataset(5, 4, "log", seed=3)[2][0]
    assert np.array_equal(SpringsDataset(99, 4, "log", seed=3)[2][0], first)
    for other in (SpringsDataset(5, 4, "log", seed=4)[2], SpringsDataset(5, 4, "valid", seed=3)[2],
                  SpringsDataset(5, 4, "log", seed=3)[1]):  # fmt: skip
        assert not np.array_equal(other[0], first)


@pytest.mark.parametrize("kind", ["own", "dgl"])
def test_batches(kind):
    if kind == "dgl":
        pytest.importorskip("dgl")
    samples = [SpringsDataset(3, 4)[i] for i in range(3)]
    G, _ = collate(samples, kind)
    assert isinstance(G, Graph) == (kind == "own")
    src, dst = G.edges()
    order = list(zip(dst.tolist(), src.tolist(), strict=True))
    assert order == sorted(order)
    assert order == [(i, j) for i in range(12) for j in range(12) if i != j and i // 4 == j // 4]
    assert (G.batch_num_nodes().tolist(), G.batch_num_edges().tolist()) == ([4] * 3, [12] * 3)
    x, d = G.ndata["x"], G.edata["d"]
    torch.testing.assert_close(d, x[dst] - x[src])
    torch.testing.assert_close(G.edata["r"], d.norm(dim=-1, keepdim=True))
    for edge, (i, j) in enumerate(order):
        assert G.edata["potential_parameters"][edge].item() == samples[i // 4][1][i % 4, j % 4]
    assert torch.equal(G.edata["w"], pair_potential(G.edata["r"], G.edata["potential_parameters"]))
    shapes = {name: tuple(value.shape) for name, value in [*G.ndata.items(), *G.edata.items()]}
    assert shapes == {
        "x": (12, 1, 3), "ones": (12, 1, 1), "d": (36, 1, 3), "r": (36, 1, 1), "w": (36, 1, 1),
        "potential_parameters": (36, 1, 1),
    }  # fmt: skip
    torch.testing.assert_close(energies(G), G.edata["w"].view(3, 12).mean(1))


def test_start_energy_of_a_thousand_graphs():
    dataset = SpringsDataset(1000, 10, "log", seed=0)
    assert energies(collate([dataset[i] for i in range(1000)])[0]).mean() == pytest.approx(0.32, abs=0.01)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("length", (0,)), ("n_points", (5, 1)), ("split", (5, 4, "test")), ("seed", (5, 4, "log", -1))],
)
def test_bad_arguments(name, arguments):
    with pytest.raises(ValueError, match=f"^{name}: expected .* got "):
        SpringsDataset(*arguments)


def test_bad_batches():
    for samples in ([], [SpringsDataset(1, 4)[0], SpringsDataset(1, 5)[0]]):
        with pytest.raises(ValueError, match="one number of points"):
            collate(samples)
    with pytest.raises(IndexError):
        SpringsDataset(5)[5]
