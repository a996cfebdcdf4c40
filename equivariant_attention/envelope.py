"""The smooth cutoff of a radius graph: weights of its edges, which fall to zero towards the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_floating_point, check_positive, check_whole_number
from .graphs import GraphLike


def polynomial_envelope(r: Tensor, cutoff: float, p: int = 6) -> Tensor:
    r"""The polynomial envelope of DimeNet (equation (8) of arXiv 2003.03123).

    .. math:: u(x) = 1 - \frac{(p+1)(p+2)}{2} x^p + p(p+2) x^{p+1} - \frac{p(p+1)}{2} x^{p+2}
                   = (1 - x)^3 \sum_{k=0}^{p-1} \frac{(k+1)(k+2)}{2} x^k, \qquad x = r / \mathrm{cutoff}

    It is 1 at 0, and at the cutoff its value and its first two derivatives are 0, as they are from there on.

    Args:
        r: distances, any shape, at least 0.
        cutoff: where the envelope ends, larger than 0, in the unit of ``r``.
        p: how long the envelope stays near 1; at least 1.

    Returns:
        between 0 and 1, in the shape of ``r``.

    Raises:
        TypeError: ``r`` is not a floating-point tensor.
        ValueError: ``cutoff`` or ``p`` is not as above.
    """
    check_floating_point(r, "r")
    check_positive(cutoff, "cutoff")
    check_whole_number(p, 1, "p")
    x = (r / cutoff).clamp(max=1)
    # The second form: nothing cancels near the cutoff, where the first would be rounding error, and negative.
    series = torch.zeros_like(x)
    for k in reversed(range(p)):
        series = series * x + (k + 1) * (k + 2) / 2
    return (1 - x) ** 3 * series


def edge_envelope(G: GraphLike) -> Tensor | None:
    """``edata['envelope']`` of ``G`` as ``[edges, 1]``; None where it has none, and every edge counts in full.

    Its values are looked at with all others of the graph, in a :class:`~equivariant_attention.plan.Plan`.

    Raises:
        TypeError: it is not of floating-point numbers.
        ValueError: it has another shape.
    """
    if "envelope" not in G.edata:
        return None
    envelope, edges = G.edata["envelope"], G.num_edges()
    check_floating_point(envelope, "edata['envelope']")
    if tuple(envelope.shape) not in ((edges,), (edges, 1)):
        raise ValueError(f"edata['envelope'] must have shape [{edges}, 1] or [{edges}], got {list(envelope.shape)}")
    return envelope.reshape(edges, 1)
