import numpy as np
import pytest
import torch

from experiments.scanobjectnn.data import Objects, collate, without_background
from experiments.scanobjectnn.scans import Scans, make_scans


@pytest.fixture(scope="module")
def scans():
    return make_scans(3, seed=0, part=0)


def objects(scans, **change):
    return Objects(scans.points, scans.labels, **{"num_points": 20, "neighbors": 4, **change})


def test_samples_lie_in_a_ball_about_their_mean(scans):
    for i, (x, src, dst, label) in enumerate(objects(scans)):
        assert x.shape == (20, 3)
        torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
        assert float(x.norm(dim=1).max()) == pytest.approx(1, abs=1e-6)
        assert torch.bincount(dst, minlength=20).tolist() == [4] * 20
        assert not (src == dst).any()
        assert label == i


def test_points_are_drawn_anew_in_each_epoch(scans):
    dataset = objects(scans)
    first = [x for x, *_ in dataset]
    torch.testing.assert_close([x for x, *_ in dataset], first, rtol=0, atol=0)
    dataset.set_epoch(1)
    assert all(not torch.equal(x, y) for (x, *_), y in zip(dataset, first, strict=True))


@pytest.mark.parametrize("rotations", ["z", "so3"])
def test_turned_samples_are_the_same_points(scans, rotations):
    for (x, *edges, _), (y, *turned, _) in zip(objects(scans), objects(scans, rotations=rotations), strict=True):
        torch.testing.assert_close(torch.cdist(x, x), torch.cdist(y, y), atol=1e-3, rtol=0)
        assert not torch.allclose(x, y, atol=1e-3)
        assert torch.allclose(x[:, 2], y[:, 2], atol=1e-6) == (rotations == "z")
        assert all(map(torch.equal, edges, turned))


def test_a_scan_of_fewer_points_is_taken_whole_and_points_may_coincide():
    few = Objects([np.ones((3, 3), np.float32)], np.zeros(1, int), num_points=5, neighbors=4)
    x, _, dst, _ = few[0]
    assert torch.equal(x, torch.zeros(3, 3))
    assert len(dst) == 6


def test_background_is_left_out(scans):
    for own, points, on_object in zip(without_background(scans), scans.points, scans.on_object, strict=True):
        np.testing.assert_array_equal(own, points[on_object])
    alone = Scans(scans.points, np.ones_like(scans.on_object), scans.labels)
    with pytest.raises(ValueError, match=r"^background: expected scans with points that are marked"):
        without_background(alone)
    nothing = np.where(np.arange(3)[:, None] == 1, False, scans.on_object)
    with pytest.raises(ValueError, match=r"^mask: expected points of the object in every scan, got none in 1$"):
        without_background(Scans(scans.points, nothing, scans.labels))


@pytest.mark.parametrize("kind", ["own", "dgl"])
def test_batches(scans, kind):
    if kind == "dgl":
        pytest.importorskip("dgl")
    dataset = objects(scans)
    G, plan, target = collate([dataset[i] for i in (2, 0)], kind)
    assert G.batch_num_nodes().tolist() == [20, 20]
    assert G.num_edges() == plan.num_edges == 160
    src, dst = (end.long() for end in G.edges())
    x = G.ndata["x"].squeeze(1)
    torch.testing.assert_close(x[:20], dataset[2][0], rtol=0, atol=0)
    torch.testing.assert_close(G.edata["d"], x[dst] - x[src])
    assert target.tolist() == [2, 0]
