"""Which backend is fastest on a device, estimated from counts of nodes, edges, degrees and channels alone."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ..contraction.convolution import Convolution
from ..contraction.radial import HIDDEN
from ..contraction.triton_layout import Layout
from ..plan import Plan


class Work(NamedTuple):
    """How much work of each kind there is, or what it costs: nanoseconds of a training step (forward and backward).

    The first two count convolutions and pairs of degrees, the third the numbers of P = A f at the nodes. All others are
    multiply-adds of a forward pass: of hidden layers, of last layers for radial weights, of these and features; of A
    and f, of P and hidden values, of their products and the basis.
    """

    convolutions: float = 0
    pairs: float = 0
    at_nodes: float = 0
    hidden: float = 0
    radial: float = 0
    mixing: float = 0
    on_nodes: float = 0
    on_edges: float = 0
    steering: float = 0


# Measured, on an Intel Xeon: in PyTorch fitted to 14 cases of python -m benchmarks, on two cores (246 GFLOP/s); in C++
# to 22 convolutions of 2 to 99 neighbours and 3 to 64 channels, on one (298 GFLOP/s).
ON_CPU = {
    "frame": Work(hidden=1.195, radial=0.095, mixing=0.827),
    "cpp": Work(hidden=0.163, radial=0.04, mixing=0.236),
    "node": Work(hidden=1.586, on_nodes=0.087, on_edges=0.04, steering=0.244),
    "cpp-node": Work(hidden=0.179, on_nodes=0.08, on_edges=0.045),
}
# Stated by NVIDIA of an H100 (SXM): 3.35 TB/s and 67 TFLOP/s, in float32, and on tensor cores in float64. A launch is
# taken to cost a few microseconds.
BYTE, MULTIPLY_ADD, LAUNCH = 1 / 3350, 1 / 33_500, 4_000.0
# Counted for an H100: what 'triton' issues for a radial weight in all, by bytes of a number (`benchmarks.slots`,
# 1.24 billion weights; in float64 a layer of its model issues 3.5 times as much).
SLOTS = {4: 0.001, 8: 0.0035}
LEFT_OVER = 8  # rows without an edge, for each node in 'cpp-node': half a vector register on average
CLEARLY_FASTER = 0.92  # 'node' holds the basis, 13 times the numbers of the frames at degree 3: it must be worth it


def on_gpu(itemsize: int) -> dict[str, Work]:
    """Prices on CUDA, for numbers of so many bytes: counted, not measured.

    Launches, and how often numbers move, are fitted to what ``benchmarks.launches`` counts for convolutions of degrees
    0 to 1, 2 and 3. What moves in 'triton' and 'frame' is told in radial weights, each moved once and 15.5 times; in
    'node' in numbers at nodes and on edges, moved 14 and 40 times.
    """
    byte, product = itemsize * BYTE, 4 * MULTIPLY_ADD  # forward, again in the backward pass, and both derivatives
    in_pytorch = Work(hidden=product, mixing=product, on_nodes=product, steering=product)
    return {
        "triton": Work(50 * LAUNCH, hidden=product, radial=(byte + SLOTS[itemsize]) / HIDDEN),
        "frame": in_pytorch._replace(
            convolutions=200 * LAUNCH, pairs=16 * LAUNCH, radial=product + 15.5 * byte / HIDDEN
        ),
        "node": in_pytorch._replace(
            convolutions=130 * LAUNCH, pairs=42 * LAUNCH, at_nodes=14 * byte, on_edges=product + 40 * byte / HIDDEN
        ),
    }


def fastest(
    backends: Sequence[str], convolution: Convolution, plan: Plan, pairs_share: bool, on_gpu_of: int | None = None
) -> str:
    """The fastest of some backends that can run; 'node' only where it is clearly faster.

    Args:
        backends: their names. No backend in PyTorch is faster than those in C++, so they are not compared: at best,
            'node' takes 1.3 times as long as 'cpp-node'.
        convolution: what is to be computed.
        plan: of the graph.
        pairs_share: whether its pairs of edges share radial weights.
        on_gpu_of: bytes of a number, 4 or 8, on CUDA; None on a CPU.
    """
    estimates = seconds(convolution, plan, pairs_share, on_gpu_of)
    return min(backends, key=lambda name: estimates[name] / (CLEARLY_FASTER if name == "node" else 1))


def in_cpp(convolution: Convolution, num_nodes: int, num_edges: int, num_pairs: int) -> str:
    """The faster of 'cpp' and 'cpp-node' for so many nodes, edges, and pairs of these that share radial weights."""
    estimates = _seconds(convolution, num_edges, num_edges - num_pairs, num_nodes, None)
    return min("cpp", "cpp-node", key=estimates.__getitem__)


def seconds(convolution: Convolution, plan: Plan, pairs_share: bool, on_gpu_of: int | None = None) -> dict[str, float]:
    """About how long the messages of a training step take by each backend of a device.

    On a CPU, estimates of two backends in C++ can be compared, or of two in PyTorch; they are fitted to different
    machines.
    """
    rows = plan.num_edges - len(plan.pairs) if pairs_share else plan.num_edges
    return _seconds(convolution, plan.num_edges, rows, plan.num_nodes, on_gpu_of)


@lru_cache(maxsize=1024)
def _seconds(convolution: Convolution, edges: int, rows: int, nodes: int, on_gpu_of: int | None) -> dict[str, float]:
    """The same from counts: ``rows`` edges have radial weights of their own."""
    senders = min(nodes, edges)  # nodes with out-edges, about
    work = {
        "node": _node_first(convolution, edges, senders),
        "cpp-node": _node_first(convolution, edges + LEFT_OVER * senders, senders),
    }
    edge_first = _edge_first(convolution, edges, rows)
    prices = ON_CPU if on_gpu_of is None else on_gpu(on_gpu_of)
    if "triton" in prices:
        layout = Layout.of(convolution)
        work["triton"] = _edge_first(convolution, edges, rows, layout.channels_in * layout.channels_out)
    return {
        name: 1e-9 * sum(n * each for n, each in zip(work.get(name, edge_first), price, strict=True))
        for name, price in prices.items()
    }


def _edge_first(convolution: Convolution, edges: int, rows: int, padded: int | None = None) -> Work:
    """For so many channels out times channels in of every pair; None for its own."""
    radial = mixing = 0
    for ends in convolution.ends:
        channels = padded or ends.channels_in * ends.channels_out
        radial += HIDDEN * channels * ends.num_freq
        mixing += channels * (2 * ends.num_freq - 1)
    work = Work(1, len(convolution.ends), radial=rows * radial, mixing=edges * mixing)
    return work._replace(hidden=rows * len(convolution.rows) * HIDDEN * (HIDDEN + 1))


def _node_first(convolution: Convolution, places: int, senders: int) -> Work:
    numbers = on_nodes = steering = 0
    for ends in convolution.ends:
        each = (2 * ends.degree_in + 1) * ends.num_freq * ends.channels_out
        numbers += each
        on_nodes += HIDDEN * ends.channels_in * each
        steering += (2 * ends.degree_out + 1) * each
    return Work(
        1, len(convolution.ends), at_nodes=senders * HIDDEN * numbers, on_nodes=senders * on_nodes,
        hidden=places * len(convolution.rows) * HIDDEN * (HIDDEN + 1), on_edges=places * HIDDEN * numbers,
        steering=places * steering,
    )  # fmt: skip
