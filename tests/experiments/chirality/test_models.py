import pytest
import torch

from equivariant_attention.graphs import as_graph
from experiments.chirality.data import ELEMENTS
from experiments.chirality.models import SE3Transformer
from tests.cases import random_graph
from tests.experiments.models import assert_model_is_equivariant


def molecules(kind="own"):
    G = random_graph(torch.float64, kind=kind)
    as_graph(G).ndata["f"] = torch.randn(15, len(ELEMENTS) + 1, 1, dtype=torch.float64)
    return G


@pytest.mark.parametrize("num_degrees", [1, 2, 3])
def test_outputs_do_not_turn(kind, num_degrees):
    model = SE3Transformer(num_layers=2, num_channels=8, num_degrees=num_degrees)
    assert_model_is_equivariant(lambda m, G: m(G), model, molecules(kind), output_on="nodes")


@torch.no_grad()
def in_the_mirror(num_degrees):
    """How much a mirror changes the outputs of an untrained model, relative to the largest."""
    torch.manual_seed(0)
    model, G = SE3Transformer(num_layers=3, num_channels=8, num_degrees=num_degrees).double(), molecules()
    before = model(G)
    G.edata["d"] = -G.edata["d"]
    return float((model(G) - before).abs().max() / before.abs().max())


def test_distances_stay_the_same_in_a_mirror_and_vectors_do_not():
    assert in_the_mirror(1) == 0
    assert in_the_mirror(2) > 1e-6
