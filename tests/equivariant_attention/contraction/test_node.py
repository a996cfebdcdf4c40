import pytest
import torch

from equivariant_attention.contraction import use_backend
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
