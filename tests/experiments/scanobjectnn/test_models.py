from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from equivariant_attention.graphs import as_graph
from equivariant_attention.so3 import random_rotation
from experiments.scanobjectnn import models
from experiments.scanobjectnn.config import Model
from experiments.scanobjectnn.models import TFN, HeightSet, PointNet, SE3Transformer
from experiments.scanobjectnn.rotations import draw_rotation
from tests.cases import random_graph
from tests.experiments.models import assert_model_is_equivariant

ABOUT_Z = torch.from_numpy(draw_rotation("z", np.random.default_rng(0)))
SIZES = {"num_layers": 2, "num_channels": 4, "num_classes": 3}


def clouds(kind="own"):
    G = random_graph(torch.float64, kind=kind)
    as_graph(G).ndata["x"] = torch.randn(15, 1, 3, dtype=torch.float64)
    return G


def transformer(height, num_degrees=2):
    return SE3Transformer(height=height, num_degrees=num_degrees, div=2, n_heads=2, **SIZES)


def network(height, num_degrees=2):
    return TFN(height=height, num_degrees=num_degrees, **SIZES)


@torch.no_grad()
def change(model, turn):
    """How much a rotation changes the logits, relative to the largest."""
    model, G = model.double(), clouds()
    before = model(G)
    for fields, name in ((G.ndata, "x"), (G.edata, "d")):
        fields[name] = fields[name] @ turn.T
    return float((model(G) - before).abs().max() / before.abs().max())


@pytest.mark.parametrize("make", [transformer, network])
@pytest.mark.parametrize("num_degrees", [1, 3])
def test_without_heights_logits_do_not_turn(kind, make, num_degrees):
    model = make(height=False, num_degrees=num_degrees)
    assert_model_is_equivariant(lambda m, G: m(G), model, clouds(kind), output_on="graphs")


@pytest.mark.parametrize("make", [transformer, network])
def test_with_heights_they_stay_the_same_about_z_and_change_when_tilted(make):
    torch.manual_seed(0)
    model = make(height=True)
    assert change(model, ABOUT_Z) < 1e-12
    assert change(model, random_rotation(dtype=torch.float64)) > 1e-3


@pytest.mark.parametrize("make", [transformer, network])
def test_heights_of_points_edges_and_horizontal_parts_are_all_seen(make):
    torch.manual_seed(0)
    model, G = make(height=True).double(), clouds()
    for fields, name in ((G.ndata, "x"), (G.edata, "d")):
        fields[name].requires_grad_()
    model(G).square().sum().backward()
    assert (G.ndata["x"].grad.abs().amax(dim=(0, 1)) > 0).tolist() == [False, False, True]


def test_coordinates_turn_and_heights_do_not_about_z():
    torch.manual_seed(0)
    assert change(PointNet(**SIZES), ABOUT_Z) > 1e-2
    assert change(HeightSet(**SIZES), ABOUT_Z) < 1e-12
    assert change(HeightSet(**SIZES), random_rotation(dtype=torch.float64)) > 1e-2


def test_sets_do_not_depend_on_edges_nor_on_the_order_of_points():
    G = clouds()
    for model in (PointNet(**SIZES).double(), HeightSet(**SIZES).double()):
        before = model(G)
        assert before.shape == (G.batch_size, 3)
        first = int(G.batch_num_nodes()[0])
        order = torch.cat([torch.arange(first).flip(0), torch.arange(first, G.num_nodes())])
        x = G.ndata["x"]
        G.ndata["x"] = x[order]
        torch.testing.assert_close(model(G), before)
        G.ndata["x"] = x


def test_there_is_a_class_for_every_name():
    names = get_args(get_type_hints(Model)["model"])
    assert all(issubclass(getattr(models, name), torch.nn.Module) for name in names)
