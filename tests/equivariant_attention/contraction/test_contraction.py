import pytest
import torch

from equivariant_attention.contraction import BACKENDS, Inputs, contract, use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial, get_basis_and_r
from equivariant_attention.plan import Plan
from tests.cases import BACKENDS_HERE, FULL, MIXED, awkward_graph, random_features, random_graph

FAST = [backend for backend in BACKENDS_HERE if backend != "oracle"]
PAIRS = [(k, l) for k in range(5) for l in range(5)]
EDGE_DIM = 2


def message(layer, G, features, d=None, **options):
    """The messages as a function of everything that they depend on."""
    if d is not None:
        G.edata["d"] = d
    basis, r = get_basis_and_r(G, 4, compute_gradients=True, **options)
    return tuple(layer(features, G=G, r=r, basis=basis).values())


def undirected_graph(dtype=torch.float64, edge_dim=0, **options):
    """Edges with their reverses, of equal features, and a few alone or with features of their own."""
    G = random_graph(dtype, **options)
    src, dst = G.edges()
    G = Graph(torch.cat([src, dst[:-2]]), torch.cat([dst, src[:-2]]), num_nodes=G.num_nodes())
    x = torch.randn(G.num_nodes(), 3, dtype=dtype)
    G.edata["d"] = x[G.edges()[1]] - x[G.edges()[0]]
    w = torch.randn(len(src), edge_dim, dtype=dtype)
    G.edata["w"] = torch.cat([w, w[:-2].index_fill(0, torch.tensor([3]), 0.5)])
    return G


def test_the_undirected_graph_has_pairs_and_others():
    G = undirected_graph(edge_dim=1)
    pairs = len(Plan(G).pairs)
    assert 0 < 2 * pairs < G.num_edges()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("graph", [random_graph, awkward_graph, undirected_graph])
@pytest.mark.parametrize("x_ij", [None, "cat", "add"])
def test_values_and_gradients_are_the_oracles(backend, graph, x_ij, dtype):
    G = graph(dtype, EDGE_DIM)
    check_against_oracle(backend, G, x_ij, dtype)


@pytest.mark.parametrize(("memory", "sizes"), [(1, (3, 4)), (30_000, (5, 4, 6))])
@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_small_blocks_give_the_same(backend, memory, sizes, dtype):
    check_against_oracle(backend, undirected_graph(dtype, EDGE_DIM, sizes=sizes), "add", dtype, memory)


@pytest.mark.parametrize("backend", FAST)
def test_many_channels_give_the_same(backend, dtype):
    """Enough for kernels that are multiplied one by one."""
    check_against_oracle(backend, undirected_graph(dtype, EDGE_DIM), None, dtype, fiber=Fiber(3, 24))


def check_against_oracle(backend, G, x_ij, dtype, memory=None, fiber=MIXED, **options):
    """Values and gradients by features, positions, edge features and parameters are those of the oracle."""
    layer = GConvSE3Partial(fiber, FULL if fiber is MIXED else fiber, edge_dim=EDGE_DIM, x_ij=x_ij).to(dtype)
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    d = G.edata["d"].clone().requires_grad_()
    G.ndata.pop("x", None)  # so that every derivative flows to d
    w = G.edata["w"].requires_grad_()
    leaves = [*features.values(), d, w, *layer.parameters()]
    results = []
    for name, limit in (("oracle", None), (backend, memory)):
        with use_backend(name, memory=limit):
            output = message(layer, G, features, d, **options)
        cotangents = [torch.randn(v.shape, dtype=dtype, generator=torch.Generator().manual_seed(1)) for v in output]
        results.append([*output, *torch.autograd.grad(output, leaves, cotangents)])
    for expected, found in zip(*results, strict=True):
        tolerance = 1e-5 if dtype == torch.float32 else 1e-12
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.detach().abs().max()))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("x_ij", [None, "cat"])
def test_edges_of_length_zero_as_published(backend, x_ij, dtype):
    check_against_oracle(backend, awkward_graph(dtype, EDGE_DIM), x_ij, dtype, zero_edges="published")


@pytest.mark.parametrize("backend", BACKENDS_HERE)
def test_edges_of_length_zero_as_published_point_up(backend, dtype):
    """They are as edges along (0, 1, 0) of a length that makes no difference, except that they have no derivative."""
    G, layer = awkward_graph(dtype), GConvSE3Partial(MIXED, FULL).to(dtype)
    features, d = random_features(MIXED, G.num_nodes(), dtype), G.edata["d"]
    is_zero = ~d.any(-1)
    up = torch.where(is_zero[:, None], torch.tensor([0, 1e-18, 0], dtype=dtype), d)
    with use_backend(backend):
        zero, short = d.clone().requires_grad_(), up.clone().requires_grad_()
        found = message(layer, G, features, zero, zero_edges="published")
        expected = message(layer, G, features, short)
        isotropic = message(layer, G, features, d)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other)
    assert not any(torch.allclose(a[is_zero], b[is_zero]) for a, b in zip(found, isotropic, strict=True))
    (gradient,) = torch.autograd.grad(sum(value.square().sum() for value in found), zero)
    (other,) = torch.autograd.grad(sum(value.square().sum() for value in expected), short)
    assert not gradient[is_zero].any()
    torch.testing.assert_close(gradient[~is_zero], other[~is_zero])


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize(("k", "l"), PAIRS)
def test_first_and_second_derivatives_of_every_pair(backend, k, l):
    layer = GConvSE3Partial(Fiber(structure=[(2, k)]), Fiber(structure=[(1, l)]), edge_dim=1).double()
    G = awkward_graph(edge_dim=1)
    keep = torch.tensor([0, 4, 7, 13, 24])  # along +x, -y, near +y, off +y; and of length zero
    G = type(G)(*(ends[keep] for ends in G.edges()), num_nodes=G.num_nodes())
    G.edata["w"] = torch.randn(len(keep), 1, dtype=torch.float64)
    full = awkward_graph()
    d = full.edata["d"][keep]
    features = torch.randn(full.num_nodes(), 2, 2 * k + 1, dtype=torch.float64, requires_grad=True)
    moving = d.any(-1)

    def function(features, moved):
        with use_backend(backend):
            return message(layer, G, {str(k): features}, d.index_put((moving.nonzero()[:, 0],), moved))

    moved = d[moving].clone().requires_grad_()
    assert torch.autograd.gradcheck(function, (features, moved), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, (features, moved), fast_mode=True)


@pytest.mark.parametrize("backend", FAST)
def test_second_derivatives_block_by_block(backend):
    G = undirected_graph(edge_dim=1)
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=1).double()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    d = G.edata["d"].clone().requires_grad_()
    found = []
    for name, limit in (("oracle", None), (backend, None), (backend, 100_000)):
        with use_backend(name, memory=limit):
            output = message(layer, G, features, d)
            (force,) = torch.autograd.grad(sum(v.square().sum() for v in output), d, create_graph=True)
            found.append(torch.autograd.grad(force.square().sum(), [d, *layer.parameters()]))
    for expected, *others in zip(*found, strict=True):
        for other in others:
            torch.testing.assert_close(other, expected, rtol=0, atol=1e-11 * float(expected.abs().max()))


def test_a_layer_without_gradient_by_features_or_parameters():
    G = undirected_graph(edge_dim=1)
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=1).double().requires_grad_(False)
    d = G.edata["d"].clone().requires_grad_()
    output = message(layer, G, random_features(MIXED, G.num_nodes(), torch.float64), d)
    sum(v.sum() for v in output).backward()
    assert d.grad.isfinite().all()
    assert d.grad.any()


def test_features_of_edges_that_changed_after_the_plan_are_not_shared():
    G = undirected_graph(edge_dim=1)
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=1).double()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    basis, r = get_basis_and_r(G, 3)
    G.edata["w"][: len(G.edata["w"]) // 2] += 1
    with use_backend("oracle"):
        expected = layer(features, G=G, r=r, basis=basis)
    for degree, value in layer(features, G=G, r=r, basis=basis).items():
        torch.testing.assert_close(value, expected[degree], rtol=0, atol=1e-11)


def test_the_backend_is_chosen_by_name_and_restored():
    with pytest.raises(ValueError, match="backend must be None or one of"), use_backend("fastest"):
        pass
    with pytest.raises(ValueError, match="memory must be a whole number of at least 1"), use_backend(None, memory=0):
        pass
    calls = []
    original = BACKENDS["oracle"]
    BACKENDS["oracle"] = lambda *args: calls.append(1) or original(*args)
    try:
        G = random_graph()
        layer = GConvSE3Partial(MIXED, MIXED).double()
        features = random_features(MIXED, G.num_nodes(), torch.float64)
        with use_backend("oracle"):
            message(layer, G, features)
        assert len(calls) == 1
        message(layer, G, features)
        assert len(calls) == 1
    finally:
        BACKENDS["oracle"] = original


@pytest.mark.parametrize("backend", [None, "oracle", "edge"])
def test_a_plain_dict_is_a_basis(backend):
    G = random_graph()
    layer = GConvSE3Partial(MIXED, FULL).double()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    basis, r = get_basis_and_r(G, 3)
    with use_backend(backend):
        expected = layer(features, G=G, r=r, basis=basis)
        found = layer(features, G=G, r=r, basis=dict(basis))
    for degree in expected:
        torch.testing.assert_close(found[degree], expected[degree], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("backend", "lacks"), [("frame", "frames"), ("node", "plan")])
def test_a_plain_dict_is_refused_where_it_lacks_something(backend, lacks):
    G = random_graph()
    layer = GConvSE3Partial(MIXED, FULL).double()
    basis, r = get_basis_and_r(G, 3)
    with use_backend(backend), pytest.raises(ValueError, match=f"a plain dict, which has no {lacks}"):
        layer(random_features(MIXED, G.num_nodes(), torch.float64), G=G, r=r, basis=dict(basis))


@pytest.mark.skipif("triton" in BACKENDS_HERE, reason="Triton's interpreter is on")
def test_triton_runs_or_raises():
    G = random_graph()
    layer = GConvSE3Partial(MIXED, FULL).double()
    basis, r = get_basis_and_r(G, 3)
    with use_backend("triton"), pytest.raises(ValueError, match=r"need Triton 3\.5 or later and tensors on CUDA"):
        layer(random_features(MIXED, G.num_nodes(), torch.float64), G=G, r=r, basis=basis)


def test_a_wrong_basis_is_refused():
    G, other = random_graph(), awkward_graph()
    layer = GConvSE3Partial(MIXED, FULL).double()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    _, r = get_basis_and_r(G, 3)
    with pytest.raises(ValueError, match="needs max_degree of at least 3"):
        layer(features, G=G, r=r, basis=get_basis_and_r(G, 2)[0])
    with pytest.raises(ValueError, match=rf"basis must be of this graph: nodes must be {G.num_nodes()}, got"):
        layer(features, G=G, r=r, basis=get_basis_and_r(other, 3)[0])


def test_the_vector_is_added_on_the_way():
    src = torch.tensor([1, 0, 1])
    features = {"1": torch.randn(2, 3, 3)}
    vector = torch.randn(3, 3)
    inputs = Inputs(features, src, torch.zeros(3, 1), {}, False, {"1": vector[:, None]}, {"1": 2})
    expected = features["1"][src]
    expected[:, 2] += vector
    torch.testing.assert_close(inputs.sent(1, 3), expected)
    torch.testing.assert_close(Inputs(features, src, torch.zeros(3, 1), {}).sent(1, 3), features["1"][src])
    appended = Inputs(features, src, torch.zeros(3, 1), {}, False, {"1": vector[:, None]}, {"1": 3})
    torch.testing.assert_close(appended.sent(1, 4), torch.cat([features["1"][src], vector[:, None]], dim=1))


def test_contract_answers_with_the_degrees_out():
    G = random_graph()
    layer = GConvSE3Partial(MIXED, FULL).double()
    basis, r = get_basis_and_r(G, 3)
    inputs = Inputs(random_features(MIXED, G.num_nodes(), torch.float64), G.edges()[0], r, basis)
    networks = [layer.kernel_unary[f"({k},{l})"] for l in FULL.degrees for k in MIXED.degrees]
    messages = contract(layer.convolution, networks, inputs)
    with pytest.raises(ValueError, match="backend must be None or one of"):
        contract(layer.convolution, networks, inputs, backend="fastest")
    assert [tuple(m.shape) for m in messages] == [(G.num_edges(), 4, 2 * l + 1) for l in range(4)]
