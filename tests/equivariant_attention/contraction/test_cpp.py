import pytest
import torch

from equivariant_attention.contraction import BACKENDS, Inputs, cpp, use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.native import calls, compiler
from equivariant_attention.native.calls import not_built
from equivariant_attention.so3 import aligned_coupling
from tests.cases import MIXED, random_features, random_graph
from tests.equivariant_attention.contraction.test_contraction import check_against_oracle, undirected_graph

runs = pytest.mark.skipif(bool(not_built(cpp.SOURCES["cpp"])), reason=not_built(cpp.SOURCES["cpp"]))


def graph(num_nodes, num_edges, edge_dim=2, dtype=torch.float64):
    """Random edges, half of which have a reverse of equal features."""
    src, dst = torch.randint(num_nodes, (2, num_edges))
    half = num_edges // 2
    G = Graph(torch.cat([src, dst[:half]]), torch.cat([dst, src[:half]]), num_nodes=num_nodes)
    x, w = torch.randn(num_nodes, 3, dtype=dtype), torch.randn(num_edges, edge_dim, dtype=dtype)
    G.edata["d"] = x[G.edges()[1]] - x[G.edges()[0]]
    G.edata["w"] = torch.cat([w, w[:half]])
    return G


@runs
@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17, 32])
def test_any_number_of_channels(channels, dtype):
    check_against_oracle("cpp", undirected_graph(dtype, 2), None, dtype, fiber=Fiber(3, channels))


@runs
@pytest.mark.parametrize(
    "fiber", [Fiber(1, 3), Fiber(structure=[(2, 2)]), Fiber(structure=[(150, 0), (2, 3)]), Fiber(structure=[(1, 5)])]
)
def test_any_degrees(fiber, dtype):
    layer = GConvSE3Partial(MIXED, fiber, edge_dim=2).to(dtype)
    check_layer(layer, MIXED, graph(7, 40, dtype=dtype), dtype)
    layer = GConvSE3Partial(fiber, MIXED, edge_dim=2).to(dtype)
    check_layer(layer, fiber, graph(7, 40, dtype=dtype), dtype)


@runs
@pytest.mark.parametrize("edge_dim", [0, 1, 31, 32, 40])
def test_any_number_of_edge_features(edge_dim, dtype):
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=edge_dim).to(dtype)
    check_layer(layer, MIXED, graph(6, 30, edge_dim, dtype), dtype)


@runs
@pytest.mark.parametrize("num_edges", [0, 1, 15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("threads", [1, 3])
def test_any_number_of_edges_and_threads(num_edges, threads, dtype):
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=2, x_ij="add").to(dtype)
    torch.set_num_threads(threads)
    try:
        check_layer(layer, MIXED, graph(9, num_edges, dtype=dtype), dtype)
    finally:
        torch.set_num_threads(1)


def check_layer(layer, fiber, G, dtype, named="cpp"):
    """Values and derivatives are those of 'frame', of every subset of what can be asked for."""
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    d, w = G.edata["d"].clone().requires_grad_(), G.edata["w"].requires_grad_()
    leaves = {"features": [*features.values()], "d": [d], "w": [w], "parameters": [*layer.parameters()]}
    found = []
    for backend in ("frame", named):
        G.edata["d"] = d
        basis, r = get_basis_and_r(G, 5, compute_gradients=True)
        with use_backend(backend):
            output = [*layer(features, G=G, r=r, basis=basis).values()]
        loss = sum(v.square().sum() for v in output)
        gradients = [
            torch.autograd.grad(loss, group, retain_graph=True, allow_unused=True) for group in leaves.values()
        ]
        every = torch.autograd.grad(loss, [v for group in leaves.values() for v in group], allow_unused=True)
        found.append([*output, *(g for group in gradients for g in group), *every])
    tolerance = 3e-5 if dtype == torch.float32 else 1e-12
    for expected, value in zip(*found, strict=True):
        if expected is None:
            assert value is None
        else:
            largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
            torch.testing.assert_close(value, expected, rtol=0, atol=tolerance * max(largest, 1e-3))


@runs
def test_inputs_that_are_not_contiguous_are_read_and_not_changed():
    G = graph(8, 30)
    layer = GConvSE3Partial(MIXED, MIXED, edge_dim=2, x_ij="add").double()
    for p in layer.parameters():
        p.data = p.data.mT.contiguous().mT if p.dim() == 2 else p.data
    features = {d: v.mT.contiguous().mT for d, v in random_features(MIXED, 8, torch.float64).items()}
    before = {d: v.clone() for d, v in features.items()}
    basis, r = get_basis_and_r(G, 3)
    found = []
    for backend in ("oracle", "cpp"):
        with use_backend(backend):
            output = layer(features, G=G, r=r, basis=basis)
        # The derivative of a sum is a tensor of one number, expanded.
        gradients = torch.autograd.grad(sum(v.sum() for v in output.values()), [*layer.parameters()])
        found.append([*output.values(), *gradients])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-11)
    assert all(torch.equal(features[d], before[d]) for d in before)


@runs
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_again(threads):
    """No sum depends on which thread comes first."""
    G, fiber = graph(20, 300, dtype=torch.float32), Fiber(3, 8)
    layer = GSE3Res(fiber, fiber, edge_dim=2, div=2, n_heads=2)
    features = random_features(fiber, 20, torch.float32)
    basis, r = get_basis_and_r(G, 2)
    found = []
    torch.set_num_threads(threads)
    try:
        for _ in range(3):
            with use_backend("cpp"):
                output = layer(features, G=G, r=r, basis=basis)
            found.append(torch.autograd.grad(sum(v.square().sum() for v in output.values()), [*layer.parameters()]))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@runs
def test_what_is_not_finite_stays_so():
    G = graph(6, 20)
    layer = GConvSE3Partial(Fiber(1, 2), Fiber(1, 2), edge_dim=2).double()
    features = {"0": torch.ones(6, 2, 1, dtype=torch.float64)}
    with torch.no_grad():
        layer.kernel_unary["(0,0)"].rp.net[1].bn.bias[0] = torch.nan
    basis, r = get_basis_and_r(G, 0)
    with use_backend("cpp"):
        assert layer(features, G=G, r=r, basis=basis)["0"].isnan().all()


@runs
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # PyTorch's own forward derivatives use it
@pytest.mark.parametrize("kind", ["batched", "forward"])
def test_derivatives_of_other_kinds_are_refused(kind):
    """And the order that the error names has them."""
    G, layer = random_graph(torch.float32), GConvSE3Partial(Fiber(1, 2), Fiber(1, 2))
    features = {d: v.requires_grad_() for d, v in random_features(Fiber(1, 2), G.num_nodes(), torch.float32).items()}
    basis, r = get_basis_and_r(G, 0)

    def derivative():
        output = layer(features, G=G, r=r, basis=basis)["0"]
        if kind == "batched":
            by_output = torch.ones(3, *output.shape)
            return torch.autograd.grad(output, features["0"], by_output, is_grads_batched=True)[0]
        with torch.autograd.forward_ad.dual_level():
            by_output = torch.autograd.forward_ad.make_dual(torch.ones_like(output), torch.ones_like(output))
            found = torch.autograd.grad(output, features["0"], by_output)[0]
            return torch.autograd.forward_ad.unpack_dual(found).tangent

    with use_backend("cpp"), pytest.raises(NotImplementedError, match=r"use_backend\('edge'\)"):
        derivative()
    with use_backend("edge"):
        assert derivative().abs().max() > 0


def ran_by_default(G, layer, monkeypatch):
    ran = []
    for name, order in [*BACKENDS.items()]:
        monkeypatch.setitem(BACKENDS, name, lambda *a, name=name, order=order: ran.append(name) or order(*a))
    basis, r = get_basis_and_r(G, 3)
    layer(random_features(MIXED, G.num_nodes(), torch.float32), G=G, r=r, basis=basis)
    return ran


@runs
def test_it_is_chosen_on_a_cpu(monkeypatch):
    assert ran_by_default(random_graph(torch.float32), GConvSE3Partial(MIXED, MIXED), monkeypatch) == ["cpp"]


@runs
def test_it_runs_in_a_layer_that_is_compiled():
    G, layer = random_graph(torch.float32), GConvSE3Partial(Fiber(1, 2), Fiber(1, 2))
    features = random_features(Fiber(1, 2), G.num_nodes(), torch.float32)
    basis, r = get_basis_and_r(G, 0)
    with use_backend("cpp"):
        expected = layer(features, G=G, r=r, basis=basis)["0"]
        found = torch.compile(layer, backend="eager", fullgraph=True)(features, G=G, r=r, basis=basis)["0"]
    torch.testing.assert_close(found, expected)


def missing(dtype, device):
    features, src = {"0": torch.zeros(1, 1, 1, device=device)}, torch.zeros(1, dtype=torch.int64, device=device)
    return cpp.missing("cpp", Inputs(features, src, torch.zeros(1, 1, device=device), {}), dtype)


def refusal(G, layer):
    basis, r = get_basis_and_r(G, 3)
    with use_backend("cpp"), pytest.raises(ValueError) as caught:
        layer(random_features(MIXED, G.num_nodes(), next(layer.parameters()).dtype), G=G, r=r, basis=basis)
    return str(caught.value)


def test_it_runs_or_raises(monkeypatch):
    G, layer = random_graph(torch.float32), GConvSE3Partial(MIXED, MIXED)
    assert "needs parameters in float32 or float64, got torch.float16" in missing(torch.float16, "cpu")
    assert "needs tensors on a CPU, got tensors on meta" in missing(torch.float32, "meta")

    def fails(source):
        raise compiler.BuildError("there is no C++ compiler")

    monkeypatch.setattr(compiler, "library", fails)
    calls._not_built.cache_clear()
    try:
        assert refusal(G, layer) == "backend 'cpp' cannot run here: there is no C++ compiler"
        assert ran_by_default(G, layer, monkeypatch) == ["frame"]
    finally:
        calls._not_built.cache_clear()


@runs
def test_couplings_live_as_long_as_they_are_pointed_to():
    G, layer = random_graph(), GConvSE3Partial(MIXED, MIXED).double()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    basis, r = get_basis_and_r(G, 2)
    with use_backend("cpp"):
        expected = layer(features, G=G, r=r, basis=basis)
        aligned_coupling.cache_clear()
        others = [torch.full((n, n), torch.nan, dtype=torch.float64) for n in range(1, 8) for _ in range(100)]
        found = layer(features, G=G, r=r, basis=basis)
    assert len(others) == 700
    for degree, value in expected.items():
        assert torch.equal(found[degree], value)
