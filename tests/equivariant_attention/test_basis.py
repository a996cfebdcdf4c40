import contextlib
import math

import pytest
import torch

from equivariant_attention.graphs import Graph
from equivariant_attention.modules import Basis, GConvSE3, get_basis, get_basis_and_r, get_r
from equivariant_attention.so3 import aligned_coupling, coupling, random_rotation, wigner_d
from equivariant_attention.so3.wigner import _step as wigner_step
from tests.cases import MIXED, awkward_graph, random_graph

PAIRS = [(k, l) for k in range(5) for l in range(5)]


@pytest.mark.parametrize(("k", "l"), PAIRS)
def test_shape_and_equivariance(k, l, dtype):
    G = random_graph(dtype)
    R = random_rotation(dtype=torch.float64)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    W = get_basis(G, 4)[f"{k},{l}"]
    assert W.shape == (G.num_edges(), 1, 2 * l + 1, 1, 2 * k + 1, 2 * min(l, k) + 1)
    assert W.dtype == dtype
    G.edata["d"] = G.edata["d"] @ R.T.to(dtype)
    turned = torch.einsum("pP,eaPbqf,qQ->eapbQf", wigner_d(l, R).to(dtype), W, wigner_d(k, R).T.to(dtype))
    torch.testing.assert_close(get_basis(G, 4)[f"{k},{l}"], turned, rtol=0, atol=tolerance)


def test_it_does_not_depend_on_the_length():
    G = random_graph()
    basis, r = get_basis_and_r(G, 2)
    G.edata["d"] = 7 * G.edata["d"]
    scaled, scaled_r = get_basis_and_r(G, 2)
    torch.testing.assert_close(scaled_r, 7 * r)
    for pair in basis:
        torch.testing.assert_close(scaled[pair], basis[pair])


def test_it_is_a_mapping_of_all_pairs(kind):
    basis = get_basis(random_graph(kind=kind), 2)
    assert isinstance(basis, Basis)
    assert len(basis) == 9
    assert set(basis) == {f"{k},{l}" for k in range(3) for l in range(3)}
    assert "2,2" in basis
    assert "3,0" not in basis
    assert basis["1,2"] is basis["1,2"]
    with pytest.raises(KeyError, match="degrees 0 to 2, not '0,3'"):
        basis["0,3"]
    assert repr(basis) == f"Basis(edges={basis['0,0'].shape[0]}, max_degree=2)"


def test_r_and_both_shapes_of_d():
    G = random_graph()
    expected = G.edata["d"].norm(dim=-1, keepdim=True)
    torch.testing.assert_close(get_r(G), expected)
    basis, r = get_basis_and_r(G, 2)
    torch.testing.assert_close(r, expected)
    G.edata["d"] = G.edata["d"].unsqueeze(1)
    again, r = get_basis_and_r(G, 2)
    torch.testing.assert_close(r, expected)
    assert torch.equal(again["2,1"], basis["2,1"])


def test_gradients_flow_to_r_always_and_to_the_basis_if_asked():
    G = random_graph()
    G.edata["d"] = G.edata["d"].requires_grad_()
    basis, r = get_basis_and_r(G, 1)
    assert r.requires_grad
    assert not basis["1,1"].requires_grad
    assert get_basis(G, 1, compute_gradients=True)["1,1"].requires_grad


@pytest.mark.parametrize("pair", ["0,1", "1,1", "2,1", "2,2", "3,3"])
def test_derivatives_on_and_near_every_axis(pair):
    G = awkward_graph()
    d = G.edata["d"][G.edata["d"].any(-1)].clone().requires_grad_()
    assert len(d) == 25

    def function(d):
        H = Graph(torch.zeros(len(d), dtype=torch.int64), torch.zeros(len(d), dtype=torch.int64))
        H.edata["d"] = d
        basis, r = get_basis_and_r(H, 3, compute_gradients=True)
        return basis[pair], r

    assert torch.autograd.gradcheck(function, d, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, d, fast_mode=True)


def test_coincident_nodes(dtype):
    G = Graph([0], [1])
    G.edata["d"] = torch.zeros(1, 3, dtype=dtype, requires_grad=True)
    basis, r = get_basis_and_r(G, 3, compute_gradients=True)
    assert r.item() == 0
    total = r.sum()
    for pair, W in basis.items():
        k, l = map(int, pair.split(","))
        # Only J = 0 acts: the identity, of unit Frobenius norm but for its sign, times Y_0.
        if k == l:
            identity = torch.eye(2 * l + 1, dtype=dtype) / math.sqrt((2 * l + 1) * 4 * math.pi)
            torch.testing.assert_close(W[0, 0, :, 0, :, 0].abs(), identity)
            assert not W[..., 1:].any()
        else:
            assert not W.any()
        total = total + W.sum()
    (gradient,) = torch.autograd.grad(total, G.edata["d"])
    assert torch.all(gradient == 0)


def test_coincident_nodes_as_published(dtype):
    G = Graph([0, 0], [1, 1])
    G.edata["d"] = torch.tensor([[0, 0, 0], [0, 1, 0]], dtype=dtype, requires_grad=True)
    basis, r = get_basis_and_r(G, 3, compute_gradients=True, zero_edges="published")
    assert r.tolist() == [[0], [1]]
    for value in (*basis.values(), *basis.frames):
        torch.testing.assert_close(value[0], value[1])
    (gradient,) = torch.autograd.grad(sum(W.sum() for W in basis.values()) + r.sum(), G.edata["d"])
    assert gradient.isfinite().all()
    assert not gradient[0].any()
    assert get_basis(G, 1, zero_edges="published")["1,1"].isfinite().all()
    with pytest.raises(ValueError, match=r"zero_edges must be one of \('isotropic', 'published'\), got 'up'"):
        get_basis_and_r(G, 1, zero_edges="up")


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e17])
def test_extreme_distances_stay_finite(scale):
    G = random_graph(torch.float32)
    G.edata["d"] = (scale * G.edata["d"]).requires_grad_()
    basis, r = get_basis_and_r(G, 3)
    assert torch.isfinite(r).all()
    assert all(torch.isfinite(W).all() for W in basis.values())


@pytest.mark.parametrize(
    "first_look", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_who_looks_first_does_not_matter(first_look):
    """Neither for what a basis holds, nor for the constants that it leaves behind."""
    G = random_graph(torch.float32)
    G.edata["d"] = G.edata["d"].requires_grad_()
    for cached in (coupling, aligned_coupling, wigner_step):
        cached.cache_clear()
    results = []
    for look in (contextlib.nullcontext, first_look):
        basis, r = get_basis_and_r(G, 3, compute_gradients=True)
        with look():
            first = [*basis.values(), *basis.frames]
        assert all(value.dtype == torch.float32 for value in first)
        layer = GConvSE3(MIXED, MIXED)
        torch.manual_seed(1)
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter)
        features = {str(d): torch.ones(15, m, 2 * d + 1) for m, d in MIXED.structure}
        output = layer(features, G=G, r=r, basis=basis)
        loss = sum(v.sin().sum() for v in [*output.values(), *basis.values()])
        results.append(torch.autograd.grad(loss, G.edata["d"])[0])
    torch.testing.assert_close(*results)


def test_training_works_after_a_first_call_in_inference_mode():
    G = random_graph(torch.float32)
    for cached in (coupling, aligned_coupling, wigner_step):
        cached.cache_clear()
    layer = GConvSE3(MIXED, MIXED)
    features = {str(d): torch.ones(15, m, 2 * d + 1) for m, d in MIXED.structure}
    for mode in (torch.inference_mode, contextlib.nullcontext):
        with mode():
            basis, r = get_basis_and_r(G, 2)
            output = layer(features, G=G, r=r, basis=basis)
    sum(v.sum() for v in output.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_edges_that_lead_nowhere_are_refused():
    data = pytest.importorskip("torch_geometric.data").Data(
        edge_index=torch.tensor([[0, -1], [1, 0]]), pos=torch.randn(2, 3), d=torch.randn(2, 3)
    )
    with pytest.raises(ValueError, match=r"src must hold nodes in \[0, 2\), got -1 to 0"):
        get_basis_and_r(data, 1)


def test_no_edges(dtype):
    G = Graph([], [], num_nodes=3)
    G.edata["d"] = torch.zeros(0, 3, dtype=dtype)
    basis, r = get_basis_and_r(G, 2)
    assert r.shape == (0, 1)
    assert basis["2,1"].shape == (0, 1, 3, 1, 5, 3)


def test_bad_input_is_refused(kind):
    G = random_graph(kind=kind)
    for value in (-1, 1.5, None, True):
        with pytest.raises(ValueError, match="max_degree must be a whole number"):
            get_basis_and_r(G, value)
    with pytest.raises(KeyError, match="x_dst - x_src"):
        get_r(Graph([0], [1]))
