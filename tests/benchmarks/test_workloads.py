import pytest
import torch

from benchmarks.steps import Setup, build, make_step
from benchmarks.workloads import BASIS, FORCES, FORCES_TRAINED, FORWARD, TRAINING, WORKLOADS
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import unbatch
from equivariant_attention.modules import (
    GAvgPooling,
    GConvSE3,
    GMaxPooling,
    GNormBias,
    GNormSE3,
    GSE3Res,
    PairwiseConv,
)

CASES = [(name, case) for name, workload in WORKLOADS.items() for case in workload.cases]


def layers(model, kind):
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("workload", "case", "nodes", "edges", "graphs", "edge_dim", "channels", "counts"),
    [
        ("qm9-bonded", "32 molecules", 576, 1152, 32, 4, 32, {GSE3Res: 7, GMaxPooling: 1}),
        ("qm9-dense", "32 molecules", 576, 9792, 32, 5, 32, {GSE3Res: 7, GMaxPooling: 1}),
        ("qm9-dense-16", "32 molecules", 576, 9792, 32, 5, 16, {GSE3Res: 4, GMaxPooling: 1}),
        ("qm9-homo", "bonded", 576, 1152, 32, 4, 16, {GSE3Res: 4, GMaxPooling: 1}),
        ("qm9-homo", "dense", 576, 9792, 32, 5, 16, {GSE3Res: 4, GMaxPooling: 1}),
        ("nbody", "128 systems", 640, 2560, 128, 1, 8, {GSE3Res: 5, GNormBias: 4}),
        ("forces", "8 molecules", 144, 2448, 8, 0, 16, {GSE3Res: 3, GNormSE3: 3, GConvSE3: 1, GAvgPooling: 1}),
        ("protein", "256 residues", 256, 16_384, 1, 32, 32, {GSE3Res: 2, GNormSE3: 2, GConvSE3: 1}),
        ("cloud", "1,024 points", 1024, 16384, 1, 0, 16, {GSE3Res: 4, GNormSE3: 3}),
        ("connected", "18 atoms, 32 channels", 594, 10_098, 33, 4, 32, {GSE3Res: 1}),
        ("connected", "40 atoms, 64 channels, w differs", 240, 9360, 6, 4, 64, {GSE3Res: 1}),
        ("connected", "80 atoms, 32 channels", 160, 12_640, 2, 4, 32, {GSE3Res: 1}),
        ("scale", "1k edges", 63, 1008, 1, 0, 32, {GSE3Res: 1}),
        ("scale", "10k edges", 625, 10_000, 1, 0, 32, {GSE3Res: 1}),
        ("scale", "100k edges", 6250, 100_000, 1, 0, 32, {GSE3Res: 1}),
        ("scale", "1M edges", 62_500, 1_000_000, 1, 0, 32, {GSE3Res: 1}),
        ("degree", "degree 6", 1024, 16384, 1, 0, 16, {GConvSE3: 1}),
    ],
)
def test_sizes(workload, case, nodes, edges, graphs, edge_dim, channels, counts):
    model, G = build(Setup(), workload, case)
    assert (G.num_nodes(), G.num_edges(), G.batch_size) == (nodes, edges, graphs)
    assert all(kernel.edge_dim == edge_dim for kernel in layers(model, PairwiseConv))
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert {kind: len(layers(model, kind)) for kind in counts} == counts
    (last,) = layers(model, next(iter(counts)))[-1:]
    assert last.f_in == Fiber(model.num_degrees, channels)
    assert model.num_degrees == {"degree": 7, "qm9-homo": 3, "forces": 3, "protein": 2}.get(workload, 4)


def test_the_main_block_of_rfdiffusion():
    model, G = build(Setup(), "protein-full", "200 residues")
    assert (G.num_nodes(), G.num_edges(), G.edata["w"].shape[1]) == (200, 39_800, 32)
    (attention,), (norm,), (convolution,) = (layers(model, kind) for kind in (GSE3Res, GNormSE3, GConvSE3))
    assert attention.f_in == model.fiber == Fiber({0: 8, 1: 3})
    assert attention.f_out == norm.fiber == convolution.f_in == Fiber(2, 32)
    assert convolution.f_out == Fiber({0: 8, 1: 2})
    assert convolution.self_interaction


def test_every_workload_has_its_cases():
    assert list(WORKLOADS["degree"].cases) == [f"degree {l}" for l in range(1, 7)]
    assert dict(WORKLOADS["basis"].cases) == {
        name: WORKLOADS[name].cases["32 molecules"] for name in ("qm9-bonded", "qm9-dense")
    }


@pytest.mark.parametrize("workload", ["qm9-bonded", "qm9-dense", "qm9-dense-16", "nbody"])
def test_edges_lead_both_ways_with_the_same_features(workload):
    (case,) = WORKLOADS[workload].cases
    _, G = build(Setup(), workload, case)
    assert alike_both_ways(G)
    assert len(G.edata["w"].unique(dim=0)) == max(2, G.edata["w"].shape[1])  # every kind of bond, or either sign


def test_edges_of_connected_graphs_have_the_same_features_both_ways_unless_said():
    for workload, case, expected in (
        ("connected", "40 atoms, 8 channels", True),
        ("connected", "40 atoms, 8 channels, w differs", False),
        ("protein-full", "200 residues", False),
    ):
        assert alike_both_ways(build(Setup(), workload, case)[1]) == expected


def alike_both_ways(G):
    """Whether the features of edges are; every edge has its reverse."""
    src, dst = G.edges()
    forward = (src * G.num_nodes() + dst).argsort()
    backward = (dst * G.num_nodes() + src).argsort()
    assert torch.equal(src[forward], dst[backward])
    assert torch.equal(dst[forward], src[backward])
    torch.testing.assert_close(G.edata["d"][forward], -G.edata["d"][backward])
    return torch.equal(G.edata["w"][forward], G.edata["w"][backward])


def test_bonds_are_a_tree_and_a_ring():
    _, G = build(Setup(), "qm9-bonded", "32 molecules")
    for molecule in unbatch(G):
        src, dst = molecule.edges()
        assert len(set(zip(src.tolist(), dst.tolist(), strict=True))) == 36
        one_step = torch.eye(18).index_put((src, dst), torch.ones(36))
        assert (torch.matrix_power(one_step, 18) > 0).all()  # connected, so all but one bond are a tree


def test_points_are_equally_dense():
    clouds = [build(Setup(), "scale", case)[1] for case in ("10k edges", "100k edges")]
    small, large = (cloud.edata["d"].norm(dim=1).median() for cloud in clouds)
    assert 0.9 < small / large < 1.2  # neighbours are farther at the border, which a small cloud has more of


def test_the_seed_decides():
    first, again, other = (build(Setup(seed=seed, tiny=True), "cloud", "1,024 points") for seed in (0, 0, 1))
    assert torch.equal(first[1].ndata["x"], again[1].ndata["x"])
    assert not torch.equal(first[1].ndata["x"], other[1].ndata["x"])
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), again[0].parameters(), strict=True))


@pytest.mark.parametrize(("workload", "case"), CASES)
def test_a_tiny_training_step_gives_gradients(workload, case):
    model, G = build(Setup(tiny=True), workload, case)
    assert G.num_edges() < 400
    for mode in (BASIS, FORWARD):
        make_step(model, G, "default", mode)()
        assert all(parameter.grad is None for parameter in model.parameters())
    make_step(model, G, "default", TRAINING)()
    assert share_with_gradient(model) > 0.9


def test_forces_are_evaluated_without_gradients_of_parameters_and_trained_with_them():
    model, G = build(Setup(tiny=True), "forces", "8 molecules")
    make_step(model, G, "default", FORCES)()
    assert share_with_gradient(model) == 0
    make_step(model, G, "default", FORCES_TRAINED)()
    assert share_with_gradient(model) > 0.9


def share_with_gradient(model):
    with_gradient = [parameter.grad is not None for parameter in model.parameters()]
    return sum(with_gradient) / len(with_gradient)
