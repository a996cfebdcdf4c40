"""Frames and plans of the graphs of a data set, kept in memory from one epoch to the next, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .basis import Basis, BasisAndR, check_zero_edges, directed, get_basis_and_r
from .checks import check_whole_number
from .graphs import Graph, GraphLike, as_graph, batch, unbatch
from .plan import Plan, edge_features, relative_positions, values_in_range
from .so3.vectors import length_and_direction

OVERHEAD = 2048  # bytes of the Python objects around the tensors of one graph, about


class BasisCache:
    """Basis and distances of batches of fixed graphs, each graph's share computed when it is first seen.

    It is for data sets that are batched anew in every epoch, whose edges and ``edata['d']`` never change and whose
    positions get no gradient. Kept per graph are its plan and the Wigner-D matrices of its edges; where they would take
    more than ``max_bytes``, the graphs used longest ago are dropped, and made again when they come again. An edge
    takes 372 bytes in float32 with a largest degree of 3.

    Args:
        max_degree: largest degree of any feature of the model, at least 0.
        max_bytes: how much may be kept, on the device of the graphs; 0 keeps nothing.
        zero_edges: as of :func:`~equivariant_attention.basis.get_basis_and_r`.

    Attributes:
        num_bytes: how much is kept now, Python's own objects estimated.

    Raises:
        ValueError: a number is not a whole number of at least 0, or ``zero_edges`` is no way to treat them.
    """

    def __init__(self, max_degree: int, max_bytes: int, zero_edges: str = "isotropic") -> None:
        check_whole_number(max_degree, 0, "max_degree")
        check_whole_number(max_bytes, 0, "max_bytes")
        check_zero_edges(zero_edges)
        self.max_degree, self.max_bytes, self.zero_edges = max_degree, max_bytes, zero_edges
        self.clear()

    def clear(self) -> None:
        """Drop all graphs; those that come next may be of another dtype or on another device."""
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._kind: tuple[torch.dtype, torch.device] | None = None
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def get_basis_and_r(self, G: Any, keys: Sequence[Hashable]) -> BasisAndR:
        """What :func:`~equivariant_attention.basis.get_basis_and_r` gives for a batch of graphs.

        Args:
            G: a batch of DGLGraphs, :class:`~equivariant_attention.graphs.Graph` or PyTorch Geometric ``Data``, as
                there, whose ``edata['d']`` requires no gradient.
            keys: which graph each graph of the batch is, such as its index in the data set; numbers may be tensors.

        Returns:
            the basis and the distances, ``[edges, 1]``.

        Raises:
            KeyError, TypeError: as there; or ``edata['d']`` is of another dtype than that of the graphs before, or
                ``keys`` are not hashable values, one for each graph.
            ValueError: as there; or ``edata['d']`` requires a gradient or is on another device, there is not one key
                for each graph, or a key is that of a graph with other numbers of nodes or edges.
            RuntimeError: a key is that of a graph with another ``edata['d']`` or other edges, or ``edata['w']`` no
                longer agrees in the two directions of its pairs. On a GPU the error comes when the host next waits.
        """
        G = as_graph(G)
        d = relative_positions(G)
        self._check_kind(d)
        keys = _hashable(keys)
        parts = [self._kept.get(key) for key in keys]
        for key, size, part in zip(keys, _sizes(G, keys), parts, strict=True):
            if part is not None and (part.num_nodes, part.num_edges) != size:
                raise ValueError(
                    f"keys must name the graphs of G: {key!r} is that of a graph with {part.num_nodes} nodes and "
                    f"{part.num_edges} edges, got one with {size[0]} and {size[1]}"
                )
        missing = [i for i, part in enumerate(parts) if part is None]
        made = dict(zip(missing, _made(G, missing, self.max_degree, self.zero_edges), strict=True))
        kept = [made[i] if part is None else part for i, part in enumerate(parts)]
        for key, part in zip(keys, kept, strict=True):
            self._keep(key, part)
        self._kind = d.dtype, d.device
        return _joined(kept, G, self.max_degree, self.zero_edges)

    def _check_kind(self, d: Tensor) -> None:
        if d.requires_grad:
            raise ValueError("edata['d'] must not require a gradient to be kept: use get_basis_and_r, or d.detach()")
        dtype, device = self._kind or (d.dtype, d.device)
        if d.dtype != dtype:
            raise TypeError(f"edata['d'] must be {dtype}, as that of the graphs before, got {d.dtype}: see clear()")
        if d.device != device:
            raise ValueError(
                f"edata['d'] must be on {device}, as that of the graphs before, got {d.device}: see clear()"
            )

    def _keep(self, key: Hashable, part: Kept) -> None:
        """Make a graph the one used last, and drop those used longest ago."""
        before = self._kept.pop(key, None)
        self._kept[key] = part
        if part is not before:
            self.num_bytes += part.num_bytes - (before.num_bytes if before else 0)
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._kept.popitem(last=False)[1].num_bytes

    def __repr__(self) -> str:
        return (
            f"BasisCache(max_degree={self.max_degree}, max_bytes={self.max_bytes}, graphs={len(self)}, "
            f"num_bytes={self.num_bytes})"
        )


class Kept(NamedTuple):
    """What is kept of one graph, whose edges are numbered from 0.

    Attributes:
        num_nodes, num_pairs: of the graph, and of the plan.
        edges: the nodes of the graph that each edge leads from and to, ``[2, edges]``.
        order, zero_edges: of the plan.
        d: relative positions, ``[edges, 3]``.
        frames: Wigner-D matrices of all degrees, side by side, in the order of the plan, ``[edges, sum of (2l+1)^2]``.
    """

    num_nodes: int
    num_pairs: int
    edges: Tensor
    order: Tensor
    zero_edges: Tensor
    d: Tensor
    frames: Tensor

    @property
    def num_edges(self) -> int:
        """Of the graph."""
        return len(self.order)

    @property
    def num_bytes(self) -> int:
        """How much memory it takes, about."""
        return OVERHEAD + sum(tensor.nbytes for tensor in self if isinstance(tensor, Tensor))


def _hashable(keys: Any) -> list[Hashable]:
    """The keys as a list; of tensors, which are equal only to themselves, their values."""
    try:
        keys = [key.item() if isinstance(key, Tensor) else key for key in keys]
        hash(tuple(keys))
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"keys must be hashable, one for each graph, got {keys!r}") from error
    return keys


def _sizes(G: GraphLike, keys: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Nodes and edges of each graph of a batch."""
    nodes, edges = G.batch_num_nodes().tolist(), G.batch_num_edges().tolist()
    if len(edges) != len(nodes):
        raise ValueError(f"G must have as many batch_num_edges as batch_num_nodes, {len(nodes)}, got {len(edges)}")
    if not nodes or len(keys) != len(nodes):
        raise ValueError(f"keys must be as many as G has graphs, and at least one, got {len(keys)} for {len(nodes)}")
    return list(zip(nodes, edges, strict=True))


def _made(G: GraphLike, which: Sequence[int], max_degree: int, zero_edges: str) -> list[Kept]:
    """What is to be kept of some graphs of a batch, computed for all of them at once."""
    if not which:
        return []
    # It must serve every later batch, so it is made outside any inference mode that this one is in.
    with torch.inference_mode(False), torch.no_grad():
        part = _chosen(G, which)
        basis, _ = get_basis_and_r(part, max_degree, False, None, zero_edges)
        plan, nodes, edges = basis.plan, part.batch_num_nodes().tolist(), part.batch_num_edges()
        owner = torch.arange(len(which), device=edges.device).repeat_interleave(edges)
        number = torch.arange(len(owner), device=edges.device) - (edges.cumsum(0) - edges)[owner]

        def per_graph(some: Tensor) -> tuple[Tensor, ...]:
            # Stable, so that what the plan has first stays first: the pairs.
            counts = torch.bincount(owner[some], minlength=len(which))
            return owner[some].argsort(stable=True).split(counts.tolist())

        order, frames = number[plan.order], torch.cat([frame.flatten(1) for frame in basis.frames], dim=1)
        pairs, zeros, places = map(per_graph, (plan.pairs[:, 0], plan.zero_edges, plan.order))
        ends = (torch.stack([plan.src, plan.dst]) - _first_node(part)).split(edges.tolist(), dim=1)
        d = part.edata["d"].split(edges.tolist())
        # All are copies, as a slice would keep the whole in memory.
        return [
            Kept(
                nodes[i],
                len(pairs[i]),
                ends[i].clone(),
                order[places[i]],
                number[plan.zero_edges[zeros[i]]],
                d[i].clone(),
                frames[places[i]],
            )
            for i in range(len(which))
        ]


def _chosen(G: GraphLike, which: Sequence[int]) -> Graph:
    """Some graphs of a batch, with no more of them than the basis is made from."""
    plain = Graph(*G.edges(), G.num_nodes())
    plain.set_batch_num_nodes(G.batch_num_nodes())
    plain.set_batch_num_edges(G.batch_num_edges())
    plain.edata["d"] = relative_positions(G)
    if "w" in G.edata:
        plain.edata["w"] = G.edata["w"].detach()
    graphs = unbatch(plain)
    return batch([graphs[i] for i in which])


def _joined(kept: Sequence[Kept], G: GraphLike, max_degree: int, zero_edges: str) -> BasisAndR:
    """The basis and the distances of a batch of the graphs that these are kept of."""
    d = relative_positions(G)
    rows = _pairs_first(kept, d.device)
    with torch.inference_mode(False):  # as in Plan
        plan = _joined_plan(kept, G, rows)
    fits, w = (d == torch.cat([part.d for part in kept])).all() & values_in_range(G, d), edge_features(G)
    edges = torch.stack([plan.src, plan.dst]) - _first_node(G)
    fits = fits & (edges == torch.cat([part.edges for part in kept], dim=1)).all()
    if w is not None:
        first, second = w[plan.pairs.T]
        fits = fits & (first == second).all()
    torch._assert_async(
        fits,
        "keys must name the graphs of G: edata['d'] is not as it was kept, edges lead elsewhere, the two directions of "
        "an edge no longer agree in edata['w'], or edata['w'] or edata['envelope'] is out of range",
    )
    r, direction = length_and_direction(d)
    side_by_side = torch.cat([part.frames for part in kept])
    parts = side_by_side[rows].split([(2 * l + 1) ** 2 for l in range(max_degree + 1)], dim=1)
    frames = [part.unflatten(1, (2 * l + 1, -1)).contiguous() for l, part in enumerate(parts)]
    return Basis(directed(direction, zero_edges), max_degree, plan, G, r, frames, zero_edges), r


def _joined_plan(kept: Sequence[Kept], G: GraphLike, rows: Tensor | slice) -> Plan:
    """The plan of a batch of graphs: what ``Plan(G)`` is, without looking at values."""
    src, dst = (ends.to(torch.int64, copy=True) for ends in G.edges())
    edges = G.batch_num_edges()
    first = (edges.cumsum(0) - edges).repeat_interleave(edges, output_size=len(src))
    order = (torch.cat([part.order for part in kept]) + first)[rows]
    starts = accumulate((part.num_edges for part in kept), initial=0)
    zeros = [part.zero_edges + start for part, start in zip(kept, starts, strict=False) if len(part.zero_edges)]
    plan = Plan.__new__(Plan)
    plan.fill(
        G.num_nodes(),
        src,
        dst,
        order,
        order[: 2 * sum(part.num_pairs for part in kept)].view(-1, 2),
        torch.cat(zeros) if zeros else order.new_zeros(0),
    )
    return plan


def _first_node(G: GraphLike) -> Tensor:
    """The number of the first node of the graph that each edge is in, ``[edges]``."""
    nodes = G.batch_num_nodes()
    return (nodes.cumsum(0) - nodes).repeat_interleave(G.batch_num_edges(), output_size=G.num_edges())


def _pairs_first(kept: Sequence[Kept], device: torch.device) -> Tensor | slice:
    """Which rows to take of all graphs, each with its pairs first, so that the pairs of all come first."""
    sizes = [n for part in kept for n in (2 * part.num_pairs, part.num_edges - 2 * part.num_pairs)]
    if not any(sizes[1::2]):  # nothing but pairs
        return slice(None)
    rows = torch.arange(sum(sizes), device=device).split(sizes)
    return torch.cat([*rows[::2], *rows[1::2]])
