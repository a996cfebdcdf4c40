"""Which order is fastest, from counts of nodes, edges, degrees and channels alone."""

from functools import lru_cache

from ..contraction.convolution import Convolution
from ..contraction.networks import HIDDEN
from ..plan import Plan

# Nanoseconds of a training step for each multiply-add of a forward pass, fitted to python -m benchmarks on two cores of
# an AMD EPYC (187 GFLOP/s), for 'cpp' by comparison with the others there and on an Intel Xeon. They are several
# passes of very different efficiency: small products are slow.
RADIAL, MIXING, HIDDEN_LAYERS = 0.055, 0.2, 1.15
CPP_RADIAL, CPP_MIXING, CPP_HIDDEN_LAYERS = 0.03, 0.1, 0.2
ON_NODES, ON_EDGES, STEERING, HIDDEN_LAYERS_OF_NODE_ORDER = 0.05, 0.04, 0.15, 0.95
FEW = 6  # edges per node, below which nodes are never worth the work, nor is counting those that send
CLEARLY_FASTER = 0.92  # the node order may hold 13 times the numbers of frames at degree 3, so it must be worth it


def fastest(convolution: Convolution, plan: Plan, pairs_share: bool, has_cpp: bool = False) -> str:
    """'cpp', or else 'frame'; or 'node' where that is clearly faster.

    Args:
        convolution: what is to be computed.
        plan: of the graph.
        pairs_share: whether its pairs of edges share radial weights.
        has_cpp: whether 'cpp' can run.
    """
    if plan.num_edges < FEW * plan.num_nodes:
        return "cpp" if has_cpp else "frame"
    estimates = seconds(convolution, plan, pairs_share)
    edge_first = "cpp" if has_cpp else "frame"
    return "node" if estimates["node"] < CLEARLY_FASTER * estimates[edge_first] else edge_first


def seconds(convolution: Convolution, plan: Plan, pairs_share: bool) -> dict[str, float]:
    """What the messages of a training step take, about, in each of these orders."""
    rows = plan.num_edges - len(plan.pairs) if pairs_share else plan.num_edges
    return _seconds(convolution, plan.num_edges, rows, len(plan.out_edges.node))


@lru_cache(maxsize=1024)
def _seconds(convolution: Convolution, edges: int, rows: int, nodes: int) -> dict[str, float]:
    """The same, where ``rows`` edges have radial weights of their own, and ``nodes`` rows of edges are sent to."""
    hidden = len(convolution.rows) * HIDDEN * (HIDDEN + 1)
    frame, cpp = rows * HIDDEN_LAYERS * hidden, rows * CPP_HIDDEN_LAYERS * hidden
    node = edges * HIDDEN_LAYERS_OF_NODE_ORDER * hidden
    for ends in convolution.ends:
        c_in, c_out, F = ends.channels_in, ends.channels_out, ends.num_freq
        radial, mixing = HIDDEN * c_in * c_out * F, c_in * c_out * (2 * F - 1)
        numbers = (2 * ends.degree_in + 1) * F * c_out
        frame += rows * RADIAL * radial + edges * MIXING * mixing
        cpp += rows * CPP_RADIAL * radial + edges * CPP_MIXING * mixing
        node += nodes * ON_NODES * HIDDEN * c_in * numbers
        node += edges * (ON_EDGES * HIDDEN + STEERING * (2 * ends.degree_out + 1)) * numbers
    return {"frame": 1e-9 * frame, "cpp": 1e-9 * cpp, "node": 1e-9 * node}
