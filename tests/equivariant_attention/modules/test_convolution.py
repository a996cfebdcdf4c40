import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3, GConvSE3Partial, get_basis_and_r
from tests.cases import FULL, MIXED, SCALARS, as_kind, random_features, random_graph


def run(layer, G, features):
    basis, r = get_basis_and_r(G, 3, compute_gradients=True)
    return layer(features, G=G, r=r, basis=basis)


def share_weights(layer, partial):
    partial.kernel_unary.load_state_dict(layer.kernel_unary.state_dict())
    return partial


def test_the_convolution_is_the_mean_of_the_partial_one():
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    layer = GConvSE3(MIXED, FULL).double()
    messages = run(share_weights(layer, GConvSE3Partial(MIXED, FULL).double()), G, features)
    _, dst = G.edges()
    for degree, value in run(layer, G, features).items():
        for node in range(G.num_nodes()):
            incoming = messages[degree][dst == node]
            expected = incoming.mean(0) if len(incoming) else torch.zeros_like(value[node])
            torch.testing.assert_close(value[node], expected)


@pytest.mark.parametrize("flavor", ["skip", "TFN"])
@pytest.mark.parametrize("has_envelope", [True, False])
def test_the_sum_is_the_mean_times_the_number_of_neighbours(flavor, has_envelope):
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    mean, total = (
        GConvSE3(MIXED, FULL, self_interaction=True, flavor=flavor, reduce=reduce).double()
        for reduce in ("mean", "sum")
    )
    total.load_state_dict(mean.state_dict())
    times = G.in_degrees()[:, None, None].double()
    if has_envelope:  # u (u / sum of u), for u that is the same on all edges: the mean times u
        G.edata["envelope"] = torch.full((G.num_edges(), 1), 0.25, dtype=torch.float64)
    for degree, value in run(mean, G, features).items():
        torch.testing.assert_close(run(total, G, features)[degree], times * value)


def test_self_interaction():
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    plain = GConvSE3(MIXED, FULL).double()
    skip = share_weights(plain, GConvSE3(MIXED, FULL, self_interaction=True).double())
    tfn = share_weights(plain, GConvSE3(MIXED, FULL, self_interaction=True, flavor="TFN").double())
    assert {d: tuple(p.shape) for d, p in skip.kernel_self.items()} == {"0": (1, 4, 4), "1": (1, 4, 3), "2": (1, 4, 2)}
    assert {d: tuple(p.shape) for d, p in tfn.kernel_self.items()} == {str(d): (1, 4, 4) for d in range(4)}
    base, skipped, multiplied = (run(layer, G, features) for layer in (plain, skip, tfn))
    has_edges = torch.zeros(15, 1, 1, dtype=torch.float64)
    has_edges[G.edges()[1]] = 1
    assert 0 < has_edges.sum() < 15
    for degree, value in base.items():
        torch.testing.assert_close(multiplied[degree], tfn.kernel_self[degree] @ value)
        if degree in skip.kernel_self:
            torch.testing.assert_close(
                skipped[degree], value + has_edges * (skip.kernel_self[degree] @ features[degree])
            )
        else:
            torch.testing.assert_close(skipped[degree], value)


def test_initialisation_of_the_self_interaction():
    wide = Fiber(1, 64)
    skip = GConvSE3(wide, Fiber(1, 256), self_interaction=True).kernel_self["0"]
    tfn = GConvSE3(wide, Fiber(1, 256), self_interaction=True, flavor="TFN").kernel_self["0"]
    assert abs(skip.std() * 64**0.5 - 1) < 0.05
    assert abs(tfn.std() * 256**0.5 - 1) < 0.05


def test_appended_positions_are_one_more_vector_channel():
    G = random_graph()
    features = random_features(MIXED, 15, torch.float64)
    layer = GConvSE3Partial(MIXED, FULL, x_ij="cat").double()
    assert layer.kernel_unary["(1,2)"].nc_in == MIXED.dict[1] + 1
    # The same, edge by edge: a graph with one source node per edge that has the vector as a channel of its own.
    src, _ = G.edges()
    lone = Graph(torch.arange(len(src)) + 1, torch.zeros_like(src))
    lone.edata["d"] = G.edata["d"]
    sent = {d: torch.cat([v[:1], v[src]]) for d, v in features.items()}
    vectors = torch.cat([torch.zeros(1, 1, 3, dtype=torch.float64), G.edata["d"].unsqueeze(1)])
    sent["1"] = torch.cat([sent["1"], vectors], dim=1)
    wider = Fiber.combine(MIXED, Fiber(structure=[(1, 1)]))
    expected = run(share_weights(layer, GConvSE3Partial(wider, FULL).double()), lone, sent)
    for degree, value in run(layer, G, features).items():
        torch.testing.assert_close(value, expected[degree])


def test_added_positions_need_a_second_vector_channel():
    """As published: with one vector channel or none, nothing is added."""
    for channels in (None, 1, 2):
        fiber = Fiber(dictionary={0: 2, **({1: channels} if channels else {})})
        G, features = random_graph(), random_features(fiber, 15, torch.float64)
        added = GConvSE3Partial(fiber, MIXED, x_ij="add").double()
        plain = share_weights(added, GConvSE3Partial(fiber, MIXED).double())
        same = [
            torch.equal(a, b)
            for a, b in zip(run(added, G, features).values(), run(plain, G, features).values(), strict=True)
        ]
        assert all(same) == (channels != 2)


@pytest.mark.parametrize("x_ij", ["cat", "add"])
def test_relative_positions_are_read_not_recomputed(x_ij):
    """With periodic offsets d is not x_dst - x_src; d decides, with positions on the graph or without."""
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    G.edata["d"] = G.edata["d"] + 10 * torch.randint(-1, 2, G.edata["d"].shape)
    layer = GConvSE3Partial(MIXED, FULL, x_ij=x_ij).double()
    with_positions = run(layer, G, features)
    del G.ndata["x"]
    for degree, value in run(layer, G, features).items():
        assert torch.equal(value, with_positions[degree])


@pytest.mark.parametrize("x_ij", ["cat", "add"])
def test_forces_through_positions_and_through_d_agree(x_ij):
    """dE/dx is the same whether d is a leaf (no positions on the graph) or made from positions."""
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    layer = GConvSE3Partial(MIXED, FULL, x_ij=x_ij).double()
    src, dst = G.edges()
    x = G.ndata["x"].clone().requires_grad_()
    G.ndata["x"], G.edata["d"] = x, (x[dst] - x[src]).squeeze(1)
    (through_x,) = torch.autograd.grad(sum(v.sin().sum() for v in run(layer, G, features).values()), x)
    del G.ndata["x"]
    G.edata["d"] = G.edata["d"].detach().requires_grad_()
    (on_edges,) = torch.autograd.grad(sum(v.sin().sum() for v in run(layer, G, features).values()), G.edata["d"])
    forces = torch.zeros(15, 3, dtype=torch.float64).index_add(0, dst, on_edges).index_add(0, src, -on_edges)
    torch.testing.assert_close(through_x.squeeze(1), forces)


def test_a_gradient_that_goes_nowhere_is_warned_of():
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    G.edata["d"] = G.edata["d"].requires_grad_()
    with pytest.warns(UserWarning, match="x_ij sends its gradient"):
        run(GConvSE3Partial(MIXED, FULL, x_ij="cat").double(), G, features)


def test_positions_of_another_shape_are_refused():
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    G.ndata["x"] = torch.zeros(15, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"ndata\['x'\] must be positions \[15, 1, 3\] or \[15, 3\], got \[15, 6\]"):
        run(GConvSE3Partial(MIXED, FULL, x_ij="cat").double(), G, features)


def test_dtypes_that_do_not_fit_the_layer_are_named():
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    layer = GConvSE3(MIXED, FULL)
    basis, r = get_basis_and_r(G, 3)
    with pytest.raises(TypeError, match=r"h\['0'\] must be torch.float32, as the layer is, got torch.float64"):
        layer(features, G=G, r=r, basis=basis)
    with pytest.raises(TypeError, match=r"r must be torch\.float32, as the layer is, got torch\.float64"):
        layer({d: v.float() for d, v in features.items()}, G=G, r=r, basis=basis)
    with pytest.raises(TypeError, match="r and basis must come from get_basis_and_r"):
        layer({d: v.float() for d, v in features.items()}, G=G)


def test_edge_features():
    layer = GConvSE3(SCALARS, MIXED, edge_dim=3)
    features = random_features(SCALARS, 15, torch.float32)
    G = random_graph(torch.float32, edge_dim=3)
    flat = run(layer, G, features)
    G.edata["w"] = G.edata["w"].unsqueeze(-1)
    assert all(torch.equal(a, b) for a, b in zip(flat.values(), run(layer, G, features).values(), strict=True))
    wrong = random_graph(torch.float32, edge_dim=2)
    with pytest.raises(ValueError, match=rf"edata\['w'\] must have shape \[{wrong.num_edges()}, 3\] .* got"):
        run(layer, wrong, features)
    with pytest.raises(ValueError, match="has no edata"):
        run(layer, random_graph(torch.float32), features)
    with pytest.raises(ValueError, match="edge_dim=0"):
        run(GConvSE3(SCALARS, MIXED), G, features)


@pytest.mark.parametrize("kind_of_number", [torch.int64, torch.uint8, torch.bool])
def test_edge_features_of_whole_numbers(kind_of_number, kind, dtype):
    G, layer = random_graph(dtype, kind="own"), GConvSE3(MIXED, FULL, edge_dim=2).to(dtype)
    features, numbers = random_features(MIXED, 15, dtype), torch.randint(2, (G.num_edges(), 2)).to(kind_of_number)
    G.edata["w"] = numbers.to(dtype)
    expected = run(layer, G, features)
    G.edata["w"] = numbers
    for degree, value in run(layer, as_kind(G, kind), features).items():
        torch.testing.assert_close(value, expected[degree])


def test_scalars_of_two_dimensions(dtype):
    G, features = random_graph(dtype), random_features(MIXED, 15, dtype)
    flat = {**features, "0": features["0"].squeeze(-1)}
    for layer in (GConvSE3(MIXED, FULL, self_interaction=True), GConvSE3Partial(MIXED, FULL, x_ij="cat")):
        expected = run(layer.to(dtype), G, features)
        for degree, value in run(layer, G, flat).items():
            assert torch.equal(value, expected[degree])
    assert flat["0"].dim() == 2


def test_other_degrees_are_ignored_as_published():
    G, features = random_graph(), random_features(FULL, 15, torch.float64)
    layer = GConvSE3(Fiber(2, 4), FULL, self_interaction=True).double()
    expected = run(layer, G, {d: features[d] for d in "01"})
    for degree, value in run(layer, G, features).items():
        assert torch.equal(value, expected[degree])


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="flavor must be 'skip' or 'TFN', got 'tfn'"):
        GConvSE3(MIXED, FULL, flavor="tfn")
    with pytest.raises(ValueError, match="reduce must be one of"):
        GConvSE3(MIXED, FULL, reduce="max")
    with pytest.raises(ValueError, match="x_ij must be one of"):
        GConvSE3Partial(MIXED, FULL, x_ij="concat")
    with pytest.raises(ValueError, match="edge_dim must be a whole number of at least 0, got -1"):
        GConvSE3(MIXED, FULL, edge_dim=-1)
    with pytest.raises(TypeError, match="f_out must be a Fiber, got dict"):
        GConvSE3(MIXED, {0: 4})
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    basis, r = get_basis_and_r(G, 3)
    layer = GConvSE3(MIXED, FULL).double()
    with pytest.raises(ValueError, match=r"r must have shape \[\d+, 1\], got"):
        layer(features, G=G, r=r[1:], basis=basis)
    with pytest.raises(TypeError, match="G must be"):
        layer(features, G=None, r=r, basis=basis)


@pytest.mark.parametrize("edge_dim", [0, 2])
def test_gradients_are_laid_out_as_their_parameters(edge_dim):
    """DistributedDataParallel warns of others, even where the strides of a single column are all that differs."""
    G = random_graph(torch.float32, edge_dim)
    layer = GConvSE3(MIXED, MIXED, self_interaction=True, edge_dim=edge_dim)
    output = run(layer, G, random_features(MIXED, G.num_nodes(), torch.float32))
    sum(value.square().sum() for value in output.values()).backward()
    assert all(p.grad.stride() == p.stride() for p in layer.parameters())
