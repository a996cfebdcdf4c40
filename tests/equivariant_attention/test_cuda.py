"""What only a GPU can show, of every backend: values, derivatives, equivariance, the same bits again; no waiting,
and a training step captured as a CUDA graph. Tests with a ``device`` run on a CPU too.
"""

from functools import partial

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.kernels.launch import missing
from equivariant_attention.modules import GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.neighbors import knn_graph, radius_graph
from equivariant_attention.padding import Sizes, padded
from equivariant_attention.plan import Plan
from equivariant_attention.so3 import random_rotation, wigner_d
from tests.cases import random_features, random_graph
from tests.equivariant_attention.contraction.test_contraction import undirected_graph

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FIBER = Fiber(3, 4)
BACKENDS = ["frame", "node", "edge", "oracle", "triton"]
TOLERANCE = {
    "highest": 1e-5,
    "high": 3e-3,
    "medium": 3e-2,
}  # of radial weights, and in 'edge' and 'oracle' of derivatives, which are autograd's own


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "triton" and (reason := missing(torch.device("cuda"))):
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=["cuda", "cpu"])
def device(request):
    """The GPU, and the CPU: so that what a test does is tried where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


@pytest.fixture(params=TOLERANCE)
def precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def case():
    """Layers, a graph and features, in float64 on the CPU."""
    layers = torch.nn.ModuleList([GSE3Res(FIBER, FIBER, edge_dim=2, div=2, n_heads=2), GNormSE3(FIBER)]).double()
    G = undirected_graph(edge_dim=2)
    return layers, G, random_features(FIBER, G.num_nodes(), torch.float64)


def on_device(G, device, dtype, rotation=None):
    """The graph there, turned."""
    moved = Graph(*G.edges(), num_nodes=G.num_nodes())
    turned = G.edata["d"] if rotation is None else G.edata["d"] @ rotation.T
    moved.edata["d"], moved.edata["w"] = turned.to(dtype), G.edata["w"].to(dtype)
    return Plan(moved).to(device), moved.to(device)


def evaluated(backend, layers, G, features, device, dtype, rotation=None):
    """Values, and derivatives by parameters and features, on a device."""
    plan, graph = on_device(G, device, dtype, rotation)
    layers = layers.to(device, dtype)
    h = {}
    for degree, v in features.items():
        turned = v if rotation is None else v @ wigner_d(int(degree), rotation).T
        h[degree] = turned.to(device, dtype).requires_grad_()
    leaves = [*h.values(), *layers.parameters()]
    with use_backend(backend):
        basis, r = get_basis_and_r(graph, 2, plan=plan)
        for layer in layers:
            h = layer(h, G=graph, r=r, basis=basis)
        gradients = torch.autograd.grad(sum(v.square().sum() for v in h.values()), leaves)
    return [*h.values()], gradients


def assert_near(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert float((a.detach().double().cpu() - b.detach().cpu()).norm()) <= tolerance * float(b.detach().norm())


@needs_gpu
def test_values_and_derivatives_are_those_in_float64_on_the_cpu(backend, precision):
    layers, G, features = case()
    expected = evaluated("frame", layers, G, features, "cpu", torch.float64)
    found = evaluated(backend, layers, G, features, "cuda", torch.float32)
    for a, b in zip(found, expected, strict=True):
        assert_near(a, b, TOLERANCE[precision])


@needs_gpu
def test_equivariance(backend):
    layers, G, features = case()
    rotation = random_rotation(dtype=torch.float64)
    values, _ = evaluated(backend, layers, G, features, "cuda", torch.float32)
    turned, _ = evaluated(backend, layers, G, features, "cuda", torch.float32, rotation)
    expected = [v.detach().double().cpu() @ wigner_d(l, rotation).T for l, v in enumerate(values)]
    assert_near(turned, expected, 1e-5)


@needs_gpu
@pytest.mark.skipif(not torch.cuda.is_available() or bool(missing(torch.device("cuda"))), reason="needs Triton")
def test_the_same_bits_again():
    layers, G, features = case()
    first, second = (evaluated("triton", layers, G, features, "cuda", torch.float32) for _ in range(2))
    assert all(
        torch.equal(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)
    )


def second_derivatives(backend, device, dtype):
    """Of a layer: first ones by relative positions and features; and by these and parameters, those of their norms."""
    torch.manual_seed(0)
    layers, G, features = case()
    layers, (plan, graph) = layers.to(device, dtype), on_device(G, device, dtype)
    h = {degree: v.to(device, dtype).requires_grad_() for degree, v in features.items()}
    leaves = [graph.edata["d"].requires_grad_(), *h.values()]
    with use_backend(backend):
        basis, r = get_basis_and_r(graph, 2, compute_gradients=True, plan=plan)
        values = h
        for layer in layers:
            values = layer(values, G=graph, r=r, basis=basis)
        first = torch.autograd.grad(sum(v.square().sum() for v in values.values()), leaves, create_graph=True)
        second = torch.autograd.grad(sum(d.square().sum() for d in first), [*leaves, *layers.parameters()])
    return first, second


@pytest.mark.parametrize("name", BACKENDS)
def test_second_derivatives_are_those_in_float64_on_the_cpu(device, name):
    if name == "triton" and (reason := missing(torch.device(device))):
        pytest.skip(reason)
    expected = second_derivatives("oracle", "cpu", torch.float64)
    for found, those in zip(second_derivatives(name, device, torch.float32), expected, strict=True):
        assert_near(found, those, 1e-4)


@pytest.mark.parametrize(
    "make", [partial(knn_graph, k=5), partial(radius_graph, radius=1.0)], ids=lambda make: make.func.__name__
)
def test_neighbours_are_those_on_the_cpu(device, make):
    """Of graphs in a batch, one of them with fewer nodes than neighbours that are asked for."""
    x, batch = torch.randn(90, 3), torch.arange(3).repeat_interleave(torch.tensor([50, 3, 37]))
    expected, found = make(x, batch=batch), make(x.to(device), batch=batch.to(device))
    assert {v.device.type for v in (*found.edges(), found.edata["d"])} == {device}
    of_both = [sorted(zip(*(v.tolist() for v in one.edges()), strict=True)) for one in (found, expected)]
    assert of_both[0] == of_both[1] != []
    src, dst = found.edges()
    torch.testing.assert_close(found.edata["d"].reshape(-1, 3), x.to(device)[dst] - x.to(device)[src])


def test_float64_is_refused_where_triton_is_too_old(device, monkeypatch):
    """By name; where none is named, PyTorch computes."""
    triton = pytest.importorskip("triton")
    if device == "cpu" and not missing(torch.device(device)):
        pytest.skip("Triton's interpreter knows float64 in all versions")
    monkeypatch.setattr(triton, "__version__", "3.8.0")
    layers, G, features = case()
    reason = "Triton 3.9 or later for torch.float64" if device == "cuda" else "tensors on CUDA"
    with pytest.raises(ValueError, match=f"backend 'triton' cannot run here: .*{reason}"):
        evaluated("triton", layers, G, features, device, torch.float64)
    found = evaluated(None, layers, G, features, device, torch.float64)
    for a, b in zip(found, evaluated("oracle", layers, G, features, "cpu", torch.float64), strict=True):
        assert_near(a, b, 1e-10)


def training_step(backend):
    """A function that computes gradients on the GPU, and where they are left."""
    layers, G, features = case()
    plan, graph = on_device(G, "cuda", torch.float32)
    layers = layers.to("cuda", torch.float32)
    features = {d: v.to("cuda", torch.float32) for d, v in features.items()}

    def step():
        with use_backend(backend):
            basis, r = get_basis_and_r(graph, 2, plan=plan)
            h = features
            for layer in layers:
                h = layer(h, G=graph, r=r, basis=basis)
            sum(v.square().sum() for v in h.values()).backward()

    return step, list(layers.parameters())


@needs_gpu
def test_the_host_never_waits_given_a_plan(backend):
    step, _ = training_step(backend)
    step()  # constants are made by the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.parametrize("name", ["frame", "triton"])
def test_a_training_step_is_captured(name):
    if name == "triton" and (reason := missing(torch.device("cuda"))):
        pytest.skip(reason)
    step, parameters = training_step(name)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            for p in parameters:
                p.grad = None
            step()
    torch.cuda.current_stream().wait_stream(stream)
    expected = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for p in parameters:
        p.grad.fill_(torch.nan)
    graph.replay()
    for p, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)


def padded_batches():
    """Batches of one size, with targets of the graphs that are not padding."""
    batches = []
    for _ in range(6):
        G = random_graph(torch.float32, edge_dim=4)
        src, dst = G.edges()
        G.edata["w"][:] = (src + dst).float().sin()[:, None]
        G.ndata["f"] = torch.randn(G.num_nodes(), 6, 1)
        plan = Plan(G)
        batches.append((*padded(G, plan, Sizes(nodes=32, edges=128, graphs=4, pairs=48)), torch.randn(3, 1)))
    return batches


def losses(folder, name, batches, recorder):
    """Of training steps on the batches, twice, and the weights after them."""
    from experiments.qm9.evaluation import batch_loss
    from experiments.qm9.models import SE3Transformer
    from experiments.qm9.scaling import Scaled
    from utils.training import Trainer, cosine_schedule, make_fabric

    torch.manual_seed(0)
    model = Scaled(SE3Transformer(2, 6, 8, num_degrees=3, edge_dim=4, div=2, n_heads=2))

    def adam(flat):
        return torch.optim.AdamW(flat.whole, lr=1e-3, fused=True, capturable=True)

    schedule, fabric = partial(cosine_schedule, steps=20), make_fabric("cuda", "32-true")
    options = {"clip_norm": 1.0, "ema": 0.9, "recorder": recorder}
    trainer = Trainer(fabric, model, adam, schedule, batch_loss, folder, **options)
    with use_backend(name):
        found = [trainer.take_step(batch).read()[1]["loss"] for batch in 2 * batches]
    return found, trainer.flat.copied(), [average.clone() for average in trainer.average.module]


@needs_gpu
@pytest.mark.filterwarnings("ignore:This instance was constructed with capturable=True")
@pytest.mark.parametrize("name", ["frame", "triton"])
def test_replayed_training_steps_are_the_steps(tmp_path, name):
    if name == "triton" and (reason := missing(torch.device("cuda"))):
        pytest.skip(reason)
    from utils.capture import CudaGraphs

    batches, recorder = padded_batches(), CudaGraphs(torch.device("cuda"))
    expected = losses(tmp_path, name, batches, None)
    found = losses(tmp_path, name, batches, recorder)
    assert found[0] == pytest.approx(expected[0], rel=1e-3)
    for a, b in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-4)


@needs_gpu
def test_a_plan_and_a_graph_are_refilled_from_the_host():
    batches = padded_batches()
    (G, plan, _), (other, others_plan, _) = ((G.to("cuda"), plan.to("cuda"), y) for G, plan, y in batches[:2])
    more, its_plan, _ = batches[1]
    G.refill(more.pin_memory())
    plan.refill(its_plan.pin_memory())
    for found, expected in ((G, other), (plan, others_plan)):
        for name, value in expected.tensors().items():
            assert torch.equal(found.tensors()[name], value)
    plan.check(G)
