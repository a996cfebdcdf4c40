"""The smooth cutoff: nothing jumps where an edge begins or ends, and nothing else changes."""

import copy

import pytest
import torch
from torch import nn

from equivariant_attention.envelope import polynomial_envelope
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph, as_graph, graph_of_node
from equivariant_attention.modules import GConvSE3, GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.neighbors import fully_connected_graph, radius_graph
from equivariant_attention.segments import segment_sum
from equivariant_attention.testing import assert_equivariant
from tests.cases import MIXED, awkward_graph, on_graph, random_features, random_graph, with_features

HEADS = Fiber(structure=[(4, 0), (4, 1), (2, 2)])
LAYERS = {
    "GConvSE3": lambda: GConvSE3(MIXED, HEADS),
    "GConvSE3-skip": lambda: GConvSE3(MIXED, HEADS, self_interaction=True),
    "GConvSE3-TFN": lambda: GConvSE3(MIXED, HEADS, self_interaction=True, flavor="TFN"),
    "GSE3Res": lambda: GSE3Res(MIXED, HEADS, div=2),
    "GSE3Res-att-add": lambda: GSE3Res(MIXED, HEADS, div=2, selfint="att", x_ij="add"),
    "GSE3Res-cat-sum": lambda: GSE3Res(MIXED, HEADS, div=1, n_heads=2, skip=None, x_ij="cat"),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def build(name):
    return LAYERS[name]().double()


def run(layer, G, features):
    basis, r = get_basis_and_r(G, 2, compute_gradients=True)
    return layer(features, G=G, r=r, basis=basis)


def with_envelope(G):
    graph = as_graph(G)
    r = graph.edata["d"].reshape(-1, 3).norm(dim=-1, keepdim=True)
    graph.edata["envelope"] = polynomial_envelope(r, 2.5)
    return G


def without_edges(G, gone):
    src, dst = G.edges()
    H = Graph(src[~gone], dst[~gone], num_nodes=G.num_nodes())
    H.ndata.update(G.ndata)
    H.edata.update({name: value[~gone] for name, value in G.edata.items()})
    return H


# ---------------------------------------------------------------------------------------------------- the function


@pytest.mark.parametrize("p", [1, 2, 6, 9])
def test_it_is_the_published_polynomial_up_to_the_cutoff_and_zero_from_there_on(p, dtype):
    x = torch.linspace(0, 1, 101, dtype=dtype)
    published = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    found = polynomial_envelope(3.5 * x, 3.5, p)
    torch.testing.assert_close(found, published, rtol=0, atol=100 * torch.finfo(dtype).eps)
    assert found[0] == 1
    assert (found >= 0).all()
    assert not polynomial_envelope(torch.tensor([3.5, 4, 1e30], dtype=dtype), 3.5, p).any()


def test_two_derivatives_vanish_at_the_cutoff():
    for r in (2.0, 2.0 + 1e-9, 3.0):
        r = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(polynomial_envelope(r, 2.0), r, create_graph=True)
        (second,) = torch.autograd.grad(first, r)
        assert first == second == 0
    before = torch.tensor(2 - 1e-9, dtype=torch.float64)
    assert 0 < polynomial_envelope(before, 2.0) < 1e-24
    r = torch.linspace(0.1, 2.3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: polynomial_envelope(r, 2.0), r)
    assert torch.autograd.gradgradcheck(lambda r: polynomial_envelope(r, 2.0), r)


def test_wrong_arguments_are_refused():
    r = torch.ones(3)
    for cutoff in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="cutoff must be larger than 0"):
            polynomial_envelope(r, cutoff)
    for p in (0, 2.5):
        with pytest.raises(ValueError, match="p must be a whole number of at least 1"):
            polynomial_envelope(r, 1.0, p)


def test_radius_graphs_have_one_if_asked_for():
    x = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    plain, smooth = radius_graph(x, 1.5), radius_graph(x, 1.5, envelope=4)
    assert "envelope" not in plain.edata
    assert all(torch.equal(a, b) for a, b in zip(plain.edges(), smooth.edges(), strict=True))
    expected = polynomial_envelope(smooth.edata["d"].norm(dim=1, keepdim=True), 1.5, 4)
    torch.testing.assert_close(smooth.edata["envelope"], expected)
    assert smooth.edata["envelope"].requires_grad
    with pytest.raises(ValueError, match="envelope must be a whole number of at least 1, got 0"):
        radius_graph(x, 1.5, envelope=0)


# ------------------------------------------------------------------------------------------------------ continuity

INSIDE = torch.tensor([[0, 0, 0], [0.6, 0.1, 0], [0.2, 0.5, 0.3]], dtype=torch.float64)
DIRECTION = nn.functional.normalize(torch.tensor([-1, 0.2, 0.1], dtype=torch.float64), dim=0)
SCALARS = Fiber(1, 2)
MIDDLE = Fiber(3, 4)


def energy_of(*layers):
    """The energy of atoms at x: the sum of the scalars that the layers make of ones."""

    def energy(x, envelope):
        G = radius_graph(x, 1.0, envelope=envelope)
        basis, r = get_basis_and_r(G, 2, compute_gradients=True)
        h = {"0": x.new_ones(len(x), SCALARS.n_features, 1)}
        for layer in layers:
            h = layer.double()(h, G=G, r=r, basis=basis)
        return sum((v.squeeze(1) if d == "0" else v.square().sum(2)).sin().sum() for d, v in h.items())

    return energy


ENERGIES = {
    "GConvSE3": lambda: energy_of(GConvSE3(SCALARS, MIDDLE, self_interaction=True)),
    "GSE3Res": lambda: energy_of(GSE3Res(SCALARS, MIDDLE, div=2, n_heads=2)),
    "SE3Transformer": lambda: energy_of(
        GSE3Res(SCALARS, MIDDLE, div=2, n_heads=2),
        GNormSE3(MIDDLE),
        GSE3Res(MIDDLE, MIDDLE, div=2, selfint="att", x_ij="cat"),
        GConvSE3(MIDDLE, SCALARS, self_interaction=True),
    ),
}


def jump(energy, inside, step, envelope):
    """By how much energy and forces differ between an atom this far inside the cutoff and this far outside it."""
    found = []
    for distance in (1 - step, 1 + step):
        x = torch.cat([inside, distance * DIRECTION[None]]).requires_grad_()
        value = energy(x, envelope)
        found.append((value.detach(), torch.autograd.grad(value, x)[0]))
    (before, force_before), (after, force_after) = found
    return float((before - after).abs()), float((force_before - force_after).abs().max())


@pytest.mark.parametrize("inside", [INSIDE, INSIDE[:1]], ids=["cluster", "lone atom"])
@pytest.mark.parametrize("name", ENERGIES)
def test_energies_and_forces_jump_without_an_envelope_and_do_not_with_one(name, inside):
    energy = ENERGIES[name]()
    steps = (1e-3, 1e-4, 1e-5)
    bare = [jump(energy, inside, step, None) for step in steps]
    smooth = [jump(energy, inside, step, 6) for step in steps]
    assert all(e > 1e-3 and f > 1e-3 for e, f in bare)
    # The envelope is of third order in the step and its derivative of second, and so are energies and forces.
    for step, (e, f) in zip(steps, smooth, strict=True):
        assert e < 1e3 * step**3 + 1e-14
        assert f < 1e3 * step**2


# ---------------------------------------------------------------------------------------------------------- layers


@every_layer
def test_an_envelope_of_one_is_the_published_layer_and_of_zero_no_edge(name):
    layer, G = build(name), random_graph()
    features, edges = random_features(MIXED, G.num_nodes(), torch.float64), G.num_edges()
    published = run(layer, G, features)
    G.edata["envelope"] = torch.ones(edges, 1, dtype=torch.float64)
    torch.testing.assert_close(run(layer, G, features), published, rtol=0, atol=1e-12)
    gone = torch.rand(edges) < 0.4
    gone |= G.edges()[1] == 2  # node 2 loses all of its edges
    G.edata["envelope"] = (~gone).double()
    fewer = without_edges(G, gone)
    del fewer.edata["envelope"]
    torch.testing.assert_close(run(layer, G, features), run(layer, fewer, features), rtol=0, atol=1e-12)


def test_the_convolution_against_a_loop_over_nodes():
    layer, G = build("GConvSE3"), with_envelope(random_graph())
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    (_, dst), u = G.edges(), G.edata["envelope"][:, 0]
    found = run(layer, G, features)
    assert 0 < (u == 0).sum() < len(u) / 2
    for edge in u.nonzero()[:, 0]:  # each message by itself
        lone = without_edges(G, torch.arange(G.num_edges()) != edge)
        del lone.edata["envelope"]
        weight = u[edge] ** 2 / u[dst == dst[edge]].sum()
        for degree, message in run(layer, lone, features).items():
            found[degree] = found[degree] - weight * message
    assert all(value.abs().max() < 1e-12 for value in found.values())


def test_the_attention_returned_is_what_values_are_weighed_by():
    layer, G = build("GSE3Res-cat-sum"), with_envelope(random_graph())
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    basis, r = get_basis_and_r(G, 2)
    _, attention = layer(features, G=G, r=r, basis=basis, return_attention=True)
    u = G.edata.pop("envelope")
    _, published = layer(features, G=G, r=r, basis=basis, return_attention=True)
    _, dst = G.edges()
    expected = u**2 * published / segment_sum(u * published, dst, G.num_nodes())[dst]
    torch.testing.assert_close(attention, expected)


@every_layer
def test_equivariance(name, kind):
    G = with_envelope(random_graph(kind=kind))
    G, degrees = with_features(G, random_features(MIXED, as_graph(G).num_nodes(), torch.float64))
    assert_equivariant(on_graph(build(name), MIXED), G, node_degrees=degrees)


@pytest.mark.parametrize("name", ["GConvSE3-skip", "GSE3Res-cat-sum"])
def test_derivatives(name):
    layer, G = build(name), random_graph(sizes=(3, 3))
    features = random_features(MIXED, G.num_nodes(), torch.float64)

    def function(x, *values):
        H = fully_connected_graph(x, graph_of_node(G))
        return tuple(run(layer, with_envelope(H), dict(zip(features, values, strict=True))).values())

    leaves = [v.requires_grad_() for v in (G.ndata["x"].squeeze(1), *features.values())]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@every_layer
def test_edges_that_all_count_nothing_give_finite_values_and_gradients(name, dtype):
    layer = build(name).to(dtype)
    features = random_features(MIXED, 16, dtype)
    for value in (0.0, 1e-45, 1e-30, 1.0):
        G = awkward_graph(dtype)
        del G.ndata["x"]  # so that every derivative flows to d
        G.edata["d"].requires_grad_()
        G.edata["envelope"] = torch.full((G.num_edges(),), value, dtype=dtype, requires_grad=True)
        output = run(layer, G, features)
        leaves = [G.edata["d"], G.edata["envelope"], *layer.parameters()]
        loss = sum(v.square().sum() for v in output.values())
        first = torch.autograd.grad(loss, leaves, allow_unused=True, create_graph=True, materialize_grads=True)
        second = torch.autograd.grad(sum(g.sum() for g in first), leaves, allow_unused=True, materialize_grads=True)
        assert all(v.isfinite().all() for v in (*output.values(), *first, *second))


@every_layer
def test_inputs_are_not_changed_and_weights_not_added(name):
    layer, G = build(name), with_envelope(random_graph())
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    before = copy.deepcopy((features, dict(G.ndata), dict(G.edata), layer.state_dict()))
    run(layer, G, features)
    for old, new in zip(before, (features, G.ndata, G.edata, layer.state_dict()), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) for k in old)


def test_wrong_envelopes_are_refused():
    layer, G = build("GConvSE3"), random_graph()
    features, edges = random_features(MIXED, G.num_nodes(), torch.float64), G.num_edges()
    G.edata["envelope"] = torch.ones(edges, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=rf"edata\['envelope'\] must have shape \[{edges}, 1\] or \[{edges}\], got"):
        run(layer, G, features)
    G.edata["envelope"] = torch.ones(edges, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"edata\['envelope'\] must be a floating-point tensor"):
        run(layer, G, features)
    for wrong in (-1e-3, float("nan"), float("inf")):
        G.edata["envelope"] = torch.ones(edges, dtype=torch.float64)
        G.edata["envelope"][3] = wrong
        with pytest.raises(ValueError, match=r"edata\['envelope'\] must be at least 0 and finite"):
            run(layer, G, features)
