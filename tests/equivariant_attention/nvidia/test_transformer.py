import copy
import pickle
import re

import pytest
import torch
import torch._dynamo
from hypothesis import given, settings
from hypothesis import strategies as st

from equivariant_attention.basis import get_basis_and_r
from equivariant_attention.contraction import use_backend
from equivariant_attention.graphs import Graph, as_graph, with_edge_fields
from equivariant_attention.nvidia import (
    AttentionBlockSE3,
    ConvSE3,
    Fiber,
    LinearSE3,
    NormSE3,
    SE3Transformer,
    SE3TransformerPooled,
    get_basis,
    update_basis_with_fused,
)
from equivariant_attention.testing import equivariance_error
from tests.cases import BACKENDS_HERE, as_kind
from tests.equivariant_attention.nvidia import oracle
from tests.equivariant_attention.nvidia.cases import VECTORS, features, graph, model, with_other_norms
from tests.wrong.nvidia import INPUTS

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
POOLED = {"num_degrees": 3, "num_channels": 8, "output_dim": 2, "num_layers": 1, "num_heads": 2, "channels_div": 2}


def inputs(G, dtype=torch.float64, fibers=VECTORS):
    graph = as_graph(G)
    rows = {"fiber_in": graph.num_nodes(), "fiber_edge": graph.num_edges()}
    return [features(fibers[name], count, dtype) for name, count in rows.items()]


def expected(made, node, edge, G, **options):
    by_number = [{int(d): v for d, v in part.items()} for part in (node, edge)]
    fibers = dict(made.fiber_hidden.items()), dict(made.fiber_out.items())
    sizes = made.num_layers, made.num_heads, made.channels_div
    options.pop("num_layers", None)
    weights = dict(made.named_parameters())
    return oracle.transformer(weights, *fibers, *sizes, *by_number, *G.edges(), G.edata["rel_pos"], **options)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(BACKENDS_HERE),
    st.fixed_dictionaries(
        {
            "fiber_in": st.sampled_from([{0: 3}, {0: 2, 1: 3}, {1: 2}]),
            "fiber_hidden": st.sampled_from([{0: 4, 1: 4}, {0: 8, 1: 4}, {0: 4, 1: 4, 2: 4}]),
            "fiber_out": st.sampled_from([{0: 4}, {0: 4, 1: 2}, {0: 4, 1: 4}]),
            "fiber_edge": st.sampled_from([{}, {0: 2}, {0: 1, 1: 2}]),
        }
    ),
    st.fixed_dictionaries(
        {
            "num_layers": st.integers(1, 2),
            "norm": st.booleans(),
            "final_layer": st.sampled_from(["conv", "lin", "att"]),
            "populate_edge": st.sampled_from(sorted(oracle.LENGTHS)),
            "sum_over_edge": st.booleans(),
        }
    ),
    st.sampled_from([{}, {"tensor_cores": True}, {"low_memory": True}]),
    st.booleans(),
)
def test_any_transformer_is_that_of_the_oracle(backend, fibers, options, level, use_layer_norm):
    G = graph(sizes=(5, 4))
    made = model(fibers=fibers, use_layer_norm=use_layer_norm, **options, **level)
    node, edge = inputs(G, fibers=fibers)
    with use_backend(backend):
        found = made(G, node, edge)
    for degree, value in expected(made, node, edge, G, **options).items():
        torch.testing.assert_close(found[str(degree)], value)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("level", [{}, {"tensor_cores": True}, {"low_memory": True}])
def test_every_backend_gives_the_gradients_of_the_oracle(level, backend):
    G = graph(sizes=(5, 4))
    made = model(num_layers=1, **level)
    node, edge = inputs(G)
    leaves = [*(v.requires_grad_() for part in (node, edge) for v in part.values()), *made.parameters()]
    wanted = expected(made, node, edge, G)
    gradients = torch.autograd.grad(sum(v.square().sum() for v in wanted.values()), leaves)
    with use_backend(backend):
        found = torch.autograd.grad(sum(v.square().sum() for v in made(G, node, edge).values()), leaves)
    torch.testing.assert_close(found, gradients)


@pytest.mark.parametrize("final_layer", ["conv", "lin", "att"])
@pytest.mark.parametrize("hidden", [{0: 8, 1: 8, 2: 8}, {0: 8, 1: 4}])
def test_equivariance(dtype, hidden, final_layer):
    G = graph(dtype)
    fibers = {"fiber_hidden": hidden, "fiber_edge": {0: 2, 1: 1}}
    made = model(dtype, fibers, final_layer=final_layer)
    node, edge = inputs(G, dtype, {**VECTORS, **fibers})
    G.ndata.update({f"h{d}": v for d, v in node.items()})
    G.edata.update({f"e{d}": v for d, v in edge.items()})

    def of(G):
        return made(G, {"0": G.ndata["h0"], "1": G.ndata["h1"]}, {"0": G.edata["e0"], "1": G.edata["e1"]})

    degrees = {"node_degrees": {"h1": 1}, "edge_degrees": {"rel_pos": 1, "e1": 1}}
    errors = equivariance_error(of, G, **degrees, reflections=True)
    assert errors.pop("reflection") > 1e-3
    assert max(errors.values()) < TOLERANCE[dtype]


@pytest.mark.parametrize("return_type", [None, 0, 1])
def test_return_type(return_type):
    G = graph()
    made = model(return_type=return_type)
    found = made(G, *inputs(G))
    if return_type is None:
        assert set(found) == {"0", "1"}
    else:
        assert found.shape == (G.num_nodes(), VECTORS["fiber_out"][return_type], 2 * return_type + 1)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling(pooling):
    G = graph()
    made = model(return_type=0, pooling=pooling)
    node, edge = inputs(G)
    pooled = made(G, node, edge)
    of_nodes = made.graph_modules(node, *_populated(made, G, edge))["0"].squeeze(-1).split((5, 4, 6))
    wanted = torch.stack([part.mean(0) if pooling == "avg" else part.amax(0) for part in of_nodes])
    torch.testing.assert_close(pooled, wanted)


def _populated(made, G, edge):
    length = G.edata["rel_pos"].norm(dim=-1)[:, None, None]
    return {**edge, "0": torch.cat([edge["0"], length], dim=1)}, G


def test_degrees_may_be_ints():
    G, made = graph(), model()
    node, edge = inputs(G)
    by_number = [{int(d): v for d, v in part.items()} for part in (node, edge)]
    torch.testing.assert_close(made(G, *by_number), made(G, node, edge), rtol=0, atol=0)
    with pytest.raises(ValueError, match="node_feats must have every degree once"):
        made(G, {**node, 0: node["0"]}, edge)


def test_modules_and_attributes_that_programs_reach_into():
    made = model(num_layers=2)
    kinds = [AttentionBlockSE3, NormSE3, AttentionBlockSE3, NormSE3, ConvSE3]
    assert [type(module) for module in made.graph_modules] == kinds
    assert made.graph_modules[-1].to_kernel_self["0"].shape == (4, 8)
    assert made.graph_modules[-1].to_kernel_self["1"].shape == (2, 8)
    assert made.max_degree == 1
    names = [name for name, _ in made.named_parameters()]
    assert [any(part in name for name in names) for part in ("bias", "radial_func", "net.6")] == [True] * 3
    assert [type(module) for module in model(norm=False).graph_modules] == [
        AttentionBlockSE3,
        AttentionBlockSE3,
        ConvSE3,
    ]
    last = model(final_layer="lin").graph_modules[-1]
    assert isinstance(last, LinearSE3)
    assert last.weights["1"].shape == (2, 8)
    attention = model(final_layer="att").graph_modules[-1].attention
    assert (attention.num_heads, attention.value_fiber) == (1, {0: 2, 1: 2})


def test_self_interaction_that_is_set_to_zero():
    G = graph()
    made = model()
    node, edge = inputs(G)
    before = made(G, node, edge)
    with torch.no_grad():
        made.graph_modules[-1].to_kernel_self["0"].zero_()
    after = made(G, node, edge)
    assert not torch.equal(after["0"], before["0"])
    assert torch.equal(after["1"], before["1"])


@pytest.mark.parametrize("level", [{}, {"tensor_cores": True}, {"low_memory": True}])
@pytest.mark.parametrize("use_layer_norm", [True, False])
def test_a_checkpoint_of_any_level_loads_strictly_into_any_model(level, use_layer_norm):
    G, fibers = graph(), {"fiber_in": {0: 4}, "fiber_out": {0: 4, 1: 4}}
    trained = model(fibers=fibers, use_layer_norm=use_layer_norm, **level)
    node, edge = inputs(G, fibers={**VECTORS, **fibers})
    for other in ({}, {"tensor_cores": True}, {"low_memory": True}):
        made = model(fibers=fibers, use_layer_norm=use_layer_norm, **other)
        made.load_state_dict(trained.state_dict(), strict=True)
        assert all(p.dtype == torch.float64 for p in made.parameters())
        for degree, value in trained(G, node, edge).items():
            assert torch.equal(made(G, node, edge)[degree], value)


def test_the_levels_of_a_new_model():
    equal = {"fiber_out": {0: 8, 1: 8}}
    levels = [
        model(fibers=equal, **o).graph_modules[-1].layout.name
        for o in ({}, {"tensor_cores": True}, {"low_memory": True})
    ]
    assert levels == ["DEGREE_OUT", "ALL", "PAIR"]
    assert model(tensor_cores=True, low_memory=True).graph_modules[-1].layout.name == "PAIR"


@pytest.mark.parametrize("fused", [True, False])
def test_a_basis_that_is_given_is_used_and_nothing_is_changed(fused):
    G = graph()
    made = model(low_memory=True)
    node, edge = inputs(G)
    basis = get_basis(G.edata["rel_pos"], 1)
    if fused:
        basis = update_basis_with_fused(basis, 1, use_pad_trick=False, fully_fused=True)
    given = {"node": node, "edge": edge, "basis": basis, "edata": dict(G.edata), "ndata": dict(G.ndata)}
    before = copy.deepcopy(given)
    without, with_it = made(G, node, edge), made(G, node, edge, basis=basis)
    for degree, value in without.items():
        torch.testing.assert_close(with_it[degree], value)
    given["edata"], given["ndata"] = dict(G.edata), dict(G.ndata)
    assert {k: list(v) for k, v in given.items()} == {k: list(v) for k, v in before.items()}
    assert all(torch.equal(value, before[k][name]) for k, part in given.items() for name, value in part.items())
    doubled = {pair: 2 * value for pair, value in basis.items()}
    assert not torch.allclose(made(G, node, edge, basis=doubled)["1"], without["1"])


def test_an_empty_basis_is_none():
    G = graph()
    made, (node, edge) = model(), inputs(G)
    assert torch.equal(made(G, node, edge, basis={})["1"], made(G, node, edge)["1"])


def test_graphs_without_edges_or_nodes():
    made = model(return_type=0, pooling="max")
    for nodes, sizes in ((3, [2, 0, 1]), (0, [0])):
        G = Graph([], [], num_nodes=nodes)
        G.set_batch_num_nodes(sizes)
        G.set_batch_num_edges([0] * len(sizes))
        G.edata["rel_pos"] = torch.zeros(0, 3, dtype=torch.float64)
        found = made(G, *inputs(G))
        assert found.shape == (len(sizes), 4)
        assert not found.any()
        found.sum().backward()


def test_a_basis_of_the_library_may_be_given():
    G = graph()
    made = model()
    node, edge = inputs(G)
    basis_and_r = get_basis_and_r(with_edge_fields(G, {"d": G.edata["rel_pos"]}), 1)
    for degree, value in made(G, node, edge, basis=basis_and_r).items():
        torch.testing.assert_close(value, made(G, node, edge)[degree])


# PyTorch says this of every input that is not a leaf; only where warnings are errors is it heard.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_it_compiles_as_one_graph_where_the_basis_is_given():
    torch._dynamo.reset()
    G = graph()
    made, (node, edge) = model(num_layers=1), inputs(G)
    basis_and_r = get_basis_and_r(with_edge_fields(G, {"d": G.edata["rel_pos"]}), 1)
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    for degree, value in compiled(G, node, edge, basis=basis_and_r).items():
        torch.testing.assert_close(value, made(G, node, edge)[degree])


@pytest.mark.parametrize("compute_gradients", [True, False])
def test_gradients_to_positions(compute_gradients):
    G = graph(sizes=(4, 3))
    made = model(num_layers=1, compute_gradients=compute_gradients)
    node, edge = inputs(G)
    rel_pos = G.edata["rel_pos"].requires_grad_()
    (found,) = torch.autograd.grad(made(G, node, edge)["1"].square().sum(), rel_pos)
    if compute_gradients:
        wanted = expected(made, node, edge, G)
        torch.testing.assert_close(found, torch.autograd.grad(wanted[1].square().sum(), rel_pos)[0])
    else:
        along = (found * rel_pos).sum(-1, keepdim=True) * rel_pos / rel_pos.square().sum(-1, keepdim=True)
        torch.testing.assert_close(found, along)
        assert found.any()


@pytest.mark.parametrize("level", [{}, {"tensor_cores": True}, {"low_memory": True}])
def test_second_derivatives(level):
    G = graph(sizes=(4, 3))
    made = model(fibers={"fiber_out": {0: 4, 1: 4}}, num_layers=1, compute_gradients=True, **level)
    node, edge = inputs(G)
    rel_pos, found = G.edata["rel_pos"].requires_grad_(), []
    for of in (made(G, node, edge)["0"], expected(made, node, edge, G)[0]):
        (force,) = torch.autograd.grad(of.square().sum(), rel_pos, create_graph=True)
        found.append(torch.autograd.grad(force.square().sum(), [rel_pos, *made.parameters()], allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert (a is None) == (b is None) or not (b if a is None else a).any()
        if a is not None and b is not None:
            torch.testing.assert_close(a, b)


def test_graphs_of_every_kind(kind):
    own = graph()
    made, (node, edge) = model(), inputs(own)
    G = as_kind(own, kind)
    fields = sorted(as_graph(G).edata), sorted(as_graph(G).ndata)
    found = made(G, node, edge)
    assert (sorted(as_graph(G).edata), sorted(as_graph(G).ndata)) == fields
    for degree, value in made(own, node, edge).items():
        torch.testing.assert_close(found[degree], value)


def test_edges_of_length_zero_carry_what_needs_no_direction():
    G = graph()
    G.edata["rel_pos"][:3] = 0
    rel_pos = G.edata["rel_pos"].requires_grad_()
    made = model(compute_gradients=True)
    found = made(G, *inputs(G))
    (gradient,) = torch.autograd.grad(sum(v.sum() for v in found.values()), rel_pos)
    assert gradient.isfinite().all()
    assert all(v.isfinite().all() for v in found.values())


@pytest.mark.parametrize("populate_edge", [True, False])
def test_whether_lengths_are_appended_may_be_a_bool(populate_edge):
    G = graph()
    made, reference = model(populate_edge=populate_edge), model()
    reference.load_state_dict(made.state_dict())
    node, edge = inputs(G)
    populated = edge if populate_edge else _populated(made, G, edge)[0]
    for degree, value in reference(G, node, edge).items():
        torch.testing.assert_close(made(G, node, populated)[degree], value)


def test_autocast_and_bfloat16_leave_vectors_alone():
    G = graph(torch.float32)
    made = model(torch.float32)
    node, edge = inputs(G, torch.float32)
    expected = made(G, node, edge)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(G, node, edge)
    for degree, value in expected.items():
        assert (found[degree] - value).abs().max() < 0.05 * value.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_whole_models_in_half_precision_are_refused(dtype):
    G = graph(torch.float32)
    with pytest.raises(TypeError, match=r"must be of float32 or float64, got .*: for less use torch\.autocast"):
        model(dtype)(G, *inputs(G, dtype))


def test_a_model_made_without_memory_is_filled_by_a_checkpoint_of_another_level():
    G = graph(torch.float32)
    trained = model(torch.float32, low_memory=True)
    with torch.device("meta"):
        empty = SE3Transformer(**{k: Fiber(v) for k, v in VECTORS.items()}, num_layers=2, num_heads=2, channels_div=2)
    empty.load_state_dict(trained.state_dict(), assign=True)
    node, edge = inputs(G, torch.float32)
    for degree, value in trained(G, node, edge).items():
        assert torch.equal(empty(G, node, edge)[degree], value)


def test_copies_and_pickles_are_the_same_model():
    G = graph()
    made, (node, edge) = model(), inputs(G)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert torch.equal(other(G, node, edge)["0"], made(G, node, edge)["0"])


def test_a_step_of_training_lowers_the_loss():
    G = graph()
    made, (node, edge) = model(), inputs(G)
    optimizer, losses = torch.optim.Adam(made.parameters(), 1e-2), []
    for _ in range(5):
        loss = made(G, node, edge)["1"].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_channels_that_cannot_be_divided_are_refused():
    with pytest.raises(ValueError, match="leaves none of 8"):
        model(channels_div=16)


def test_unknown_arguments_are_refused_by_name():
    with pytest.raises(TypeError, match="num_bases"):
        model(num_bases=3)
    with pytest.raises(TypeError, match="num_bases"):
        SE3TransformerPooled(Fiber({0: 4}), Fiber({0: 8}), Fiber({}), **POOLED, num_bases=3)


@pytest.mark.parametrize("wrong", INPUTS)
def test_inputs_that_do_not_fit_are_refused(wrong):
    change, error, argument = INPUTS[wrong]
    G = graph()
    made, (node, edge) = model(), inputs(G)
    change(G, node, edge)
    with pytest.raises(error, match=rf'^"?{re.escape(argument)} must '):
        made(G, node, edge)


def test_edge_features_are_refused_where_there_is_no_fiber_of_them():
    G = graph()
    made = model(fibers={"fiber_edge": {}})
    node, edge = inputs(G)
    with pytest.raises(ValueError, match="edge_feats must be None or empty"):
        made(G, node, edge)
    assert set(made(G, node)) == set(made(G, node, {})) == {"0", "1"}


@pytest.mark.parametrize(("pooling", "output_dim"), [(None, 2), ("avg", 1)])
def test_the_model_of_qm9(dtype, pooling, output_dim):
    G = graph(dtype)
    fibers = Fiber({0: 4}), Fiber({0: 8}), Fiber({0: 3})
    made = SE3TransformerPooled(*fibers, **{**POOLED, "output_dim": output_dim}, pooling=pooling).to(dtype)
    with_other_norms(made)
    assert made.transformer.pooling == (pooling or "max")
    assert [tuple(p.shape) for p in made.mlp.parameters()] == [(8, 8), (8,), (output_dim, 8), (output_dim,)]
    G.ndata["h"], G.edata["e"] = torch.randn(15, 4, 1, dtype=dtype), torch.randn(G.num_edges(), 3, 1, dtype=dtype)
    found = made(G, {"0": G.ndata["h"]}, {"0": G.edata["e"]})
    assert found.shape == ((3, 2) if output_dim == 2 else (3,))
    errors = equivariance_error(
        lambda G: made(G, {"0": G.ndata["h"]}, {"0": G.edata["e"]}), G, edge_degrees={"rel_pos": 1}, output_on="graphs"
    )
    assert max(errors.values()) < TOLERANCE[dtype]


def test_the_model_of_qm9_takes_scalars_alone():
    with pytest.raises(ValueError, match="fiber_out must have degree 0 alone"):
        SE3TransformerPooled(Fiber({0: 4}), Fiber({0: 8, 1: 8}), Fiber({}), **POOLED)
    assert isinstance(SE3TransformerPooled(Fiber({0: 4}), Fiber({0: 8}), None, **POOLED).transformer, SE3Transformer)
