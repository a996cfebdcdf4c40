import math

import pytest
import torch

from equivariant_attention.graphs import batch
from equivariant_attention.symmetric_structures import symmetric_graphs

MOLECULES = ("tetrahedron", "octahedron", "cube", "CO2", "allene", "benzene", "CF4", "CH3")
NAMES = (*MOLECULES, "fcc", "bcc", "diamond", "coincident")


def incoming(name, node=0):
    """The vectors of the edges into a node, float64 ``[edges, 3]``."""
    G = symmetric_graphs(torch.float64)[name]
    return G.edata["d"][G.edges()[1] == node]


def test_the_fields_of_every_structure(dtype):
    graphs = symmetric_graphs(dtype)
    assert tuple(graphs) == NAMES
    for G in graphs.values():
        src, dst = G.edges()
        x = G.ndata["x"].squeeze(1)
        assert x.dtype == dtype
        assert G.ndata["z"].shape == (G.num_nodes(),)
        assert torch.equal(G.edata["d"], x[dst] - x[src])
        ends = {*zip(src.tolist(), dst.tolist(), strict=True)}
        assert ends == {(j, i) for i, j in ends}
        assert all(i != j for i, j in ends)
        assert {*dst.tolist()} == {*range(G.num_nodes())}
    assert batch(list(graphs.values())).batch_size == len(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "benzene"])
def test_vectors_at_the_origin_add_up_to_zero(name):
    assert not symmetric_graphs()[name].ndata["x"][0].any()
    assert incoming(name).sum(dim=0).abs().max() < 1e-14


@pytest.mark.parametrize("name", ["tetrahedron", "CF4", "octahedron", "cube", "fcc", "bcc", "diamond"])
def test_so_do_tensors_where_all_axes_are_alike(name):
    vectors = incoming(name)
    traceless = vectors.T @ vectors - vectors.square().sum() / 3 * torch.eye(3, dtype=torch.float64)
    assert traceless.abs().max() < 1e-13


def test_neighbours_are_as_in_nature():
    near = {name: incoming(name).norm(dim=1) for name in NAMES}
    assert [len(near[name]) for name in ("fcc", "bcc", "diamond")] == [12, 8 + 6, 4]
    assert near["fcc"].std() < 1e-14
    assert torch.allclose(near["tetrahedron"], torch.tensor(1.087, dtype=torch.float64))
    assert (near["coincident"] == 0).sum() == 1
    planar = [symmetric_graphs()[name].ndata["x"][..., 2] for name in ("CH3", "benzene")]
    assert not any(z.any() for z in planar)


def test_every_node_is_moved_as_far_as_said(dtype):
    still = symmetric_graphs(dtype)
    for displacement in (1e-3, 0.1):
        for name, G in symmetric_graphs(dtype, displacement).items():
            moved = (G.ndata["x"] - still[name].ndata["x"]).norm(dim=-1)
            torch.testing.assert_close(moved, torch.full_like(moved, displacement), rtol=0, atol=1e-6)
            assert [torch.equal(*ends) for ends in zip(G.edges(), still[name].edges(), strict=True)] == [True, True]


def test_directions_are_of_the_seed():
    def directions(displacement, seed):
        x = symmetric_graphs(torch.float64, displacement, seed)["benzene"].ndata["x"]
        return (x - symmetric_graphs(torch.float64)["benzene"].ndata["x"]) / displacement

    torch.testing.assert_close(directions(0.1, 1), directions(0.2, 1))
    assert not torch.allclose(directions(0.1, 1), directions(0.1, 2))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"dtype must be torch\.float32 or torch\.float64, got torch\.float16"):
        symmetric_graphs(torch.float16)
    for wrong in (-1e-3, math.inf, math.nan, "large"):
        with pytest.raises(ValueError, match="displacement must be finite and at least 0"):
            symmetric_graphs(displacement=wrong)
    with pytest.raises(ValueError, match="seed must be a whole number of at least 0"):
        symmetric_graphs(seed=1.5)
