"""Sums, means, maxima and softmaxes over segments: the edges into a node, the nodes of a graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Segments(NamedTuple):
    """Rows by segment.

    Attributes:
        rows: all rows, segment by segment, ascending in each, int64.
        ends: where in ``rows`` each segment ends, after a zero, int64 ``[num_segments + 1]``.
    """

    rows: Tensor
    ends: Tensor

    @classmethod
    def of(cls, segment: Tensor, num_segments: int) -> Segments:
        """From the ``segment`` of each row, one of ``num_segments``, without looking at values."""
        ends = segment.new_zeros(num_segments + 1)
        ends[1:] = segment_size(segment, num_segments).cumsum(0)
        return cls(segment.argsort(stable=True), ends)


_known = WeakIdKeyDictionary()  # from the tensor to how often it had been written to, and the segments


def segments_of(segment: Tensor, num_segments: int) -> Segments:
    """The :class:`Segments` of rows, made once for the same ``segment`` of each and ``num_segments``."""
    if segment.is_inference() or torch.compiler.is_compiling():
        return Segments.of(segment, num_segments)
    version = segment._version, num_segments
    seen, found = _known.get(segment, (None, None))
    if seen != version:
        found = Segments.of(segment, num_segments)
        _known[segment] = version, found
    return found


def segment_sum(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Sum of the ``values`` of each segment: ``[rows, ...]`` to ``[num_segments, ...]``; 0 for one without rows."""
    return values.new_zeros(num_segments, *values.shape[1:]).index_add(0, segment, values)


def segment_mean(values: Tensor, segment: Tensor, size: Tensor) -> Tensor:
    """Mean of the ``values`` of each segment: ``[rows, ...]`` to ``[num_segments, ...]``.

    It is 0 for a segment without rows; ``size`` is the :func:`segment_size` of ``segment``.
    """
    count = size.clamp_min(1).to(values.dtype)
    return segment_sum(values, segment, size.shape[0]) / count.view(-1, *[1] * (values.dim() - 1))


def segment_size(segment: Tensor, num_segments: int) -> Tensor:
    """How many rows each segment has, int64 ``[num_segments]``."""
    return segment.new_zeros(num_segments).index_add(0, segment, torch.ones_like(segment))


def segment_max(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Maximum of the ``values`` of each segment: ``[rows, m]`` to ``[num_segments, m]``; 0 for one without rows."""
    zeros = values.new_zeros(num_segments, values.shape[1])
    return zeros.scatter_reduce(0, segment[:, None].expand_as(values), values, "amax", include_self=False)


def segment_softmax(logits: Tensor, segment: Tensor, num_segments: int, envelope: Tensor | None = None) -> Tensor:
    r"""Softmax of the rows of each segment, computed in at least float32: ``[rows, m]`` to ``[rows, m]``.

    .. math:: u_i \frac{u_i \exp l_i}{\sum_j u_j \exp l_j}

    With an envelope u, a row that ends leaves both the sum and its own weight continuously, also where it is the only
    one: then its weight is u, not 1. Where all u of a segment are 0, so are the weights.

    Args:
        logits: l, ``[rows, m]``.
        segment: which segment each row is in.
        num_segments: how many there are.
        envelope: u, at least 0, ``[rows, 1]``; None for 1.

    Returns:
        ``[rows, m]``.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if envelope is not None:
        envelope = envelope.to(logits.dtype)
        # As a part of the logits, so that no envelope is so small that a quotient of two is lost.
        limits = torch.finfo(logits.dtype)
        counts = envelope >= limits.tiny
        logits = torch.where(counts, logits + torch.where(counts, envelope, 1).log(), limits.min)
    # The softmax does not depend on what is subtracted, so the maximum is a constant to its derivatives.
    weights = (logits - segment_max(logits.detach(), segment, num_segments)[segment]).exp()
    weights = weights / segment_sum(weights, segment, num_segments)[segment]
    return weights if envelope is None else weights * envelope
