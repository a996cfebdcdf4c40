"""What holds of every ready-made model, with every option."""

import copy

import numpy as np
import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st

import experiments.qm9.models as qm9
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.models import TFN, SE3Transformer
from equivariant_attention.modules import (
    GAvgPooling,
    GConvSE3,
    GMaxPooling,
    GNormSE3,
    GSE3Res,
    get_basis,
    get_basis_and_r,
)
from equivariant_attention.neighbors import fully_connected_graph, knn_graph
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from equivariant_attention.testing import TOLERANCE, assert_equivariant
from tests.cases import BACKENDS_HERE, awkward_graph, random_features, random_graph
from tests.equivariant_attention.models.cases import EDGE_DIM, MODELS, on_graph, tensors, tfn, transformer, with_inputs

every_model = pytest.mark.parametrize("name", MODELS)
both = pytest.mark.parametrize("make", [transformer, tfn])


def assert_close(found, expected, tolerance=1e-12):
    for ours, theirs in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def equivariance_options(model):
    place = "nodes" if model.pooling is None else "graphs"
    return {"output_on": place, "output_degree": model.return_type or 0}


@every_model
def test_equivariance_and_batches(name, dtype):
    model = MODELS[name]().to(dtype)
    G, degrees, _ = with_inputs(model, random_graph(dtype, EDGE_DIM))
    options = equivariance_options(model)
    assert_equivariant(on_graph(model), G, node_degrees=degrees, tolerance=10 * TOLERANCE[dtype], **options)


@both
def test_every_kind_of_graph(make, kind):
    model = make(pooling="avg").double()
    torch.manual_seed(1)
    G, degrees, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM, kind=kind))
    assert_equivariant(on_graph(model), G, node_degrees=degrees, output_on="graphs")
    torch.manual_seed(1)
    own = random_graph(edge_dim=EDGE_DIM)
    assert_close(model(G, features), model(own, features))


@every_model
def test_shapes(name):
    model = MODELS[name]()
    G, _, features = with_inputs(model, random_graph(torch.float32, EDGE_DIM))
    output = model(G, features)
    rows = G.num_nodes() if model.pooling is None else G.batch_size
    shapes = {str(d): (rows, m, 2 * d + 1) for m, d in model.fiber_out.structure}
    if model.return_type is None:
        assert {d: tuple(v.shape) for d, v in output.items()} == shapes
    else:
        assert tuple(output.shape) == shapes[str(model.return_type)]
    assert all(value.dtype == torch.float32 for value in tensors(output))


def test_ten_lines():
    G = knn_graph(torch.randn(20, 3), k=4)
    model = SE3Transformer({0: 6}, {0: 16, 1: 16, 2: 16}, {0: 1}, pooling="avg", return_type=0)
    assert model(G, {"0": torch.randn(20, 6, 1)}).shape == (1, 1, 1)


def test_fibers_in_every_notation():
    as_published = [[(4, 0), (2, 1)], [(4, 0), (4, 1)], [(1, 0)]]
    as_dicts = [{0: 4, 1: 2}, {0: 4, 1: 4}, {0: 1}]
    as_fibers = [Fiber(structure=structure) for structure in as_published]
    models = [SE3Transformer(*fibers) for fibers in (as_published, as_dicts, as_fibers)]
    assert models[0].config == models[1].config == models[2].config
    assert models[0].config["fiber_in"] == {0: 4, 1: 2}


# ------------------------------------------------------------------------------------- the same as layers by hand


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_a_transformer_is_its_layers(pooling):
    scalars, hidden, out = Fiber(1, 3), Fiber(3, 4), Fiber(1, 5)
    layers = [GSE3Res(scalars, hidden, edge_dim=EDGE_DIM, div=2, n_heads=2, x_ij="cat"), GNormSE3(hidden)]
    layers += [GSE3Res(hidden, hidden, edge_dim=EDGE_DIM, div=2, n_heads=2, x_ij="cat"), GNormSE3(hidden)]
    layers += [GConvSE3(hidden, out, self_interaction=True, edge_dim=EDGE_DIM)]
    layers = torch.nn.ModuleList(layers).double()
    model = SE3Transformer(
        scalars, hidden, out, 2, edge_dim=EDGE_DIM, div=2, n_heads=2, x_ij="cat", pooling=pooling, return_type=0
    ).double()
    model.layers.load_state_dict(layers.state_dict())
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    basis, r = get_basis_and_r(G, 2)
    h = features
    for layer in layers:
        h = layer(h, G=G, r=r, basis=basis)
    if pooling is None:
        expected = h["0"]
    else:
        expected = {"avg": GAvgPooling(), "max": GMaxPooling()}[pooling](h, G=G).unsqueeze(-1)
    assert torch.equal(model(G, features), expected)


@pytest.mark.parametrize("name", ["SE3Transformer", "TFN"])
def test_published_parameters(name):
    """The published models for QM9 are the ready-made ones with a small network at the end."""
    options = {"edge_dim": EDGE_DIM, "pooling": "max", "return_type": 0}
    if name == "SE3Transformer":
        published = qm9.SE3Transformer(2, 6, 4, num_degrees=3, edge_dim=EDGE_DIM, div=2, pooling="max", n_heads=2)
        model = SE3Transformer({0: 6}, Fiber(3, 4), {0: 12}, 2, div=2, n_heads=2, **options)
        layers, head = published.Gblock[:-1], published.FCblock
    else:
        published = qm9.TFN(3, 6, 4, num_nlayers=1, num_degrees=3, edge_dim=EDGE_DIM)
        model = TFN({0: 6}, Fiber(3, 4), {0: 12}, 3, **options)
        layers, head = published.block0, published.block2
    model.layers.load_state_dict(layers.state_dict())
    G = random_graph(torch.float32, EDGE_DIM)
    G.ndata["f"] = torch.randn(G.num_nodes(), 6, 1)
    h = model(G, {"0": G.ndata["f"]}).squeeze(-1)
    for layer in head:
        h = layer(h)
    assert torch.equal(h, published(G))


def test_defaults_are_those_of_the_docstring():
    model = SE3Transformer({0: 2}, {0: 4, 1: 4}, {0: 1})
    assert [type(layer) for layer in model.layers] == [GSE3Res, GNormSE3] * 4 + [GConvSE3]
    assert [type(layer) for layer in TFN({0: 2}, {0: 4}, {0: 1}).layers] == [GConvSE3, GNormSE3] * 3 + [GConvSE3]
    assert not any(p.requires_grad for p in transformer(learnable_skip=False).layers[0].project.parameters())


# ----------------------------------------------------------------------------------- given bases, compiler, dtypes


@both
def test_a_given_basis(make):
    model = make().double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    expected = model(G, features)
    for basis_and_r in (
        get_basis_and_r(G, model.max_degree, plan=Plan(G)),
        BasisCache(model.max_degree, 2**24).get_basis_and_r(G, ["a", "b", "c"]),
    ):
        assert_close(model(G, features, basis_and_r), expected)


@both
def test_every_backend(make):
    model = make().double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    outputs = []
    for backend in BACKENDS_HERE:
        with use_backend(backend):
            outputs.append(model(G, features))
    for output in outputs[1:]:
        assert_close(output, outputs[0])


@pytest.mark.parametrize(("model", "num_layers"), [(SE3Transformer, 1), pytest.param(TFN, 2, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_one_graph_to_the_compiler(model, num_layers):
    torch._dynamo.reset()
    model = model({0: 2}, {0: 2, 1: 2}, {1: 1}, num_layers, edge_dim=EDGE_DIM, pooling="avg", return_type=1).double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    plan = Plan(G)

    def step(features):
        return model(G, features, get_basis_and_r(G, model.max_degree, plan=plan))

    results = []
    for function in (step, torch.compile(step, backend="eager", fullgraph=True)):
        output = function(features)
        results.append([output, *torch.autograd.grad(output.square().sum(), model.parameters())])
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)


@both
def test_autocast(make):
    model = make()
    G, _, features = with_inputs(model, random_graph(torch.float32, EDGE_DIM))
    expected = model(G, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(G, features)
        gradients = torch.autograd.grad(sum(v.float().sum() for v in output.values()), model.parameters())
    assert all(torch.isfinite(value).all() for value in (*output.values(), *gradients))
    for degree, value in output.items():  # not the largest: where a scalar changes its sign, GNormSE3 jumps
        assert (value - expected[degree]).abs().median() < 0.02 * expected[degree].abs().max()


@both
def test_half_precision_is_refused_and_told_how_to_be_had(make):
    """Whether the features were converted with the model or not, and positions with them."""
    model = make().half()
    G, _, features = with_inputs(model.float(), random_graph(torch.float32, EDGE_DIM))
    halved = {degree: value.half() for degree, value in features.items()}
    for inputs in (features, halved):
        with pytest.raises(TypeError, match=r"torch\.float16.* float32 \(model\.float\(\)\), .* torch\.autocast"):
            model.half()(G, inputs)
    G.edata["d"] = G.edata["d"].half()
    with pytest.raises(TypeError, match=r"edata\['d'\] must be float32 or float64, got torch\.float16; .*autocast"):
        model(G, halved)


@pytest.mark.parametrize(("model", "num_layers"), [(SE3Transformer, 1), (TFN, 2)])
def test_derivatives(model, num_layers):
    """Forces and their derivatives: of the output with respect to relative positions, edge and node features."""
    model = model({0: 2, 1: 1}, {0: 2, 1: 2}, {0: 1, 1: 1}, num_layers, edge_dim=EDGE_DIM, pooling="avg").double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM, sizes=(3, 3)))
    del G.ndata["x"]
    leaves = [*features.values(), G.edata["d"], G.edata["w"]]

    def function(*leaves):
        *values, d, w = leaves
        G.edata["d"], G.edata["w"] = d, w
        return tuple(tensors(model(G, dict(zip(features, values, strict=True)))))

    leaves = [leaf.requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@every_model
def test_every_trained_parameter_has_a_gradient(name):
    model = MODELS[name]()
    G, _, features = with_inputs(model, random_graph(torch.float32, EDGE_DIM))
    sum(value.square().sum() for value in tensors(model(G, features))).backward()
    last = f"layers.{len(model.layers) - 1}."  # makes all degrees of fiber_out, of which return_type is one
    for parameter_name, parameter in model.named_parameters():
        if parameter.requires_grad and (model.return_type is None or not parameter_name.startswith(last)):
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


# ------------------------------------------------------------------------------------------------------ odd graphs


@every_model
def test_awkward_edges_give_finite_values_and_gradients(name, dtype):
    model = MODELS[name]().to(dtype)
    G, _, features = with_inputs(model, awkward_graph(dtype, EDGE_DIM))
    del G.ndata["x"]
    G.edata["d"] = G.edata["d"].requires_grad_()
    output = tensors(model(G, features))
    leaves = [G.edata["d"], *(p for p in model.parameters() if p.requires_grad)]
    gradients = torch.autograd.grad(sum(v.sum() for v in output), leaves, materialize_grads=True)
    assert all(torch.isfinite(value).all() for value in (*output, *gradients))


@every_model
@pytest.mark.parametrize("nodes", [3, 1, 0])
def test_without_edges_all_is_zero(name, nodes):
    model = MODELS[name]()
    G = Graph([], [], num_nodes=nodes)
    G.edata["d"], G.edata["w"] = torch.zeros(0, 3), torch.zeros(0, EDGE_DIM)
    for value in tensors(model(G, random_features(model.fiber_in, nodes, torch.float32))):
        assert len(value) == (nodes if model.pooling is None else 1)
        assert torch.equal(value, torch.zeros_like(value))


@both
def test_inputs_are_not_changed(make):
    model = make().double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    before = copy.deepcopy((features, dict(G.ndata), dict(G.edata)))
    model(G, features)
    for old, new in zip(before, (features, G.ndata, G.edata), strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


# ---------------------------------------------------------------------------------------------------- wrong inputs


def test_pooling_of_sums_and_means():
    torch.manual_seed(0)
    made = {name: transformer(pooling=name).double() for name in ("sum", "mean", "avg")}
    for model in made.values():
        model.load_state_dict(made["sum"].state_dict())
    G, _, features = with_inputs(made["sum"], random_graph(edge_dim=EDGE_DIM))
    total, mean, same = (model(G, features) for model in made.values())
    assert_close(mean, same)
    assert_close({d: v * G.batch_num_nodes()[:, None, None] for d, v in mean.items()}, total)


def test_attention_weights_are_returned():
    model = transformer(x_ij="cat").double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    output, attention = model(G, features, return_attention=True)
    assert_close(output, model(G, features))
    assert [tuple(weights.shape) for weights in attention] == [(G.num_edges(), 2)] * 2
    _, dst = G.edges()
    sums = torch.zeros(G.num_nodes(), 2, dtype=torch.float64).index_add(0, dst.long(), attention[0])
    torch.testing.assert_close(sums[dst.long()], torch.ones_like(attention[0]))


@pytest.mark.parametrize("radial_basis", ["bessel", "gaussian"])
def test_a_radial_basis_takes_a_basis_that_is_at_hand(radial_basis):
    model = transformer(radial_basis=radial_basis, cutoff=3.0).double()
    G, _, features = with_inputs(model, random_graph(edge_dim=EDGE_DIM))
    assert_close(model(G, features, get_basis_and_r(G, model.max_degree)), model(G, features))


def test_options_that_contradict_each_other():
    with pytest.raises(ValueError, match="learnable_skip has no effect with selfint='att'"):
        transformer(selfint="att", learnable_skip=False)
    with pytest.raises(ValueError, match="3 heads do not divide 2 channels"):
        transformer(n_heads=3)


@both
def test_wrong_features(make):
    model = make()
    G, _, features = with_inputs(model, random_graph(torch.float32, EDGE_DIM))
    with pytest.raises(TypeError, match="features must be a dict"):
        model(G, None)
    with pytest.raises(ValueError, match=r"features must have the degrees \['0', '1'\]"):
        model(G, {"0": features["0"]})
    with pytest.raises(ValueError, match=r"features\['0'\] must have shape \[15, 4, 1\]"):
        model(G, {**features, "0": features["0"][:3]})
    with pytest.raises(TypeError, match=r"must be torch\.float32, as the layer is"):
        model(G, {degree: value.double() for degree, value in features.items()})
    del G.edata["w"]
    with pytest.raises(ValueError, match="the graph has no edata"):
        model(G, features)


# -------------------------------------------------------------------------------------- any fibers, graphs, options


def fibers(channels):
    return st.dictionaries(st.integers(0, 3), channels, min_size=1, max_size=3)


@st.composite
def any_model(draw):
    fiber_in, fiber_out = draw(fibers(st.integers(1, 3))), draw(fibers(st.integers(1, 2)))
    # Keys and queries need a degree that the input has.
    hidden = {**draw(fibers(st.sampled_from([2, 4]))), draw(st.sampled_from(sorted(fiber_in))): 4}
    return_type = draw(st.sampled_from([None, *fiber_out]))
    returned = [*fiber_out] if return_type is None else [return_type]
    pooling = draw(st.sampled_from([None, "avg", "max"] if returned == [0] else [None, "avg"]))
    options = {"pooling": pooling, "return_type": return_type, "edge_dim": draw(st.integers(0, 2))}
    if draw(st.booleans()):
        return TFN(fiber_in, hidden, fiber_out, 2, flavor=draw(st.sampled_from(["skip", "TFN"])), **options)
    for name, values in (
        ("n_heads", [1, 2]),
        ("x_ij", [None, "cat", "add"]),
        ("selfint", ["1x1", "att"]),
        ("nonlinearity", ["norm", "gate"]),
    ):
        options[name] = draw(st.sampled_from(values))
    return SE3Transformer(fiber_in, hidden, fiber_out, 1, div=1, **options)


@given(any_model(), st.lists(st.integers(2, 4), min_size=2, max_size=3), st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_any_fibers_graphs_and_options(model, sizes, seed):
    torch.manual_seed(seed)
    model = model.double()
    G, degrees, features = with_inputs(model, random_graph(edge_dim=model.edge_dim, sizes=sizes))
    assert_equivariant(on_graph(model), G, node_degrees=degrees, tolerance=1e-10, **equivariance_options(model))
    again = type(model)(**model.config).double()
    again.load_state_dict(model.state_dict())
    assert all(map(torch.equal, tensors(again(G, features)), tensors(model(G, features))))


def test_features_of_edges_are_those_of_the_model_beside_a_radial_basis():
    options = {"edge_dim": 3, "radial_basis": "bessel", "cutoff": np.float64(3.0)}
    G, h = fully_connected_graph(torch.randn(3, 3)), {0: torch.randn(3, 2, 1)}
    model = SE3Transformer({0: 2}, {0: 4, 1: 4}, {0: 1}, 1, **options)
    assert type(model.cutoff) is float
    with pytest.raises(ValueError, match=r"edata\['w'\] must have shape \[6, 3\], as edge_dim says, got none"):
        model(G, h)
    for shape in ((6,), (6, 2)):
        G.edata["w"] = torch.zeros(shape)
        with pytest.raises(ValueError, match=rf"as edge_dim says, got \[{', '.join(map(str, shape))}\]"):
            model(G, h)
    G.edata["w"] = torch.zeros(6, 3)
    with pytest.raises(TypeError, match="basis_and_r must be what get_basis_and_r returns, got a Basis"):
        model(G, h, get_basis(G, 1))
