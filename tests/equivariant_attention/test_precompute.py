import contextlib
import copy
import pickle

import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph, as_graph, batch
from equivariant_attention.modules import GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from tests.cases import as_kind, awkward_graph, random_features, random_graph

FIBER = Fiber(3, 4)
ROOMY = 2**24


def data_set(dtype=torch.float64, with_w=True):
    """Graphs with pairs and without, with edges of length zero, with isolated nodes, without edges."""
    without_edges = Graph([], [], 3)
    without_edges.edata["d"] = torch.zeros(0, 3, dtype=dtype)
    graphs = [random_graph(dtype, sizes=(n,)) for n in (5, 4, 7, 3)] + [awkward_graph(dtype), without_edges]
    for G in graphs:
        G.ndata.clear()
        if with_w:
            src, dst = G.edges()
            G.edata["w"] = ((src + dst) % 3 + (src > 4))[:, None].to(dtype)  # equal both ways, but not for all
    return graphs


def batch_of(graphs, keys, kind="own"):
    return as_kind(batch([graphs[i] for i in keys]), kind)


def assert_same(found, expected):
    (basis, r), (expected_basis, expected_r) = found, expected
    assert torch.equal(r, expected_r)
    assert torch.equal(basis.direction, expected_basis.direction)
    for frame, expected_frame in zip(basis.frames, expected_basis.frames, strict=True):
        torch.testing.assert_close(frame, expected_frame)
        assert frame.is_contiguous()
    for pair, value in expected_basis.items():
        torch.testing.assert_close(basis[pair], value)


def assert_same_plan(found, expected):
    assert vars(found).keys() == vars(expected).keys()
    for name in vars(expected).keys() - {"_versions"}:
        value = getattr(expected, name)
        torch.testing.assert_close(getattr(found, name), value, rtol=0, atol=0)


@pytest.mark.parametrize("with_w", [True, False])
def test_it_is_the_basis_of_the_batch(with_w, kind, dtype):
    graphs, cache = data_set(dtype, with_w), BasisCache(2, ROOMY)
    for _ in range(6):
        keys = torch.randperm(len(graphs))[:4].tolist()
        G = batch_of(graphs, keys, kind)
        basis, r = found = cache.get_basis_and_r(G, keys)
        assert_same(found, get_basis_and_r(G, 2))
        assert_same_plan(basis.plan, Plan(G))
        assert basis.is_of(as_graph(G).edata.get("w"), r)
        assert not basis.is_of(as_graph(G).edata.get("w"), r + 1)
    assert len(cache) == len(graphs)


def test_one_graph_alone_and_the_same_twice():
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    for keys in ([2], [2, 2], [5], [5, 5], [1, 2, 1]):
        G = batch_of(graphs, keys)
        assert_same(cache.get_basis_and_r(G, keys), get_basis_and_r(G, 2))
    assert len(cache) == 3


@pytest.mark.parametrize("as_keys", [torch.tensor, lambda keys: [torch.tensor(key) for key in keys], tuple])
def test_keys_in_tensors(as_keys):
    graphs, cache, keys = data_set(), BasisCache(2, ROOMY), [0, 4]
    for _ in range(2):
        cache.get_basis_and_r(batch_of(graphs, keys), as_keys(keys))
    assert len(cache) == 2
    assert 4 in cache


@pytest.mark.parametrize("max_degree", [0, 1])
def test_low_degrees(max_degree):
    graphs, cache = data_set(), BasisCache(max_degree, ROOMY)
    for keys in ([0, 4], [4, 0]):
        G = batch_of(graphs, keys)
        assert_same(cache.get_basis_and_r(G, keys), get_basis_and_r(G, max_degree))


def test_edges_of_length_zero_as_published():
    graphs, cache = data_set(), BasisCache(2, ROOMY, zero_edges="published")
    for keys in ([0, 4], [4, 2, 0]):
        G = batch_of(graphs, keys)
        found, expected = cache.get_basis_and_r(G, keys), get_basis_and_r(G, 2, zero_edges="published")
        assert_same(found, expected)
        assert len(expected[0].plan.zero_edges)
        assert not len(found[0].without_direction)
    with pytest.raises(ValueError, match="zero_edges must be one of"):
        BasisCache(2, ROOMY, zero_edges="up")


def test_what_is_kept_is_not_computed_again(monkeypatch):
    graphs, cache, seen = data_set(), BasisCache(2, ROOMY), []

    def counted(G, *args):
        seen.append(G.num_edges())
        return get_basis_and_r(G, *args)

    monkeypatch.setattr("equivariant_attention.precompute.get_basis_and_r", counted)
    for keys in ([0, 1], [1, 0], [3, 1, 2], [2, 3]):
        cache.get_basis_and_r(batch_of(graphs, keys), keys)
    edges = [G.num_edges() for G in graphs]
    assert seen == [edges[0] + edges[1], edges[3] + edges[2]]


@pytest.mark.parametrize("mode", [contextlib.nullcontext, torch.no_grad, torch.inference_mode])
def test_outputs_and_gradients_of_a_layer(mode):
    graphs, cache = data_set(torch.float64), BasisCache(2, ROOMY)
    layer, keys = GSE3Res(FIBER, FIBER, edge_dim=1, div=2, n_heads=2).double(), [4, 0, 5, 2]
    with mode(), torch.autocast("cpu", torch.bfloat16):
        cache.get_basis_and_r(batch_of(graphs, keys), keys)  # must leave no trace of the mode
    G = batch_of(graphs, keys)
    h = random_features(FIBER, G.num_nodes(), torch.float64)
    results = []
    for basis, r in (cache.get_basis_and_r(G, keys), get_basis_and_r(G, 2)):
        features = {d: v.clone().requires_grad_() for d, v in h.items()}
        output = layer(features, G=G, r=r, basis=basis)
        inputs = [*features.values(), *layer.parameters()]
        loss = sum(v.square().sum() for v in output.values())
        results.append([*output.values(), *torch.autograd.grad(loss, inputs, allow_unused=True)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_graph_made_in_inference_mode():
    cache = BasisCache(2, ROOMY)
    with torch.inference_mode():
        graphs = data_set(torch.float32)
        cache.get_basis_and_r(batch_of(graphs, [0, 4]), [0, 4])
    (basis, r), layer = cache.get_basis_and_r(batch_of(graphs, [0, 4]), [0, 4]), GSE3Res(FIBER, FIBER, edge_dim=1)
    assert not any(tensor.is_inference() for tensor in (r, basis.direction, basis.plan.order, *basis.frames))
    G = batch_of(graphs, [0, 4])
    output = layer(random_features(FIBER, G.num_nodes(), torch.float32), G=G, r=r, basis=basis)
    output["1"].sum().backward()


def test_the_cap_is_respected_and_the_graphs_used_longest_ago_go_first():
    graphs = data_set()
    size = {}
    for i, G in enumerate(graphs):
        one = BasisCache(2, ROOMY)
        one.get_basis_and_r(G, [i])
        size[i] = one.num_bytes
        assert one.num_bytes > sum(t.nbytes for t in one.get_basis_and_r(G, [i])[0].frames)
    cache = BasisCache(2, size[0] + size[1] + size[2])
    for keys, kept in (([0, 1], {0, 1}), ([2], {0, 1, 2}), ([0], {0, 1, 2}), ([3], {0, 2, 3}), ([1], {0, 1, 3})):
        assert_same(cache.get_basis_and_r(batch_of(graphs, keys), keys), get_basis_and_r(batch_of(graphs, keys), 2))
        assert {i for i in range(len(graphs)) if i in cache} == kept
        assert len(cache) == len(kept)
        assert cache.num_bytes == sum(size[i] for i in kept) <= cache.max_bytes
    cache.clear()
    assert len(cache) == cache.num_bytes == 0


@pytest.mark.parametrize("max_bytes", [0, 5000])
def test_a_batch_larger_than_the_cap(max_bytes):
    graphs, cache, keys = data_set(), BasisCache(2, max_bytes), [0, 1, 2, 3, 4, 5]
    for _ in range(2):
        G = batch_of(graphs, keys)
        assert_same(cache.get_basis_and_r(G, keys), get_basis_and_r(G, 2))
        assert cache.num_bytes <= max_bytes


def test_what_is_kept_holds_no_other_memory():
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    cache.get_basis_and_r(batch_of(graphs, [0, 1, 4]), [0, 1, 4])
    for kept in cache._kept.values():
        for tensor in (kept.edges, kept.order, kept.zero_edges, kept.d, kept.frames):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


def test_repr():
    cache = BasisCache(2, 100)
    assert repr(cache) == "BasisCache(max_degree=2, max_bytes=100, graphs=0, num_bytes=0)"


def test_wrong_arguments():
    with pytest.raises(ValueError, match="max_degree must be a whole number of at least 0, got -1"):
        BasisCache(-1, 100)
    with pytest.raises(ValueError, match=r"max_bytes must be a whole number of at least 0, got 1000000000\.0"):
        BasisCache(2, 1e9)


def test_keys_that_do_not_fit():
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    cache.get_basis_and_r(batch_of(graphs, [0, 1]), [0, 1])
    with pytest.raises(ValueError, match="keys must be as many as G has graphs, and at least one, got 1 for 2"):
        cache.get_basis_and_r(batch_of(graphs, [0, 1]), [0])
    with pytest.raises(ValueError, match="keys must name the graphs of G: 1 is that of a graph with 4 nodes and"):
        cache.get_basis_and_r(batch_of(graphs, [0, 2]), [0, 1])
    G = batch_of(graphs, [0, 2])
    G.set_batch_num_edges([G.num_edges()])
    with pytest.raises(ValueError, match="G must have as many batch_num_edges as batch_num_nodes, 2, got 1"):
        cache.get_basis_and_r(G, [0, 2])


def test_values_that_changed():
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    G = graphs[0]
    cache.get_basis_and_r(G, [0])
    G.edata["d"] = G.edata["d"].flip(-1)
    with pytest.raises(RuntimeError, match=r"keys must name the graphs of G: edata\['d'\] is not as it was kept"):
        cache.get_basis_and_r(G, [0])
    G.edata["d"] = G.edata["d"].flip(-1)
    G.edata["w"] = torch.rand_like(G.edata["w"])
    with pytest.raises(RuntimeError, match=r"no longer agree in edata\['w'\]"):
        cache.get_basis_and_r(G, [0])


def test_a_key_of_other_edges_between_the_same_positions():
    """Of equal counts, in a lattice; alone and in a batch."""
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    G = graphs[0]
    cache.get_basis_and_r(batch_of(graphs, [0, 1]), [0, 1])
    for src, dst in ((G.edges()[0].roll(1), G.edges()[1]), (G.edges()[0], G.edges()[1].roll(1))):
        other = Graph(src, dst, G.num_nodes())
        other.edata.update(G.edata)
        for alike in ([other, graphs[1]], [graphs[1], other]):
            with pytest.raises(RuntimeError, match=r"keys must name the graphs of G: .* edges lead elsewhere"):
                cache.get_basis_and_r(batch(alike), [0, 1] if alike[0] is other else [1, 0])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_copy_of_a_cache_is_as_good(copied):
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    cache.get_basis_and_r(batch_of(graphs, [0, 1]), [0, 1])
    G = batch_of(graphs, [1, 2, 0])
    found = copied(cache).get_basis_and_r(G, [1, 2, 0])
    assert_same(found, get_basis_and_r(G, 2))
    assert_same_plan(found[0].plan, Plan(G))


def test_what_a_cache_gives_is_its_own_whatever_becomes_of_the_graph():
    graphs, cache = data_set(), BasisCache(2, ROOMY)
    G = batch_of(graphs, [0, 4])
    basis, r = cache.get_basis_and_r(G, [0, 4])
    layer, h = GSE3Res(FIBER, FIBER, edge_dim=1).double(), random_features(FIBER, G.num_nodes(), torch.float64)
    layer(h, G=G, r=r, basis=basis)
    G.edges()[0][0] += 1
    with pytest.raises(ValueError, match="basis must be of this graph: src was written to after get_basis_and_r"):
        layer(h, G=G, r=r, basis=basis)


def test_positions_that_require_a_gradient():
    G = data_set()[0]
    G.edata["d"].requires_grad_()
    with pytest.raises(ValueError, match=r"edata\['d'\] must not require a gradient"):
        BasisCache(2, ROOMY).get_basis_and_r(G, [0])


def test_another_dtype_or_device():
    cache = BasisCache(2, ROOMY)
    cache.get_basis_and_r(data_set()[0], [0])
    with pytest.raises(TypeError, match=r"must be torch\.float64, as that of the graphs before, got torch\.float32"):
        cache.get_basis_and_r(data_set(torch.float32)[1], [1])
    cache._kind = torch.float64, torch.device("meta")
    with pytest.raises(ValueError, match="must be on meta, as that of the graphs before, got cpu"):
        cache.get_basis_and_r(data_set()[1], [1])
    cache.clear()
    cache.get_basis_and_r(data_set(torch.float32)[1], [1])
