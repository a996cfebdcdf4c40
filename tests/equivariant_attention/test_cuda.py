"""What only a GPU can show: no waiting for it, and a training step captured as a CUDA graph."""

import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GNormSE3, GSE3Res, get_basis_and_r
from equivariant_attention.plan import Plan
from tests.cases import random_features, random_graph

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
FIBER = Fiber(3, 4)


def training_step(backend="frame"):
    """A function that computes gradients on the GPU, and where they are left."""
    cpu = random_graph(torch.float32, edge_dim=2)
    plan, G = Plan(cpu).to("cuda"), cpu.to("cuda")
    layers = torch.nn.ModuleList([GSE3Res(FIBER, FIBER, edge_dim=2, n_heads=2), GNormSE3(FIBER)]).cuda()
    features = {d: v.cuda() for d, v in random_features(FIBER, G.num_nodes(), torch.float32).items()}

    def step():
        with use_backend(backend):
            basis, r = get_basis_and_r(G, 2, plan=plan)
            h = features
            for layer in layers:
                h = layer(h, G=G, r=r, basis=basis)
            sum(v.square().sum() for v in h.values()).backward()

    return step, list(layers.parameters())


@pytest.mark.parametrize("backend", ["frame", "node", "edge", "oracle"])
def test_the_host_never_waits_given_a_plan(backend):
    step, _ = training_step(backend)
    step()  # constants are made by the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_training_step_is_captured():
    step, parameters = training_step()
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
