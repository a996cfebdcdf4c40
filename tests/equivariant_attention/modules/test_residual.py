import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from equivariant_attention.checks import check_features
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3, GSE3Res, RadialFunc, get_basis_and_r
from equivariant_attention.testing import assert_equivariant
from tests.cases import FULL, MIXED, VECTORS, on_graph, random_features, random_graph, with_features

OUT = Fiber(structure=[(4, 0), (4, 1), (4, 2)])


def run(layer, G, features, **options):
    basis, r = get_basis_and_r(G, 3)
    return layer(features, G=G, r=r, basis=basis, **options)


def test_the_parts_fit_together():
    """'cat' and 'sum', put together by hand from the submodules."""
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    basis, r = get_basis_and_r(G, 3)
    for skip in ("cat", "sum", None):
        layer = GSE3Res(MIXED, OUT, div=2, n_heads=2, skip=skip).double()
        v, k = (layer.GMAB[name](features, G=G, r=r, basis=basis) for name in "vk")
        expected = layer.GMAB["attn"](v, k=k, q=layer.GMAB["q"](features), G=G)
        if skip == "cat":
            expected = layer.project(layer.cat(expected, features))
        elif skip == "sum":
            expected = layer.add(layer.project(expected), features)
        for degree, value in run(layer, G, features).items():
            torch.testing.assert_close(value, expected[degree])


def test_an_attention_that_returns_other_nodes_is_refused():
    """In C++ the projection reads what attention returns as it is. A degree that the input lacks is checked alone."""
    layer, features = GSE3Res(VECTORS, OUT, div=2).double(), random_features(VECTORS, 15, torch.float64)
    layer.GMAB["attn"].register_forward_hook(lambda module, args, output: {**output, "2": output["2"][:7]})
    with pytest.raises(ValueError, match=r"\['2'\] must have shape \[15, 2, 5\], got \[7, 2, 5\]"):
        run(layer, random_graph(), features)


def test_fibers_of_values_and_keys():
    layer = GSE3Res(VECTORS, FULL, div=2)
    assert layer.GMAB["v"].f_out == Fiber(4, 2)
    assert layer.GMAB["k"].f_out == layer.GMAB["q"].f_out == Fiber(structure=[(2, 1)])
    check_features(
        run(GSE3Res(MIXED, OUT, div=3, skip=None).double(), random_graph(), random_features(MIXED, 15, torch.float64)),
        Fiber(3, 1),
        15,
    )


def test_published_attributes():
    layer = GSE3Res(VECTORS, FULL, edge_dim=2, div=2, n_heads=2)
    assert (layer.edge_dim, layer.div, layer.n_heads) == (2, 2, 2)
    assert layer.f_mid_out == Fiber(4, 2)
    assert layer.f_mid_in == Fiber(structure=[(2, 1)])


def test_scalars_of_two_dimensions():
    G, features = random_graph(), random_features(MIXED, 15, torch.float64)
    for skip in ("cat", "sum", None):
        layer = GSE3Res(MIXED, Fiber(3, 8), skip=skip).double()
        expected = run(layer, G, features)
        for degree, value in run(layer, G, {**features, "0": features["0"].squeeze(-1)}).items():
            assert torch.equal(value, expected[degree])


def test_weights_of_the_first_generation_are_named():
    wide = Fiber(2, 8)
    first = GSE3Res(wide, wide, div=2, skip="sum").state_dict()
    with pytest.raises(RuntimeError, match=r"project\.transform\.0 has shape \[8, 4\].*before 2021-01-26.*skip='sum'"):
        GSE3Res(wide, wide, div=2).load_state_dict(first)
    GSE3Res(wide, wide, div=2, skip="sum").load_state_dict(first)
    with pytest.raises(RuntimeError, match="size mismatch") as error:
        GSE3Res(wide, wide, div=2).load_state_dict(GSE3Res(wide, wide, div=4).state_dict())
    assert "generation" not in str(error.value)


@pytest.mark.parametrize("options", [{"mid_dim": 16}, {"act_fn": nn.SiLU()}, {"mid_dim": 64, "act_fn": nn.LeakyReLU}])
def test_another_width_and_activation_of_the_radial_networks(options):
    G, features = random_graph(edge_dim=1), random_features(MIXED, 15, torch.float64)
    layers = [GSE3Res(MIXED, OUT, edge_dim=1, **options), GConvSE3(MIXED, OUT, edge_dim=1, **options)]
    for layer in layers:
        layer.double()
        kernels = [module for module in layer.modules() if isinstance(module, RadialFunc)]
        assert all(kernel.net[0].out_features == options.get("mid_dim", 32) for kernel in kernels)
        with use_backend("oracle"):
            expected = run(layer, G, features)
        with use_backend("edge"):
            for degree, value in run(layer, G, features).items():
                torch.testing.assert_close(value, expected[degree])


def test_attention_weights_on_request(kind):
    G = random_graph(kind=kind)
    features = random_features(MIXED, 15, torch.float64)
    layer = GSE3Res(MIXED, OUT, div=2, n_heads=2).double()
    output, attention = run(layer, G, features, return_attention=True)
    plain = run(layer, G, features)
    assert attention.shape == (basis_edges(G), 2)
    torch.testing.assert_close(output, plain)  # which may be made in C++, and is summed up in another order


def basis_edges(G):
    return get_basis_and_r(G, 0)[1].shape[0]


def test_a_frozen_projection():
    assert not any(p.requires_grad for p in GSE3Res(MIXED, OUT, learnable_skip=False).project.parameters())
    assert all(p.requires_grad for p in GSE3Res(MIXED, OUT).project.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"div": 5}, "div=5 leaves none of 4 of degree 0"),
        ({"div": 1, "n_heads": 3}, "3 heads do not divide 4 channels of degree 0"),
    ],
)
def test_channels_that_cannot_be_divided_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GSE3Res(MIXED, OUT, **arguments)


def test_a_sum_that_loses_input_is_refused():
    with pytest.raises(ValueError, match="degree 3 has 4 channels in f_in, 0 in f_out"):
        GSE3Res(FULL, OUT, skip="sum")
    with pytest.raises(ValueError, match="degree 0 has 6 channels in f_in, 4 in f_out"):
        GSE3Res(Fiber(1, 6), OUT, skip="sum")


def test_fibers_without_a_common_degree_are_refused():
    with pytest.raises(ValueError, match="must share a degree"):
        GSE3Res(VECTORS, Fiber(1, 4))


fibers = st.dictionaries(st.integers(0, 3), st.sampled_from([1, 2, 4]), min_size=1).map(lambda d: Fiber(dictionary=d))


@settings(max_examples=25, deadline=None)
@given(
    f_in=fibers,
    f_out=fibers,
    edge_dim=st.integers(0, 2),
    div=st.sampled_from([1, 2]),
    n_heads=st.sampled_from([1, 2]),
    skip=st.sampled_from(["cat", "sum", None]),
    selfint=st.sampled_from(["1x1", "att"]),
    x_ij=st.sampled_from([None, "cat", "add"]),
)
def test_any_layer_is_refused_with_a_reason_or_equivariant(f_in, f_out, edge_dim, div, n_heads, skip, selfint, x_ij):
    allowed = not (
        any(m < div or (m // div) % n_heads for m in f_out.multiplicities)
        or not {*f_in.degrees} & {*f_out.degrees}
        or (skip == "sum" and any(m > f_out.dict.get(d, 0) for m, d in f_in.structure))
    )
    if not allowed:
        with pytest.raises(ValueError, match=r"div must|n_heads must|share a degree|skip='sum' needs"):
            GSE3Res(f_in, f_out, edge_dim, div, n_heads, True, skip, selfint, x_ij)
        return
    layer = GSE3Res(f_in, f_out, edge_dim, div, n_heads, True, skip, selfint, x_ij).double()
    G = random_graph(edge_dim=edge_dim)
    G, degrees = with_features(G, random_features(f_in, G.num_nodes(), torch.float64))
    assert_equivariant(on_graph(layer, f_in), G, node_degrees=degrees)
