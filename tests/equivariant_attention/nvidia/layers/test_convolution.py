import re
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equivariant_attention.contraction import use_backend
from equivariant_attention.nvidia import (
    ConvSE3,
    ConvSE3FuseLevel,
    Fiber,
    get_basis,
    get_populated_edge_features,
    update_basis_with_fused,
)
from equivariant_attention.nvidia.layout import Layout
from tests.cases import BACKENDS_HERE, as_kind
from tests.equivariant_attention.nvidia import oracle
from tests.equivariant_attention.nvidia.cases import features, graph, with_other_norms
from tests.wrong.nvidia import FEATURES

FULL, PARTIAL, NONE = ConvSE3FuseLevel.FULL, ConvSE3FuseLevel.PARTIAL, ConvSE3FuseLevel.NONE
EQUAL = {0: 3, 1: 3, 2: 3}
UNEQUAL = {0: 4, 1: 2, 2: 3}


def inputs(fiber_in, fiber_edge, G):
    node = features(fiber_in, G.num_nodes())
    edge = get_populated_edge_features(G.edata["rel_pos"], features(fiber_edge, G.num_edges()))
    return node, edge


def expected(layer, node, edge, G, **options):
    by_number = [{int(d): v for d, v in part.items()} for part in (node, edge)]
    src, dst = G.edges()
    fiber_out = dict(layer.fiber_out.items())
    weights = dict(layer.named_parameters())
    return oracle.convolution(weights, *by_number, src, dst, G.edata["rel_pos"], fiber_out, **options)


def assert_alike(found, wanted, leaves):
    assert {int(d) for d in found} == set(wanted)
    for degree, value in wanted.items():
        torch.testing.assert_close(found[str(degree)], value)
    cotangents = {degree: torch.randn_like(value) for degree, value in wanted.items()}
    by_layer, by_oracle = (
        torch.autograd.grad(sum((of[d] * c).sum() for d, c in cotangents.items()), leaves, allow_unused=True)
        for of in ({int(d): v for d, v in found.items()}, wanted)
    )
    for a, b in zip(by_layer, by_oracle, strict=True):
        assert (a is None) == (b is None) or not (b if a is None else a).any()
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


fibers = st.one_of(
    st.builds(lambda m, top: dict.fromkeys(range(top + 1), m), st.integers(1, 3), st.integers(0, 2)),
    st.dictionaries(st.integers(0, 3), st.integers(1, 3), min_size=1, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    fibers,
    fibers,
    st.dictionaries(st.integers(0, 2), st.integers(1, 2), max_size=2),
    st.sampled_from(ConvSE3FuseLevel),
    st.fixed_dictionaries({name: st.booleans() for name in ("pool", "use_layer_norm", "self_interaction")}),
    st.booleans(),
    st.integers(0, 1),
    st.booleans(),
)
def test_any_convolution_is_that_of_the_oracle(
    fiber_in, fiber_out, fiber_edge, level, options, mean, more, given_basis
):
    G = graph(sizes=(4, 3))
    top = max(*fiber_in, *fiber_out) + more
    layer = ConvSE3(
        *map(Fiber, (fiber_in, fiber_out, fiber_edge)),
        max_degree=top,
        fuse_level=level,
        sum_over_edge=not mean,
        **options,
    ).double()
    with_other_norms(layer)
    node, edge = inputs(fiber_in, fiber_edge, G)
    leaves = [v.requires_grad_() for v in node.values()]
    basis = update_basis_with_fused(get_basis(G.edata["rel_pos"], top), top, False, True) if given_basis else None
    found = layer(node, edge, G, basis)
    wanted = expected(layer, node, edge, G, pool=options["pool"], mean=mean)
    assert_alike(found, wanted, [*leaves, *layer.parameters()])


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize(
    ("fiber_in", "fiber_out", "level", "layout"),
    [
        (EQUAL, EQUAL, FULL, Layout.ALL),
        (EQUAL, EQUAL, PARTIAL, Layout.DEGREE_OUT),
        (UNEQUAL, EQUAL, FULL, Layout.DEGREE_IN),
        (EQUAL, UNEQUAL, FULL, Layout.DEGREE_OUT),
        (UNEQUAL, UNEQUAL, FULL, Layout.PAIR),
        (EQUAL, EQUAL, NONE, Layout.PAIR),
        ({0: 3, 1: 3}, EQUAL, PARTIAL, Layout.DEGREE_IN),
    ],
)
def test_every_layout_in_every_backend(fiber_in, fiber_out, level, layout, backend):
    G = graph(sizes=(5, 4))
    layer = with_other_norms(
        ConvSE3(Fiber(fiber_in), Fiber(fiber_out), Fiber({0: 2}), max_degree=2, fuse_level=level, use_layer_norm=True)
    ).double()
    assert layer.layout is layout
    node, edge = inputs(fiber_in, {0: 2}, G)
    with use_backend(backend):
        found = layer(node, edge, G)
    for degree, value in expected(layer, node, edge, G).items():
        torch.testing.assert_close(found[str(degree)], value)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("level", "fiber_in", "names"),
    [
        (FULL, EQUAL, {"conv.radial_func"}),
        (PARTIAL, EQUAL, {f"conv_out.{l}.radial_func" for l in range(3)}),
        (PARTIAL, UNEQUAL, {f"conv_in.{k}.radial_func" for k in range(3)}),
        (NONE, EQUAL, {f"conv.{k},{l}.radial_func" for k in range(3) for l in range(3)}),
    ],
)
def test_names_and_numbers_of_parameters(level, fiber_in, names, norm):
    layer = ConvSE3(
        Fiber(fiber_in), Fiber(EQUAL), Fiber({0: 2}), max_degree=2, fuse_level=level, use_layer_norm=norm,
        self_interaction=True,
    )  # fmt: skip
    linears = [0, 3, 6] if norm else [0, 2, 4]
    keys = {f"net.{i}.{kind}" for i in linears[:2] for kind in ("weight", "bias")} | {f"net.{linears[2]}.weight"}
    keys |= {f"net.{i}.{kind}" for i in (1, 4) for kind in ("weight", "bias") if norm}
    assert set(layer.state_dict()) == {f"{n}.{k}" for n in names for k in keys} | {f"to_kernel_self.{l}" for l in EQUAL}
    hidden = len(names) * (4 * 32 + 32 * 32 + 32 + norm * 4 * 32)
    rows = sum(3 * fiber_in[k] * (2 * min(k, l) + 1) for k in range(3) for l in range(3))
    own = sum(3 * m for m in fiber_in.values())
    assert sum(p.numel() for p in layer.parameters()) == hidden + 32 * rows + own


def test_a_state_dict_of_another_layout_is_loaded_into_that_layout():
    G = graph()
    node, edge = inputs(EQUAL, {}, G)
    for source in ConvSE3FuseLevel:
        trained = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2, fuse_level=source).double()
        for target in ConvSE3FuseLevel:
            layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2, fuse_level=target).double()
            before = torch.get_rng_state()
            assert str(layer.load_state_dict(trained.state_dict(), strict=True)) == "<All keys matched successfully>"
            assert torch.equal(torch.get_rng_state(), before)
            assert layer.used_fuse_level is source
            for degree, value in trained(node, edge, G).items():
                assert torch.equal(layer(node, edge, G)[degree], value)


def test_a_changed_layout_is_as_if_it_was_made_so():
    options = {"max_degree": 2, "self_interaction": True, "use_layer_norm": True}
    trained = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), fuse_level=FULL, **options)
    layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), fuse_level=NONE, **options).eval()
    layer.conv.requires_grad_(False)
    layer.load_state_dict(trained.state_dict())
    assert list(layer.state_dict()) == list(trained.state_dict())
    assert not any(p.requires_grad for p in layer.conv.parameters())
    assert all(p.requires_grad for p in layer.to_kernel_self.parameters())
    assert not any(module.training for module in layer.modules())


def test_a_state_dict_that_fits_no_layout_is_refused_as_ever():
    layer = ConvSE3(Fiber(EQUAL), Fiber(UNEQUAL), max_degree=2)
    other = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2)
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(other.state_dict())
    assert layer.layout is Layout.DEGREE_OUT


@pytest.mark.parametrize(("source", "message"), [
    ({"fiber_in": EQUAL}, "a radial network there serves all pairs of degrees, which needs equal channels"),
    ({"fiber_in": UNEQUAL, "fuse_level": NONE, "use_layer_norm": True}, "need use_layer_norm=True"),
])  # fmt: skip
def test_what_a_state_dict_that_does_not_fit_was_made_with_is_said(source, message):
    made = {"fiber_out": Fiber(EQUAL), "max_degree": 2}
    other = ConvSE3(**made, **{**source, "fiber_in": Fiber(source["fiber_in"])})
    with pytest.raises(RuntimeError, match=message):
        ConvSE3(Fiber(UNEQUAL), **made).load_state_dict(other.state_dict())


def test_zero_zero_in_a_basis_is_honoured_and_what_is_given_is_not_changed():
    G = graph()
    layer = ConvSE3(Fiber({0: 3}), Fiber({0: 2}), max_degree=0, fuse_level=NONE).double()
    node, edge = inputs({0: 3}, {}, G)
    basis = get_basis(G.edata["rel_pos"], 0)
    given = [dict(node), dict(edge), dict(basis), dict(G.edata), dict(G.ndata)]
    copies = [{name: value.clone() for name, value in part.items()} for part in given]
    with_it, without = layer(node, edge, G, basis)["0"], layer(node, edge, G)["0"]
    torch.testing.assert_close(with_it, without / (4 * torch.pi) ** 0.5)
    for now, before, copied in zip([node, edge, basis, G.edata, G.ndata], given, copies, strict=True):
        assert {name: id(value) for name, value in now.items()} == {name: id(value) for name, value in before.items()}
        assert all(torch.equal(value, copied[name]) for name, value in now.items())


def test_a_padded_basis_is_the_same():
    G = graph()
    layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2).double()
    node, edge = inputs(EQUAL, {}, G)
    padded = get_basis(G.edata["rel_pos"], 2, use_pad_trick=True)
    assert padded["1,2"].shape[-1] == 6
    for degree, value in layer(node, edge, G).items():
        torch.testing.assert_close(layer(node, edge, G, padded)[degree], value)


def test_a_basis_for_mixed_precision_is_the_same_to_its_rounding():
    G = graph()
    layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2).double()
    node, edge = inputs(EQUAL, {}, G)
    half = get_basis(G.edata["rel_pos"], 2, use_pad_trick=True, amp=True)
    for degree, value in layer(node, edge, G).items():
        found = layer(node, edge, G, half)[degree]
        assert found.dtype == torch.float64
        assert (found - value).abs().max() < 2e-3 * value.abs().max()


@pytest.mark.parametrize("nonlinearity", [torch.nn.ELU(), None])
@pytest.mark.parametrize("mid_dim", [16, 32])
def test_other_radial_networks_are_called(nonlinearity, mid_dim):
    G = graph()
    layer = ConvSE3(
        Fiber(EQUAL), Fiber(EQUAL), max_degree=2, use_layer_norm=True, mid_dim=mid_dim, nonlinearity=nonlinearity
    ).double()
    node, edge = inputs(EQUAL, {}, G)
    basis = get_basis(G.edata["rel_pos"], 2)
    network, sent = layer.conv, {k: v[G.edges()[0]] for k, v in node.items()}
    fused = update_basis_with_fused(basis, 2, False, True)["fully_fused"]
    by_hand = network(torch.cat([*sent.values()], dim=-1), edge["0"].squeeze(-1), fused)
    found = layer(node, edge, G)
    summed = torch.zeros(G.num_nodes(), 3, 9, dtype=torch.float64).index_add(0, G.edges()[1], by_hand)
    torch.testing.assert_close(torch.cat([*found.values()], dim=-1), summed)


def test_graphs_of_every_kind(kind):
    own = graph()
    layer = ConvSE3(Fiber(UNEQUAL), Fiber(EQUAL), max_degree=2, self_interaction=True).double()
    node, edge = inputs(UNEQUAL, {}, own)
    G = as_kind(own, kind)
    wanted = layer(node, edge, own)
    for degree, value in layer(node, edge, G).items():
        torch.testing.assert_close(value, wanted[degree])


@pytest.mark.parametrize("wrong", FEATURES)
def test_features_that_do_not_fit_are_refused(wrong):
    change, error, argument = FEATURES[wrong]
    G = graph()
    layer = ConvSE3(Fiber(UNEQUAL), Fiber(EQUAL), Fiber({0: 2, 1: 1}), max_degree=2).double()
    node, edge = inputs(UNEQUAL, {0: 2, 1: 1}, G)
    change(node, edge)
    with pytest.raises(error, match=rf"^{re.escape(argument)} must "):
        layer(node, edge, G)


def test_a_graph_without_relative_positions_and_a_basis_that_does_not_fit_are_refused():
    G = graph()
    layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2).double()
    node, edge = inputs(EQUAL, {}, G)
    basis = get_basis(G.edata["rel_pos"], 2)
    with pytest.raises(TypeError, match="basis must be a dict from get_basis"):
        layer(node, edge, G, G.edata["rel_pos"])
    with pytest.raises(ValueError, match="basis must hold '1,2'"):
        layer(node, edge, G, {k: v for k, v in basis.items() if k != "1,2"})
    with pytest.raises(ValueError, match=r"basis\['1,2'\] must have shape"):
        layer(node, edge, G, {**basis, "1,2": basis["2,1"]})
    del G.edata["rel_pos"]
    with pytest.raises(KeyError, match="the graph must have edata"):
        layer(node, edge, G)


@pytest.mark.parametrize(
    ("level", "name"), [(FULL, "conv"), (PARTIAL, "conv_out"), (PARTIAL, "conv_out.1"), (NONE, "conv.0,1")]
)
def test_hooks_that_would_not_fire_are_refused(level, name):
    G = graph()
    layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2, fuse_level=level).double()
    node, edge = inputs(EQUAL, {}, G)
    layer.get_submodule(name).register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=f"{name} must have no hooks"):
        layer(node, edge, G)


def test_hooks_of_a_radial_network_fire_once_on_the_way():
    G = graph()
    layer = ConvSE3(Fiber(EQUAL), Fiber(EQUAL), max_degree=2).double()
    node, edge = inputs(EQUAL, {}, G)
    before, seen = layer(node, edge, G), []
    with nullcontext(layer.conv.radial_func.register_forward_hook(lambda *_: seen.append(1))):
        after = layer(node, edge, G)
    assert seen == [1]
    for degree, value in after.items():
        torch.testing.assert_close(value, before[degree])
