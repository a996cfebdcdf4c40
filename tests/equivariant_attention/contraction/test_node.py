import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from equivariant_attention.contraction import node, use_backend
from equivariant_attention.contraction.convolution import pairwise
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3, GConvSE3Partial, get_basis_and_r
from tests.cases import FULL, MIXED, random_features, random_graph


def hub(leaves, dtype=torch.float64):
    """One node that sends to all others, one of which answers."""
    G = Graph([*[0] * leaves, 1], [*range(1, leaves + 1), 0])
    G.edata["d"] = torch.randn(leaves + 1, 3, dtype=dtype)
    return G


@pytest.mark.parametrize("leaves", [1, 64, 65, 200])
def test_a_node_of_very_many_edges(leaves):
    G = hub(leaves)
    layer = GConvSE3Partial(MIXED, FULL, x_ij="add").double()
    features = random_features(MIXED, G.num_nodes(), torch.float64)
    basis, r = get_basis_and_r(G, 3)
    messages = []
    for backend in ("oracle", "node"):
        with use_backend(backend):
            messages.append(layer(features, G=G, r=r, basis=basis))
    for degree, expected in messages[0].items():
        torch.testing.assert_close(messages[1][degree], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("fiber_in", [Fiber(1, 6), MIXED])
def test_work_counts_the_products_that_are_made(fiber_in):
    src = torch.arange(4).repeat_interleave(3)  # every row as long as the others
    G = Graph(src, (src + torch.arange(12) % 3 + 1) % 4)
    G.edata["d"] = torch.randn(12, 3)
    layer = GConvSE3Partial(fiber_in, FULL)
    basis, r = get_basis_and_r(G, 3)
    assert all(W.isfinite().all() for W in basis.values())  # formed now, and not counted below
    features = random_features(fiber_in, 4, torch.float32)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), use_backend("node"), counter:
        layer(features, G=G, r=r, basis=basis)
    kernels = len(fiber_in.degrees) * len(FULL.degrees)
    hidden = 12 * kernels * (32 * 1 + 32 * 32)
    by_basis = counter.get_total_flops() / 2 - hidden
    assert node.work(pairwise(fiber_in, (FULL,)), 4, 12) == pytest.approx(by_basis, rel=1e-3)


def test_under_autocast_messages_are_made_in_full_precision():
    G = random_graph(torch.float32)
    layer = GConvSE3(MIXED, FULL)
    features = {d: v.requires_grad_() for d, v in random_features(MIXED, G.num_nodes(), torch.float32).items()}
    basis, r = get_basis_and_r(G, 3)
    found = []
    for enabled in (False, True):
        with use_backend("node"), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = layer(features, G=G, r=r, basis=basis)
            loss = sum(v.float().square().sum() for v in output.values())
            found.append([*output.values(), *torch.autograd.grad(loss, [*features.values()])])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value.float(), expected)
