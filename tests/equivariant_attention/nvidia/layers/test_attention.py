import pytest
import torch

from equivariant_attention.contraction import use_backend
from equivariant_attention.nvidia import (
    AttentionBlockSE3,
    AttentionSE3,
    ConvSE3FuseLevel,
    Fiber,
    get_populated_edge_features,
)
from tests.cases import BACKENDS_HERE
from tests.equivariant_attention.nvidia import oracle
from tests.equivariant_attention.nvidia.cases import features, graph

SHAPES = [
    ({0: 4}, {0: 8, 1: 8, 2: 8}, 2),
    ({0: 4, 1: 3}, {0: 8, 1: 4}, 2),
    ({0: 8, 1: 8}, {0: 8, 1: 8}, 4),
    ({1: 2}, {0: 4, 1: 4}, {"0": 2, "1": 1}),
]


def case(fiber_in, fiber_out, channels_div, num_heads=2, **options):
    G = graph()
    block = AttentionBlockSE3(
        Fiber(fiber_in), Fiber(fiber_out), Fiber({0: 2}), num_heads, channels_div, max_degree=2, **options
    ).double()
    node = features(fiber_in, G.num_nodes())
    edge = get_populated_edge_features(G.edata["rel_pos"], features({0: 2}, G.num_edges()))
    return block, node, edge, G


def expected(block, node, edge, G, num_heads=2):
    by_number = [{int(d): v for d, v in part.items()} for part in (node, edge)]
    fiber_out = dict(block.fiber_out.items())
    weights, positions = dict(block.named_parameters()), G.edata["rel_pos"]
    return oracle.attention(weights, *by_number, *G.edges(), positions, fiber_out, num_heads, block.divisors)


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("level", ConvSE3FuseLevel)
@pytest.mark.parametrize(("fiber_in", "fiber_out", "div"), SHAPES)
def test_it_is_that_of_the_oracle(fiber_in, fiber_out, div, level, backend):
    block, node, edge, G = case(fiber_in, fiber_out, div, fuse_level=level, use_layer_norm=True)
    with use_backend(backend):
        found = block(node, edge, G)
    for degree, value in expected(block, node, edge, G).items():
        torch.testing.assert_close(found[str(degree)], value)


def test_values_and_keys_are_the_halves_of_one_convolution():
    block, node, edge, G = case({0: 4, 1: 3}, {0: 8, 1: 8, 2: 8}, 4)
    assert block.value_fiber == {0: 2, 1: 2, 2: 2}
    assert block.key_fiber == {0: 2, 1: 2}
    assert block.to_key_value.fiber_out == {0: 4, 1: 4, 2: 2}
    seen = []
    apart = block(node, edge, G)
    block.to_key_value.register_forward_hook(lambda module, inputs, output: seen.append(output))
    together = block(node, edge, G)
    assert {degree: tuple(value.shape[1:]) for degree, value in seen[0].items()} == {
        "0": (4, 1),
        "1": (4, 3),
        "2": (2, 5),
    }
    for degree, value in apart.items():
        torch.testing.assert_close(together[degree], value)


def test_attention_takes_degrees_apart_or_together():
    G, fiber = graph(), Fiber({0: 4, 1: 4})
    layer = AttentionSE3(2, fiber, fiber)
    value, key = (features(fiber, G.num_edges()) for _ in range(2))
    query = features(fiber, G.num_nodes())
    fused = [torch.cat([*part.values()], dim=-1) for part in (value, key)]
    for degree, found in layer(value, key, query, G).items():
        torch.testing.assert_close(layer(*fused, query, G)[degree], found)
    assert not list(layer.parameters())


@pytest.mark.parametrize(
    ("fiber_in", "fiber_out", "options", "message"),
    [
        ({0: 4}, {0: 3}, {"channels_div": 4}, "leaves none of 3 of degree 0"),
        ({0: 4}, {1: 4}, {}, "must share a degree"),
    ],
)
def test_fibers_that_make_no_layer_are_refused(fiber_in, fiber_out, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionBlockSE3(Fiber(fiber_in), Fiber(fiber_out), **options)
