import pytest
import torch

from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GAvgPooling, GMaxPooling
from tests.cases import MIXED, random_features, random_graph


def test_against_a_loop_over_graphs(kind):
    G = random_graph(kind=kind, sizes=(5, 4, 6))
    features = random_features(MIXED, 15, torch.float64)
    for i, (start, end) in enumerate([(0, 5), (5, 9), (9, 15)]):
        part = {d: v[start:end] for d, v in features.items()}
        torch.testing.assert_close(GAvgPooling()(features, G=G)[i], part["0"].mean(0)[:, 0])
        torch.testing.assert_close(GAvgPooling("1")(features, G=G)["1"][i], part["1"].mean(0))
        torch.testing.assert_close(GAvgPooling("2")(features, G=G)["2"][i], part["2"].mean(0))
        torch.testing.assert_close(GMaxPooling()(features, G=G)[i], part["0"].amax(0)[:, 0])


def test_a_graph_without_nodes_gives_zero():
    G = Graph([], [], num_nodes=3)
    G.set_batch_num_nodes([0, 3, 0])
    features = random_features(MIXED, 3, torch.float32)
    for pooled in (GAvgPooling()(features, G=G), GMaxPooling()(features, G=G)):
        assert pooled.shape == (3, 4)
        assert not pooled[[0, 2]].any()
        assert pooled[1].all()


def test_bad_input_is_refused():
    for wrong in (0, "01", "-1", "x"):
        with pytest.raises(ValueError, match="type must be a degree as a string"):
            GAvgPooling(wrong)
    G = random_graph()
    with pytest.raises(ValueError, match="must have degree '3' to be pooled"):
        GAvgPooling("3")(random_features(MIXED, 15, torch.float32), G=G)
    with pytest.raises(ValueError, match=r"features\['0'\] must have shape \[15, m, 1\], got \[14, 4, 1\]"):
        GMaxPooling()(random_features(MIXED, 14, torch.float32), G=G)
    with pytest.raises(ValueError, match=r"features\['1'\] must have shape \[15, m, 3\], got \[15, 2, 7\]"):
        GAvgPooling("1")({"1": torch.zeros(15, 2, 7)}, G=G)
    with pytest.raises(TypeError, match=r"must be a floating-point tensor, got torch\.int64"):
        GMaxPooling()({"0": torch.zeros(15, 2, 1, dtype=torch.int64)}, G=G)
