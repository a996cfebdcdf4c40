"""Features of the edges themselves, of any degree: as features of source nodes that differ from edge to edge."""

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3, GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.so3 import random_rotation, wigner_d
from tests.cases import BACKENDS_HERE, random_features, random_graph

NODES, EDGES, OUT = Fiber({0: 4, 1: 2}), Fiber({1: 2, 2: 1}), Fiber({0: 4, 1: 4, 2: 2})
LAYERS = {
    "GConvSE3": lambda f_in, f_edge: GConvSE3(f_in, OUT, self_interaction=True, f_edge=f_edge),
    "GConvSE3Partial": lambda f_in, f_edge: GConvSE3Partial(f_in, OUT, f_edge=f_edge),
    "GConvSE3Partial-cat": lambda f_in, f_edge: GConvSE3Partial(f_in, OUT, x_ij="cat", f_edge=f_edge),
    "GConvSE3Partial-add": lambda f_in, f_edge: GConvSE3Partial(f_in, OUT, x_ij="add", f_edge=f_edge),
    "GSE3Res": lambda f_in, f_edge: GSE3Res(f_in, OUT, div=2, n_heads=1, skip=None, f_edge=f_edge),
    "GSE3Res-cat": lambda f_in, f_edge: GSE3Res(f_in, OUT, div=2, skip=None, x_ij="cat", f_edge=f_edge),
}


def case(name, dtype=torch.float64):
    G = random_graph(dtype)
    del G.ndata["x"]
    h, own = (random_features(f, n, dtype) for f, n in ((NODES, G.num_nodes()), (EDGES, G.num_edges())))
    return LAYERS[name](NODES, EDGES).to(dtype), G, h, own


def run(layer, G, h, **given):
    basis, r = get_basis_and_r(G, 2, compute_gradients=True)
    return layer(h, G=G, r=r, basis=basis, **given)


@pytest.mark.parametrize("backend", [*BACKENDS_HERE, None])
@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("GConvSE3Partial")])
def test_they_are_as_features_of_the_source(name, backend):
    """With edges that send what their source node has, a layer is as one that finds all of it on the nodes."""
    layer, G, h, _ = case(name)
    more = random_features(EDGES, G.num_nodes(), torch.float64)
    every = {str(d): torch.cat([f[str(d)] for f in (h, more) if str(d) in f], dim=1) for d in range(3)}
    whole = LAYERS[name](Fiber.combine(NODES, EDGES), None).double()
    whole.load_state_dict(layer.state_dict())
    own = {d: v[G.edges()[0]].requires_grad_() for d, v in more.items()}
    d = G.edata["d"].requires_grad_()
    with use_backend(backend):
        found, expected = run(layer, G, h, edge_features=own), run(whole, G, every)
        for degree, value in expected.items():
            torch.testing.assert_close(found[degree], value, rtol=0, atol=1e-12)
        total = [sum(v.square().sum() for v in values.values()) for values in (found, expected)]
        gradients = [torch.autograd.grad(t, [d, *m.parameters()]) for t, m in zip(total, (layer, whole), strict=True)]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
        (by_own,) = torch.autograd.grad(run(layer, G, h, edge_features=own)["0"].sum(), [own["2"]])
    assert by_own.abs().max() > 0


@pytest.mark.parametrize("name", LAYERS)
def test_equivariance(name, dtype):
    layer, G, h, own = case(name, dtype)
    R = random_rotation(dtype=dtype)
    turned = [{d: v @ wigner_d(int(d), R).T for d, v in part.items()} for part in (h, own)]
    expected = {d: v @ wigner_d(int(d), R).T for d, v in run(layer, G, h, edge_features=own).items()}
    G.edata["d"] = G.edata["d"] @ R.T
    found = run(layer, G, turned[0], edge_features=turned[1])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    largest = max(float(v.detach().abs().max()) for v in expected.values())
    for degree, value in expected.items():
        torch.testing.assert_close(found[degree], value, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("name", LAYERS)
def test_the_graph_may_carry_them(name):
    layer, G, h, own = case(name)
    expected = run(layer, G, h, edge_features=own)
    with pytest.raises(KeyError, match=r"must have edata\['f1'\]"):
        run(layer, G, h)
    G.edata.update({f"f{degree}": value for degree, value in own.items()})
    for degree, value in run(layer, G, h).items():
        assert torch.equal(value, expected[degree])


def test_wrong_ones_are_refused():
    layer, G, h, own = case("GConvSE3")
    with pytest.raises(ValueError, match=r"edge_features\['2'\] must have shape"):
        run(layer, G, h, edge_features={**own, "2": own["2"][:, :, :3]})
    with pytest.raises(ValueError, match="edge_features must be None for a layer without f_edge"):
        run(LAYERS["GConvSE3"](NODES, None).double(), G, h, edge_features=own)


def test_second_derivatives():
    layer, G, h, own = case("GConvSE3Partial-add")

    def function(vectors):
        return run(layer, G, h, edge_features={**own, "1": vectors})["1"]

    torch.autograd.gradgradcheck(function, own["1"].requires_grad_(), fast_mode=True)
