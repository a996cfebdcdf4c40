import pytest
import torch

from benchmarks.launches import Counted
from equivariant_attention import contraction
from equivariant_attention.contraction import cost, cpp, use_backend
from equivariant_attention.contraction.convolution import pairwise
from equivariant_attention.fibers import Fiber
from equivariant_attention.kernels import launch
from equivariant_attention.modules import GConvSE3Partial, get_basis_and_r
from equivariant_attention.native.calls import not_built
from equivariant_attention.neighbors import fully_connected_graph, knn_graph
from equivariant_attention.plan import Plan
from tests.cases import random_features


def choice(G, channels, pairs_share=True, has_cpp=False):
    names = ["cpp", "cpp-node"] if has_cpp else ["frame", "node"]
    return cost.fastest(names, pairwise(Fiber(4, channels), (Fiber(4, channels // 2),) * 2), Plan(G), pairs_share)


def molecules(atoms):
    return fully_connected_graph(torch.randn(3 * atoms, 3), torch.arange(3).repeat_interleave(atoms))


def test_many_neighbours_and_channels_are_for_the_node_order():
    assert choice(molecules(3), 32) == "frame"
    assert choice(molecules(10), 32) == "frame"
    assert choice(molecules(18), 32) == "node"
    assert choice(molecules(40), 32) == "node"
    assert choice(molecules(40), 8) == "frame"


def test_radial_weights_that_are_not_shared_are_for_the_node_order():
    assert choice(molecules(18), 32, pairs_share=False) == "node"
    assert choice(molecules(40), 8, pairs_share=False) == "frame"  # .74 of the time of 'node'
    assert choice(knn_graph(torch.randn(30, 3), 2), 32, pairs_share=False) == "frame"


def test_in_cpp_many_neighbours_and_channels_are_for_the_node_order():
    """As measured: 'cpp-node' takes 1.25 of the time of 'cpp', then 0.76, 0.55, 1.9, 4.8."""
    assert choice(molecules(18), 32, has_cpp=True) == "cpp"
    assert choice(molecules(40), 32, has_cpp=True) == "cpp-node"
    assert choice(molecules(40), 64, has_cpp=True) == "cpp-node"
    assert choice(molecules(40), 8, has_cpp=True) == "cpp"
    assert choice(knn_graph(torch.randn(30, 3), 2), 32, has_cpp=True) == "cpp"


def test_in_cpp_radial_weights_that_are_not_shared_are_for_the_node_order():
    """As measured: 0.69 of the time of 'cpp', 1.17, 2.1."""
    assert choice(molecules(18), 32, pairs_share=False, has_cpp=True) == "cpp-node"
    assert choice(knn_graph(torch.randn(100, 3), 8), 32, pairs_share=False, has_cpp=True) == "cpp"
    assert choice(knn_graph(torch.randn(100, 3), 4), 32, pairs_share=False, has_cpp=True) == "cpp"


def counted(backend, layer, G):
    """Launches and bytes of a training step on a GPU."""
    values = random_features(layer.f_in, G.num_nodes(), torch.float32)
    plan = Plan(G)
    _ = plan.out_edges, plan.by_source
    with launch.recorded() as record, use_backend(backend), Counted(record) as count:
        basis, r = get_basis_and_r(G, 1, plan=plan)
        count.total()
        output = layer({d: v.requires_grad_() for d, v in values.items()}, G=G, r=r, basis=basis)
        sum(v.sum() for v in output.values()).backward()
        found = count.total()
    return found["launches"], 1e9 * found["gigabytes"]


@pytest.mark.parametrize("price_of_a_launch", [cost.LAUNCH, 0])
@pytest.mark.parametrize("channels", [8, 64])
def test_on_a_gpu_prices_are_those_of_what_is_counted(channels, price_of_a_launch, monkeypatch):
    """Of a small graph launches are most, and bytes alone tell what is best for a large one."""
    pytest.importorskip("triton")
    monkeypatch.setattr(cost, "LAUNCH", price_of_a_launch)
    cost._seconds.cache_clear()
    fiber, G = Fiber(2, channels), molecules(8)
    layer, found = GConvSE3Partial(fiber, fiber), {}
    for name in ("triton", "frame", "node"):
        launches, num_bytes = counted(name, layer, G)
        found[name] = 1e-9 * (price_of_a_launch * launches + cost.BYTE * num_bytes)
    estimates = cost.seconds(pairwise(fiber, (fiber,)), Plan(G), pairs_share=True, on_gpu_of=4)
    cost._seconds.cache_clear()
    assert sorted(estimates, key=estimates.__getitem__) == sorted(found, key=found.__getitem__)


@pytest.mark.parametrize(
    ("atoms", "channels", "itemsize", "best"),
    [
        (3, 8, 4, "triton"),
        (18, 32, 4, "triton"),
        (18, 128, 8, "triton"),
        (80, 64, 8, "triton"),
        (80, 66, 8, "node"),  # which 'triton' would pad to 128
        (80, 128, 4, "triton"),
        (80, 128, 8, "node"),
        (80, 256, 4, "node"),
    ],
)
def test_on_a_gpu_very_many_neighbours_and_channels_are_for_the_node_order(atoms, channels, itemsize, best):
    sizes = pairwise(Fiber(4, channels), (Fiber(4, channels // 2),) * 2), Plan(molecules(atoms)), False, itemsize
    assert cost.fastest(["frame", "node", "triton"], *sizes) == best
    estimates = cost.seconds(*sizes)
    assert (5 if channels != 66 else 1) * estimates["triton"] < estimates["frame"]


def test_on_a_gpu_without_triton_the_node_order_is_for_many_neighbours_and_edges():
    def best(molecules, neighbours):
        G = knn_graph(torch.randn(molecules * 100, 3), neighbours)
        sizes = pairwise(Fiber(4, 32), (Fiber(4, 16),) * 2), Plan(G), False, 4
        return cost.fastest(["frame", "node"], *sizes)

    assert best(1, 4) == "frame"
    assert best(20, 4) == "frame"
    assert best(20, 40) == "node"


@pytest.mark.parametrize(("channels", "dtype"), [(4, torch.float32), (72, torch.float32), (72, torch.float64)])
def test_on_a_gpu_triton_runs(channels, dtype):
    pytest.importorskip("triton")
    G, fiber = molecules(3), Fiber(2, channels)
    G.edata["d"] = G.edata["d"].to(dtype)
    basis, r = get_basis_and_r(G, 1)
    with launch.recorded() as record:
        GConvSE3Partial(fiber, fiber).to(dtype)(random_features(fiber, G.num_nodes(), dtype), G=G, r=r, basis=basis)
    assert [one.name for one in record] == ["turned", "networks", "messages", "turned_back"]


@pytest.mark.parametrize("captured", [False, True])
def test_the_node_order_is_not_captured(captured, monkeypatch):
    """Its blocks are those of one graph; a CUDA graph is replayed for others."""
    asked = []
    monkeypatch.setattr(cost, "fastest", lambda names, *rest: asked.extend(names) or "frame")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: captured)
    G, fiber = molecules(3), Fiber(2, 2)
    basis, r = get_basis_and_r(G, 1)
    with launch.recorded():
        GConvSE3Partial(fiber, fiber)(random_features(fiber, G.num_nodes(), torch.float32), G=G, r=r, basis=basis)
    assert set(asked) == {"triton", "frame", "node"} - ({"node"} if captured else set())


@pytest.mark.parametrize("best", ["frame", "cpp", "node", "cpp-node"])
def test_the_cheapest_order_runs(best, monkeypatch):
    ran = []
    for name in ("frame", "cpp", "node", "cpp-node"):
        original = contraction.BACKENDS[name]
        monkeypatch.setitem(
            contraction.BACKENDS, name, lambda *a, name=name, original=original: ran.append(name) or original(*a)
        )
    if best in cpp.SOURCES and (reason := not_built(cpp.SOURCES[best])):
        pytest.skip(reason)
    monkeypatch.setattr(cost, "fastest", lambda *arguments: best)
    G, fiber = molecules(4), Fiber(2, 3)
    layer = GConvSE3Partial(fiber, fiber)
    basis, r = get_basis_and_r(G, 1)
    layer(random_features(fiber, G.num_nodes(), torch.float32), G=G, r=r, basis=basis)
    assert ran == [best]
