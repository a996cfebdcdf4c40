import pytest
import torch

from equivariant_attention.basis import get_basis_and_r
from equivariant_attention.graphs import with_edge_fields
from equivariant_attention.modules import GConvSE3, GConvSE3Partial, GNormSE3, GSE3Res
from equivariant_attention.nvidia import (
    AttentionBlockSE3,
    ConvSE3,
    ConvSE3FuseLevel,
    Fiber,
    GPooling,
    LinearSE3,
    NormSE3,
    converted,
    get_basis,
    get_populated_edge_features,
    to_published,
)
from tests.equivariant_attention.nvidia.cases import features, graph, model, with_other_norms

NONE = ConvSE3FuseLevel.NONE
# (J, k, l) of which e3nn 0.3 has the opposite sign.
OPPOSITE = [(2, 1, 2), (3, 1, 3), (2, 2, 1), (1, 2, 2), (3, 3, 1), (1, 3, 3)]
FIBER = {0: 3, 1: 3, 2: 3, 3: 3}


def old_basis(rel_pos):
    """What the package makes of e3nn 0.3."""
    basis = get_basis(rel_pos, 3)
    for J, k, l in OPPOSITE:
        basis[f"{k},{l}"][:, :, J - abs(k - l)] *= -1
    return basis


@pytest.mark.parametrize("level", ConvSE3FuseLevel)
@pytest.mark.parametrize("fiber_in", [FIBER, {**FIBER, 0: 2}])
@pytest.mark.parametrize("use_layer_norm", [True, False])
def test_weights_of_an_older_e3nn(level, fiber_in, use_layer_norm):
    G = graph()
    layer = ConvSE3(
        Fiber(fiber_in), Fiber(FIBER), max_degree=3, fuse_level=level, use_layer_norm=use_layer_norm
    ).double()
    node, edge = features(fiber_in, G.num_nodes()), get_populated_edge_features(G.edata["rel_pos"])
    old = old_basis(G.edata["rel_pos"])
    if level is NONE:
        del old["0,0"]
    expected, weights = layer(node, edge, G, old), layer.state_dict()
    before = {name: value.clone() for name, value in weights.items()}
    new = converted(weights, layer)
    layer.load_state_dict(new)
    for degree, value in layer(node, edge, G).items():
        torch.testing.assert_close(value, expected[degree])
    again = converted(new, layer)
    assert list(again) == list(before)
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_degrees_0_and_1_are_left_alone_and_layouts_are_those_of_the_weights():
    small = model()
    weights = small.state_dict()
    assert all(value is weights[name] for name, value in converted(weights, small).items())
    fibers = {"fiber_hidden": {0: 4, 1: 4, 2: 4}, "fiber_out": {0: 4, 1: 4, 2: 4}}
    trained, other = model(fibers=fibers, low_memory=True), model(fibers=fibers)
    changed = converted(trained.state_dict(), other)
    assert {n.split(".")[3] for n, v in changed.items() if v is not trained.state_dict()[n] and "net.6" in n} >= {"1,2"}
    other.load_state_dict(changed, strict=True)


def test_signs_of_ones_own():
    layer = ConvSE3(Fiber({1: 2}), Fiber({1: 2}), max_degree=1, fuse_level=NONE)
    name = "conv.1,1.radial_func.net.4.weight"
    found = converted(layer.state_dict(), layer, {(1, 1, 1): -1})[name]
    factors = torch.tensor([1.0, -1.0, 1.0]).repeat(4)[:, None]
    assert torch.equal(found, layer.state_dict()[name] * factors)


def published(G, node, edge):
    """What published layers are called with."""
    fields = {"d": G.edata["rel_pos"]} | {f"f{k}": value for k, value in edge.items()}
    if "0" in edge:
        fields["w"] = fields.pop("f0").squeeze(-1)
    own = with_edge_fields(G, fields)
    basis, r = get_basis_and_r(own, 2)

    def call(*layers):
        features = node
        for layer in layers:
            features = layer(features, G=own, r=r, basis=basis)
        return features

    return call


@pytest.mark.parametrize("level", ConvSE3FuseLevel)
@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("self_interaction", [True, False])
@pytest.mark.parametrize(
    ("fiber_in", "fiber_out"),
    [({0: 4, 1: 4, 2: 4}, {0: 4, 1: 4, 2: 4}), ({0: 4, 1: 3}, {0: 4, 1: 4, 2: 4}), ({0: 4, 1: 3}, {1: 2, 2: 3})],
)
def test_convolutions(fiber_in, fiber_out, self_interaction, mean, level):
    G = graph()
    layer = ConvSE3(
        Fiber(fiber_in), Fiber(fiber_out), Fiber({0: 2}), use_layer_norm=True, self_interaction=self_interaction,
        max_degree=2, fuse_level=level, sum_over_edge=not mean,
    ).double()  # fmt: skip
    with_other_norms(layer)
    node, edge = features(fiber_in, G.num_nodes()), features({0: 2}, G.num_edges())
    made, populated = to_published(layer), get_populated_edge_features(G.edata["rel_pos"], edge)
    assert isinstance(made, GConvSE3)
    for degree, value in layer(node, populated, G).items():
        torch.testing.assert_close(published(G, node, edge)(made)[degree], value)
    layer.pool, layer.self_interaction = False, False
    layer.to_kernel_self.clear()
    messages = to_published(layer)
    assert isinstance(messages, GConvSE3Partial)
    for degree, value in layer(node, populated, G).items():
        torch.testing.assert_close(published(G, node, edge)(messages)[degree], value)


@pytest.mark.parametrize("level", ConvSE3FuseLevel)
@pytest.mark.parametrize(
    ("fiber_in", "fiber_out", "div", "heads"),
    [
        ({0: 4}, {0: 8, 1: 8, 2: 8}, 2, 2),
        ({0: 4, 1: 3}, {0: 8, 1: 4}, 2, 2),
        ({0: 4, 1: 4, 2: 4}, {0: 8, 1: 8, 2: 8}, 4, 2),
        ({0: 4, 1: 3}, {0: 8, 1: 4}, {0: 4, 1: 1}, 2),
        ({0: 4, 1: 3}, {0: 9, 1: 2, 2: 1}, {0: 4, 1: 1, 2: 1}, 1),
    ],
)
def test_attention(fiber_in, fiber_out, div, heads, level):
    G, fiber_edge = graph(), {0: 2, 1: 1}
    block = AttentionBlockSE3(
        *map(Fiber, (fiber_in, fiber_out, fiber_edge)), heads, div, use_layer_norm=True, max_degree=2, fuse_level=level
    ).double()
    with_other_norms(block)
    node, edge = features(fiber_in, G.num_nodes()), features(fiber_edge, G.num_edges())
    if 1 not in fiber_in:
        del edge["1"]
    made = to_published(block)
    assert isinstance(made, GSE3Res)
    for degree, value in block(node, get_populated_edge_features(G.edata["rel_pos"], edge), G).items():
        torch.testing.assert_close(published(G, node, edge)(made)[degree], value)


def test_what_is_made_of_a_shared_network_is_a_copy_for_each_pair():
    fiber = Fiber({0: 4, 1: 4})
    made = to_published(ConvSE3(fiber, fiber, use_layer_norm=True, max_degree=1))
    assert sorted(made.kernel_unary) == ["(0,0)", "(0,1)", "(1,0)", "(1,1)"]
    hidden = [kernel.rp.net[0].weight for kernel in made.kernel_unary.values()]
    assert all(torch.equal(weight, hidden[0]) for weight in hidden)
    assert len({weight.data_ptr() for weight in hidden}) == 4


@pytest.mark.parametrize("fiber", [{0: 4, 1: 4}, {0: 4, 1: 3}])
def test_norms_and_linear_layers(fiber):
    h = features(fiber, 5)
    for layer in (with_other_norms(NormSE3(Fiber(fiber))).double(), LinearSE3(Fiber(fiber), Fiber({1: 2})).double()):
        for degree, value in layer(h).items():
            torch.testing.assert_close(to_published(layer)(h)[degree], value)
    assert isinstance(to_published(NormSE3(Fiber(fiber))), GNormSE3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tensor_cores": True, "final_layer": "att"},
        {"low_memory": True, "final_layer": "lin"},
        {"sum_over_edge": False},
        {"final_layer": "lin", "return_type": 0, "pooling": "max"},
        {"sum_over_edge": False, "return_type": 1, "pooling": "avg", "norm": False},
        {"final_layer": "lin", "nonlinearity": torch.nn.ELU(), "mid_dim": 16},
    ],
)
def test_whole_transformers(options):
    G, fiber_edge = graph(), {0: 3, 1: 2}
    made = model(fibers={"fiber_edge": fiber_edge}, **options)
    node, edge = features({0: 4, 1: 3}, G.num_nodes()), features(fiber_edge, G.num_edges())
    state = torch.get_rng_state()
    layers = to_published(made)
    assert torch.equal(torch.get_rng_state(), state)
    found, expected = published(G, node, edge)(*layers), made(G, node, edge)
    if "return_type" in options:
        value = found if isinstance(found, torch.Tensor) else found[str(options["return_type"])]
        torch.testing.assert_close(value, expected)
    else:
        torch.testing.assert_close(found, expected)


def test_pooling():
    h, G = features({0: 3}, 15), graph()
    assert torch.equal(to_published(GPooling(0, "max"))(h, G=G), GPooling(0, "max")(h, G))


def layer(**options):
    return ConvSE3(Fiber({0: 4, 1: 4}), Fiber({0: 4, 1: 4}), **{"use_layer_norm": True, "max_degree": 1, **options})


def changed():
    other = layer()
    other.conv.radial_func.net[2] = torch.nn.Tanh()
    return other


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: layer(use_layer_norm=False), ValueError, "have LayerNorms"),
        (lambda: layer(pool=False, self_interaction=True), ValueError, "needs pool=True"),
        (lambda: model(populate_edge="log"), ValueError, "not populate_edge='log'"),
        (lambda: changed(), ValueError, r"conv\.net\.2 must be as it was made"),
        (lambda: torch.nn.Linear(2, 2), TypeError, "model must be a layer or model"),
    ],
)
def test_what_has_no_published_layer_is_refused_with_a_reason(make, error, message):
    with pytest.raises(error, match=message):
        to_published(make())
