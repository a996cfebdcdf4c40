"""Which order is fastest, from counts of nodes, edges, degrees and channels alone."""

from collections.abc import Sequence
from functools import lru_cache

from ..contraction.kernels import HIDDEN, KernelSet
from ..fibers import Fiber
from ..plan import Plan

# Nanoseconds of a training step for each multiply-add of a forward pass, fitted to python -m benchmarks on two cores of
# an AMD EPYC (187 GFLOP/s), for 'compiled' by comparison with the others there and on an Intel Xeon. They are several
# passes of very different efficiency: small products are slow.
RADIAL, MIXING, HIDDEN_LAYERS = 0.055, 0.2, 1.15
COMPILED_RADIAL, COMPILED_MIXING, COMPILED_HIDDEN_LAYERS = 0.03, 0.1, 0.2
ON_NODES, ON_EDGES, STEERING, HIDDEN_LAYERS_OF_NODE_ORDER = 0.05, 0.04, 0.15, 0.95
CLEARLY_FASTER = 0.92  # the node order may hold 13 times the numbers of frames at degree 3, so it must be worth it


def fastest(
    sets: Sequence[KernelSet], fiber_in: Fiber, plan: Plan, pairs_share: bool, has_compiled: bool = False
) -> str:
    """'compiled', or else 'frame'; or 'node' where that is clearly faster.

    Args:
        sets, fiber_in: as in :func:`equivariant_attention.contraction.contract`.
        plan: of the graph.
        pairs_share: whether its pairs of edges share radial weights.
        has_compiled: whether 'compiled' can run.
    """
    estimates = seconds(sets, fiber_in, plan, pairs_share)
    edge_first = "compiled" if has_compiled else "frame"
    return "node" if estimates["node"] < CLEARLY_FASTER * estimates[edge_first] else edge_first


def seconds(sets: Sequence[KernelSet], fiber_in: Fiber, plan: Plan, pairs_share: bool) -> dict[str, float]:
    """What the messages of a training step take, about, in each of these orders."""
    rows = plan.num_edges - len(plan.pairs) if pairs_share else plan.num_edges
    fibers_out = tuple(fiber_out for _, fiber_out in sets)
    return _seconds(fibers_out, fiber_in, plan.num_edges, rows, len(plan.out_edges.node))


@lru_cache(maxsize=1024)
def _seconds(fibers_out: tuple[Fiber, ...], fiber_in: Fiber, edges: int, rows: int, nodes: int) -> dict[str, float]:
    """The same, where ``rows`` edges have radial weights of their own, and ``nodes`` rows of edges are sent to."""
    frame, compiled, node = 0.0, 0.0, 0.0
    for fiber_out in fibers_out:
        for k, c_in in fiber_in.dict.items():
            for l, c_out in fiber_out.dict.items():
                F = 2 * min(k, l) + 1
                radial, mixing, hidden = HIDDEN * c_in * c_out * F, c_in * c_out * (2 * F - 1), HIDDEN * (HIDDEN + 1)
                numbers = (2 * k + 1) * F * c_out
                frame += rows * (RADIAL * radial + HIDDEN_LAYERS * hidden) + edges * MIXING * mixing
                compiled += rows * (COMPILED_RADIAL * radial + COMPILED_HIDDEN_LAYERS * hidden)
                compiled += edges * COMPILED_MIXING * mixing
                node += nodes * ON_NODES * HIDDEN * c_in * numbers
                node += edges * (ON_EDGES * HIDDEN + STEERING * (2 * l + 1)) * numbers
                node += edges * HIDDEN_LAYERS_OF_NODE_ORDER * hidden
    return {"frame": 1e-9 * frame, "compiled": 1e-9 * compiled, "node": 1e-9 * node}
