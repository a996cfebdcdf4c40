"""Which backend is fastest on a CPU, estimated from counts of nodes, edges, degrees and channels alone."""

from functools import lru_cache

from ..contraction.convolution import Convolution
from ..contraction.radial import HIDDEN
from ..plan import Plan

# Nanoseconds of a training step (forward and backward) for each multiply-add of its forward pass. Kinds of work differ
# in efficiency, as small products are slow. In PyTorch, fitted to python -m benchmarks on two cores of an AMD EPYC (187
# GFLOP/s):
RADIAL, MIXING, HIDDEN_LAYERS = 0.055, 0.2, 1.15
ON_NODES, ON_EDGES, STEERING, HIDDEN_LAYERS_OF_NODE_ORDER = 0.05, 0.04, 0.15, 0.95
# In C++, fitted to 22 convolutions of 2 to 99 neighbours and 3 to 64 channels, on one core of an Intel Xeon (298
# GFLOP/s):
CPP_RADIAL, CPP_MIXING, CPP_HIDDEN_LAYERS = 0.04, 0.236, 0.163
CPP_ON_NODES, CPP_ON_EDGES, CPP_HIDDEN_LAYERS_OF_NODE_ORDER = 0.08, 0.045, 0.179
LEFT_OVER = 8  # rows without an edge, for each node in 'cpp-node': half a vector register on average
CLEARLY_FASTER = 0.92  # 'node' holds the basis, 13 times the numbers of the frames at degree 3: it must be worth it


def fastest(convolution: Convolution, plan: Plan, pairs_share: bool, has_cpp: bool = False) -> str:
    """The faster of 'cpp' and 'cpp-node', or else 'frame'; or 'node' where that is clearly faster.

    No backend in PyTorch is faster than those in C++: at best, 'node' takes 1.3 times as long as 'cpp-node'.

    Args:
        convolution: what is to be computed.
        plan: of the graph.
        pairs_share: whether its pairs of edges share radial weights.
        has_cpp: whether backends in C++ can run.
    """
    if has_cpp:
        return in_cpp(convolution, plan.num_nodes, plan.num_edges, len(plan.pairs) if pairs_share else 0)
    estimates = seconds(convolution, plan, pairs_share)
    return "node" if estimates["node"] < CLEARLY_FASTER * estimates["frame"] else "frame"


def in_cpp(convolution: Convolution, num_nodes: int, num_edges: int, num_pairs: int) -> str:
    """The faster of 'cpp' and 'cpp-node' for so many nodes, edges, and pairs of these that share radial weights."""
    estimates = _seconds(convolution, num_edges, num_edges - num_pairs, num_nodes)
    return min("cpp", "cpp-node", key=estimates.__getitem__)


def seconds(convolution: Convolution, plan: Plan, pairs_share: bool) -> dict[str, float]:
    """About how long the messages of a training step take by each of these backends.

    Estimates of two backends in C++ can be compared, or of two in PyTorch; they are fitted to different machines.
    """
    rows = plan.num_edges - len(plan.pairs) if pairs_share else plan.num_edges
    return _seconds(convolution, plan.num_edges, rows, plan.num_nodes)


@lru_cache(maxsize=1024)
def _seconds(convolution: Convolution, edges: int, rows: int, nodes: int) -> dict[str, float]:
    """The same from counts: ``rows`` edges have radial weights of their own."""
    senders = min(nodes, edges)  # nodes with out-edges, about
    places = edges + LEFT_OVER * senders
    hidden = len(convolution.rows) * HIDDEN * (HIDDEN + 1)
    frame, cpp = rows * HIDDEN_LAYERS * hidden, rows * CPP_HIDDEN_LAYERS * hidden
    node, cpp_node = edges * HIDDEN_LAYERS_OF_NODE_ORDER * hidden, places * CPP_HIDDEN_LAYERS_OF_NODE_ORDER * hidden
    for ends in convolution.ends:
        c_in, c_out, F = ends.channels_in, ends.channels_out, ends.num_freq
        radial, mixing = HIDDEN * c_in * c_out * F, c_in * c_out * (2 * F - 1)
        numbers = (2 * ends.degree_in + 1) * F * c_out
        frame += rows * RADIAL * radial + edges * MIXING * mixing
        cpp += rows * CPP_RADIAL * radial + edges * CPP_MIXING * mixing
        node += senders * ON_NODES * HIDDEN * c_in * numbers
        node += edges * (ON_EDGES * HIDDEN + STEERING * (2 * ends.degree_out + 1)) * numbers
        cpp_node += (senders * CPP_ON_NODES * c_in + places * CPP_ON_EDGES) * HIDDEN * numbers
    return {name: 1e-9 * ns for name, ns in (("frame", frame), ("cpp", cpp), ("node", node), ("cpp-node", cpp_node))}
