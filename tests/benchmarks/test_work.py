from benchmarks.work import multiply_adds
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GConvSE3, GConvSE3Partial


def test_counts_of_one_edge():
    # The figures of the library's design page: 32 channels in, 16 out, degrees 0 to 3.
    count = multiply_adds(GConvSE3Partial(Fiber(4, 32), Fiber(4, 16)), Graph([0], [1]))
    assert count == {"radial": 44 * 16 * 32 * 32, "radial_shared": 44 * 16 * 32 * 32, "mixing": 72 * 16 * 32}


def test_undirected_edges_share_weights():
    graph = Graph([0, 1, 1, 2, 2], [1, 0, 2, 1, 0])
    count = multiply_adds(GConvSE3(Fiber(1, 1), Fiber(1, 1)), graph)
    assert count == {"radial": 5 * 32, "radial_shared": 3 * 32, "mixing": 5}


def test_appended_positions_count():
    layer = GConvSE3Partial(Fiber(1, 1), Fiber(1, 1), x_ij="cat")
    assert multiply_adds(layer, Graph([0], [1]))["radial"] == 2 * 32
