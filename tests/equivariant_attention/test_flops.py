"""What PyTorch's counter finds, against counts by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import equivariant_attention.flops  # noqa: F401
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GMABSE3, G1x1SE3, GConvSE3Partial, get_basis_and_r
from equivariant_attention.native import attention
from equivariant_attention.native.calls import not_built
from tests.cases import random_features

pytestmark = pytest.mark.skipif(bool(not_built(attention.SOURCE)), reason=not_built(attention.SOURCE))
FIBER = Fiber(structure=[(2, 0), (3, 1)])


def ring(nodes=5):
    """Each node leads to the next, and back, except from the last to the first: an edge without a reverse."""
    src, dst = torch.arange(nodes), torch.arange(1, nodes + 1) % nodes
    G = Graph(torch.cat([src, dst[:-1]]), torch.cat([dst, src[:-1]]), nodes)
    angle = torch.arange(nodes) * 2.0
    x = torch.stack([angle.cos(), angle.sin(), angle], dim=-1)
    G.edata["d"] = x[G.edges()[1]] - x[G.edges()[0]]
    return G


def counted(function):
    """Multiplications, of each of the library's operators: half of what is counted."""
    with FlopCounterMode(display=False) as counter:
        sum(v.square().sum() for v in function()).backward()
    total = counter.get_flop_counts()["Global"]
    return {str(k).split(".")[-1]: v / 2 for k, v in total.items() if "equivariant_attention" in str(k)}


def test_linear():
    features = {d: v.requires_grad_() for d, v in random_features(FIBER, 5, torch.float32).items()}
    layer = G1x1SE3(FIBER, Fiber(structure=[(4, 0), (6, 1)]))
    forward = 5 * (4 * 2 + 6 * 3 * 3)
    assert counted(lambda: layer(features).values()) == {"linear": forward, "linear_gradient": 2 * forward}


def test_second_derivatives():
    features = {d: 2 * v.requires_grad_() for d, v in random_features(FIBER, 5, torch.float32).items()}
    layer = G1x1SE3(FIBER, FIBER)
    forward = 5 * (2 * 2 + 3 * 3 * 3)

    def first():
        loss = sum(v.square().sum() for v in layer(features).values())
        return torch.autograd.grad(loss, [*features.values()], create_graph=True)

    assert counted(first) == {"linear": forward, "linear_gradient": 2 * 2 * forward, "linear_second": 4 * forward}


def test_attention():
    G, fiber = ring(), Fiber(structure=[(4, 0), (2, 1)])
    v, k = ({d: u.requires_grad_() for d, u in random_features(fiber, 9, torch.float32).items()} for _ in range(2))
    layer, q = GMABSE3(fiber, fiber, n_heads=2), random_features(fiber, 5, torch.float32)
    forward = 9 * 2 * (4 + 2 * 3)
    assert counted(lambda: layer(v, k, q, G=G).values()) == {"attention": forward, "attention_gradient": 2 * forward}


HIDDEN = 4 * 32 * (1 + 32)  # two layers of the radial networks of four pairs of degrees
# Of the pairs (0,0), (1,0), (0,1) and (1,1), channels in x channels out x (2 min(k, l) + 1).
EDGE_FIRST = (
    5 * (HIDDEN + 32 * (2 * 4 + 3 * 4 + 2 * 6 + 3 * 6 * 3))  # radial weights: four of nine edges share those of others
    + 9 * (2 * 4 + 3 * 4 + 2 * 6 + 3 * 6 * 5)  # mixing
    + 9 * (3 * 9 + 6 * 9)  # three vectors turned into the frame, six turned back
)
NODE_FIRST = (
    5 * 32 * (2 * 4 + 3 * (4 * 3) + 2 * 6 + 3 * (6 * 3 * 3))  # the products of the nodes
    + 9 * (HIDDEN + 32 * (4 + 4 * 3 + 6 + 6 * 3 * 3))  # with hidden values
    + 9 * (4 + 4 * 3 + 6 + 6 * 5 * 3)  # with the rows of frames
    + 9 * (6 * 9)  # turned back
)


@pytest.mark.parametrize(("backend", "forward"), [("cpp", EDGE_FIRST), ("cpp-node", NODE_FIRST)])
def test_messages(backend, forward):
    G = ring()
    features = {d: v.requires_grad_() for d, v in random_features(FIBER, 5, torch.float32).items()}
    layer = GConvSE3Partial(FIBER, Fiber(structure=[(4, 0), (6, 1)]))
    basis, r = get_basis_and_r(G, 1)
    assert len(basis.plan.pairs) == 4
    with use_backend(backend):
        found = counted(lambda: layer(features, G=G, r=r, basis=basis).values())
    assert found == {"messages": forward, "messages_gradient": 2 * forward}
