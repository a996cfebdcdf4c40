import pytest
import torch

from equivariant_attention.graphs import Graph, as_graph, with_edge_fields
from equivariant_attention.modules import get_basis_and_r
from equivariant_attention.padding import Sizes, padded
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from experiments.qm9.config import Config
from experiments.qm9.models import (
    TFN,
    MaxAndSum,
    SE3Transformer,
    SE3TransformerPooled,
    SE3TransformerSeveral,
    make_model,
)
from experiments.qm9.scaling import Scaled
from tests.experiments.models import assert_model_is_equivariant
from tests.experiments.qm9.cases import random_molecules

MODELS = {
    "SE3Transformer-avg": lambda: SE3Transformer(2, 6, 4, num_degrees=4, edge_dim=5, div=2, pooling="avg"),
    "SE3Transformer-max": lambda: SE3Transformer(2, 6, 4, num_degrees=3, edge_dim=5, div=2, pooling="max", n_heads=2),
    "SE3Transformer-both": lambda: SE3Transformer(2, 6, 4, num_degrees=2, edge_dim=5, div=2, pooling="both"),
    "SE3TransformerPooled": lambda: SE3TransformerPooled(2, 6, 4, num_degrees=3, edge_dim=5, n_heads=2),
    "TFN": lambda: TFN(3, 6, 4, num_nlayers=1, num_degrees=3, edge_dim=5),
}


@pytest.mark.parametrize("name", MODELS)
def test_equivariance(name, kind):
    assert_model_is_equivariant(lambda m, G: m(G), MODELS[name](), random_molecules(kind))


@pytest.mark.parametrize("name", MODELS)
def test_shape_and_gradients(name):
    model = MODELS[name]().double()
    output = model(random_molecules())
    assert output.shape == (3, 1)
    output.sum().backward()
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any()


@pytest.mark.parametrize("name", MODELS)
def test_a_basis_at_hand_is_used(name):
    model, G = MODELS[name]().double(), random_molecules()
    cache = BasisCache(model.num_degrees - 1, max_bytes=2**20)
    for basis_and_r in (get_basis_and_r(G, 3, plan=Plan(G)), cache.get_basis_and_r(G, keys=[0, 1, 2])):
        torch.testing.assert_close(model(G, basis_and_r), model(G))
    with pytest.raises(ValueError, match="basis must"):
        model(G, get_basis_and_r(G, 0))


@pytest.mark.parametrize("per_atom", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name, per_atom):
    model, G, found = Scaled(MODELS[name](), per_atom).double(), random_molecules(), []
    sizes = Sizes.of(G, Plan(G)).rounded(steps=2)
    assert sizes.edges > G.num_edges()
    for graph, plan in ((G, Plan(G)), padded(G, Plan(G), sizes)):
        loss = model(graph, plan=plan)[:3].sin().sum()
        found.append([loss, *torch.autograd.grad(loss, [*model.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("task", ["homo", "homo,lumo", "dipole", "polarizability"])
def test_models_of_mirror_images_give_them_the_same_in_evaluation(task, kind):
    sizes = {"num_layers": 2, "num_degrees": 3, "num_channels": 4, "div": 2, "head": 2}
    config = Config(task=task, mirror=True, fully_connected=True, **sizes)
    model, G, sign = make_model(config).double(), random_molecules(kind), -1 if task == "dipole" else 1
    mirrored = with_edge_fields(G, {"d": -as_graph(G).edata["d"], "w": as_graph(G).edata["w"]})
    mirrored.ndata["f"] = as_graph(G).ndata["f"]
    with torch.no_grad():
        one, other = model(G), model(mirrored)
        assert not torch.allclose(one, sign * other, rtol=1e-3)
        model.eval()
        torch.testing.assert_close(model(G), sign * model(mirrored))
        torch.testing.assert_close(model(G, plan=Plan(G)), (one + sign * other) / 2)


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="pooling must be 'avg', 'max' or 'both', got 'sum'"):
        SE3Transformer(1, 6, 4, pooling="sum")


def test_nvidias_model_has_norms_alone_and_changes_no_graph():
    with pytest.raises(ValueError, match="nonlinearity must be 'norm'"):
        SE3TransformerPooled(1, 6, 4, nonlinearity="gate")
    G = random_molecules()
    fields = sorted(G.edata), sorted(G.ndata)
    MODELS["SE3TransformerPooled"]().double()(G)
    assert (sorted(G.edata), sorted(G.ndata)) == fields


def test_a_maximum_beside_a_sum():
    G, h = random_molecules(), torch.randn(random_molecules().num_nodes(), 2, 1, dtype=torch.float64)
    parts = h.squeeze(-1).split(G.batch_num_nodes().tolist())
    expected = torch.stack([torch.cat([part.amax(dim=0), part.sum(dim=0) / 18]) for part in parts])
    torch.testing.assert_close(MaxAndSum()({"0": h}, G=G), expected)


@pytest.mark.parametrize("name", ["SE3Transformer", "TFN", "SE3TransformerPooled"])
def test_every_model_gives_several_numbers(name):
    model = {"SE3Transformer": SE3Transformer, "TFN": TFN, "SE3TransformerPooled": SE3TransformerPooled}[name]
    output = model(2, 6, 4, num_degrees=2, edge_dim=5, div=2, n_heads=2, output_dim=3).double()(random_molecules())
    assert output.shape == (3, 3)
    assert len({*output[0].tolist()}) == 3


def several(readouts, **options):
    torch.manual_seed(0)
    options = {"num_degrees": 2, "edge_dim": 5, "div": 2, "n_heads": 2, **options}
    return SE3TransformerSeveral(2, 6, 4, readouts=readouts, **options)


def test_each_target_is_read_out_as_what_it_is():
    """Of two molecules taken for one, what is summed adds up, and lengths are those of the sum of the vectors."""
    readouts = ["sum", "length", "pooled", "sum"]
    model, G = several(readouts).double(), random_molecules()
    apart, sizes = model(G), [G.num_nodes()]
    assert apart.shape == (G.batch_size, 4)
    G.set_batch_num_nodes(sizes)
    G.set_batch_num_edges([G.num_edges()])
    together = model(G)
    torch.testing.assert_close(together[0, [0, 3]], apart[:, [0, 3]].sum(dim=0))
    assert 1e-6 < together[0, 1] < apart[:, 1].sum() - 1e-6
    assert apart[:, 1].min() >= 0
    assert_model_is_equivariant(lambda m, G: m(G), model, random_molecules())


def test_a_length_is_zero_where_symmetry_makes_it_so():
    model, G = several(["length"]).double(), Graph([0, 1], [1, 0])
    G.edata["d"] = torch.tensor([[-1.0, 0.5, 0.2], [1.0, -0.5, -0.2]], dtype=torch.float64)
    G.edata["w"] = torch.ones(2, 5, dtype=torch.float64)
    G.ndata["f"] = torch.eye(6, dtype=torch.float64)[[1, 1]].unsqueeze(-1)
    assert model(G).abs().max() < 1e-12
    G.ndata["f"] = torch.eye(6, dtype=torch.float64)[[1, 2]].unsqueeze(-1)
    assert model(G).abs().max() > 1e-6


@pytest.mark.parametrize("readouts", [["pooled", "pooled"], ["sum", "sum"], ["length"], ["sum", "pooled", "length"]])
def test_every_readout_has_gradients_and_knows_padding(readouts):
    model, G, found = several(readouts).double(), random_molecules(), []
    assert model(G).shape == (3, len(readouts))
    sizes = Sizes.of(G, Plan(G)).rounded(steps=2)
    for graph, plan in ((G, Plan(G)), padded(G, Plan(G), sizes)):
        loss = model(graph, plan=plan)[:3].sin().sum()
        found.append(torch.autograd.grad(loss, [*model.parameters()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert a.any()


def test_lengths_alone_need_vectors():
    assert several(["sum", "pooled"], num_degrees=1).double()(random_molecules()).shape == (3, 2)
    with pytest.raises(ValueError, match="num_degrees must be at least 2 for lengths of vectors, got 1"):
        SE3TransformerSeveral(2, 6, 4, num_degrees=1, readouts=["length"])
