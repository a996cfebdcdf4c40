import pytest
import torch

from equivariant_attention.nvidia import GPooling
from tests.equivariant_attention.nvidia.cases import features, graph


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_scalars_of_every_graph(pool):
    G, sizes = graph(), (5, 4, 6)
    h = features({0: 3, 1: 2}, G.num_nodes())
    parts = h["0"].squeeze(-1).split(sizes)
    expected = torch.stack([part.amax(0) if pool == "max" else part.mean(0) for part in parts])
    torch.testing.assert_close(GPooling(0, pool)(h, graph=G), expected)


def test_vectors_have_a_mean():
    G = graph()
    h = features({1: 2}, G.num_nodes())
    expected = torch.stack([part.mean(0) for part in h["1"].split((5, 4, 6))])
    torch.testing.assert_close(GPooling(1, "avg")(h, G), expected)
