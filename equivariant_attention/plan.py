"""What depends on the values of a graph, found out once: edges that share radial weights, edges of length zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .checks import as_floating_point, check_floating_point, check_of_graph, half_remedy
from .envelope import edge_envelope
from .graphs import GraphLike, as_graph, copy_into
from .native.operators import LIBRARY, NAMESPACE, OPERATORS
from .native.private import is_recorded
from .segments import Segments, segment_size
from .so3.vectors import length_and_direction

LARGEST_DISTANCE = 1e18  # its square is still a float32, as the LayerNorm of the radial network asks
LONGEST_ROW = 64


class Plan:
    """All that depends on the values of a graph, so that no layer need read any to know what to do.

    To read values, the host has to wait for a GPU. :func:`~equivariant_attention.basis.get_basis_and_r` makes a plan
    where it is given none. One made ahead serves every forward pass on the same edges, as long as the same edges have
    length zero, and lengths and ``edata['w']`` agree in the two directions of the pairs; the device asserts it, without
    waiting, and that values are finite. All that a plan holds is its own, and is not to be written to but by
    :meth:`refill`.

    In code that PyTorch compiles or exports it is made when that runs, by the operator ``equivariant_attention::plan``,
    for whatever edges there are then.

    Args:
        G: DGLGraph, :class:`~equivariant_attention.graphs.Graph` or PyTorch Geometric ``Data`` with ``edata['d']``.

    Attributes:
        num_nodes, num_edges: of the graph.
        src, dst: the nodes that each edge leads from and to, int64 ``[edges]``.
        refills: how often it has been refilled.
        pairs: an edge and its reverse, of opposite ``edata['d']`` and equal ``edata['w']`` and so of equal radial
            weights, ``[pairs, 2]``.
        order: all edges, first those of the pairs, ``[edges]``.
        zero_edges: the edges of length zero, ascending.

    Raises:
        KeyError: the graph has no ``edata['d']``.
        TypeError, ValueError: ``edata['d']`` is not float32 or float64; it, ``edata['w']`` or ``edata['envelope']`` has
            another shape, or is not finite and at most 1e18, the envelope at least 0; or an edge leads from or to a
            node that is not there.
    """

    def __init__(self, G: Any) -> None:
        if torch.jit.is_tracing():
            raise RuntimeError(
                "a Plan cannot be made within torch.jit.trace, which would keep that of the example for all graphs: "
                "make it before, for edges that stay as they are, or use torch.export"
            )
        G = as_graph(G)
        if is_recorded():
            self.fill(G.num_nodes(), *OPERATORS.plan(*_read(G)))
            return
        # It may serve training later, so it is made outside any inference mode that this is in.
        with torch.inference_mode(False), torch.no_grad():
            self.fill(G.num_nodes(), *_looked_at(*_read(G)))

    @classmethod
    def unpaired(cls, G: Any) -> Plan:
        """The plan of a graph whose edges are chosen anew on a GPU: no value is looked at, so the host does not wait.

        No two edges share radial weights, though in the two directions of an edge they may be the same, and none has
        length zero, which the device asserts where the plan is used.

        Args:
            G: as of the constructor.

        Returns:
            the plan.
        """
        G, plan = as_graph(G), cls.__new__(cls)
        with torch.inference_mode(False), torch.no_grad():
            src, dst = (ends.to(torch.int64, copy=True) for ends in G.edges())
            order = torch.arange(len(src), device=src.device)
            plan.fill(G.num_nodes(), src, dst, order, src.new_zeros(0, 2), src.new_zeros(0))
        return plan

    def fill(self, num_nodes: int, src: Tensor, dst: Tensor, order: Tensor, pairs: Tensor, zero_edges: Tensor) -> None:
        """Set the attributes.

        Args:
            num_nodes, src, dst, order, pairs, zero_edges: those of that name.
        """
        self.num_nodes, self.num_edges = num_nodes, src.shape[0]
        self.src, self.dst, self.order, self.pairs, self.zero_edges = src, dst, order, pairs, zero_edges
        self.refills = 0
        self._out_edges: OutEdges | None = None
        self._by_source: Segments | None = None
        self._by_destination: Segments | None = None
        self._versions = self._count()

    @property
    def out_edges(self) -> OutEdges:
        """The :class:`OutEdges` of the graph, for backend 'node'; made when first asked for.

        On a GPU the host waits for them. Asked for where the plan is made, before it is moved, they go with it.
        """
        if self._out_edges is None:
            self.check_unwritten()
            with torch.inference_mode(False):
                self._out_edges = OutEdges.of(self.src, self.num_nodes)
            self._versions = self._count()
        return self._out_edges

    @property
    def by_source(self) -> Segments:
        """Places in ``order``, node by node, of the edges that lead from it; made when first asked for."""
        if self._by_source is None:
            with torch.inference_mode(False):
                found = Segments.of(self.src[self.order], self.num_nodes)
            if is_recorded():  # and may hold no numbers
                return found
            self._by_source = found
        return self._by_source

    @property
    def by_destination(self) -> Segments:
        """Places in ``order``, node by node, of the edges that lead to it; made when first asked for."""
        if self._by_destination is None:
            with torch.inference_mode(False):
                found = Segments.of(self.dst[self.order], self.num_nodes)
            if is_recorded():  # and may hold no numbers
                return found
            self._by_destination = found
        return self._by_destination

    def _count(self) -> list[int]:
        """How often each tensor has been written to; empty in code that is compiled, where that is not counted."""
        if torch.compiler.is_compiling():
            return []
        own = (self.src, self.dst, self.order, self.pairs, self.zero_edges)
        return [v._version for v in (*own, *(self._out_edges[:-1] if self._out_edges else ()))]

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._versions = self._count()  # copies count anew

    def __getstate__(self) -> dict[str, Any]:
        self.check_unwritten()
        return vars(self)

    def check_unwritten(self, refills: int | None = None) -> None:
        """Refuse a plan whose own tensors were written to: C++ reads them as they are.

        Args:
            refills: how many there had been, where later ones count as well.

        Raises:
            RuntimeError: one was.
        """
        written = self._versions and not torch.compiler.is_compiling() and self._versions != self._count()
        if written or refills not in (None, self.refills):
            raise RuntimeError("plan must not be written to: make another with Plan(G)")

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Plan:
        """The same plan on another device; ``non_blocking`` is as of :meth:`~.graphs.Graph.to`."""
        if non_blocking is None:
            non_blocking = self.src.is_pinned()
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Plan:
        """The same plan in page-locked memory, as ``DataLoader(pin_memory=True)`` asks for."""
        return self._mapped(Tensor.pin_memory)

    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by name, but :attr:`out_edges`; lists by node where they were asked for."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        for name in ("by_source", "by_destination"):
            lists = getattr(self, f"_{name}")
            own |= {} if lists is None else {f"{name}.{part}": value for part, value in lists._asdict().items()}
        return own

    @torch.no_grad()
    def refill(self, other: Plan) -> None:
        """Become another plan in the same memory, from where a captured CUDA graph reads it.

        What was computed with this one before can then not be differentiated any more.

        Args:
            other: of as many nodes, edges, pairs and edges of length zero, see
                :func:`~equivariant_attention.padding.padded`; on any device.

        Raises:
            TypeError, ValueError: it is no plan, or has other sizes.
            RuntimeError: one of the two was written to.
        """
        if not isinstance(other, Plan):
            raise TypeError(f"other must be a Plan, got {type(other).__name__}")
        self.check_unwritten()
        other.check_unwritten()
        if other.num_nodes != self.num_nodes:
            raise ValueError(f"other must be of {self.num_nodes} nodes, got {other.num_nodes}")
        for name in ("by_source", "by_destination"):
            if getattr(self, f"_{name}") is not None:
                getattr(other, name)  # made, if it was not
        copy_into(self.tensors(), other.tensors(), "other")
        self._out_edges = None  # whose shapes depend on values
        self.refills += 1
        self._versions = self._count()

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Plan:
        """A plan with ``function`` applied to every tensor of this one."""
        moved = copy.copy(self)
        with torch.inference_mode(False):
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(moved, name, function(value))
                elif isinstance(value, OutEdges | Segments):
                    parts = [function(v) if isinstance(v, Tensor) else v for v in value]
                    setattr(moved, name, type(value)._make(parts))
        moved._versions = moved._count()
        return moved

    def check(self, G: Any) -> None:
        """Refuse a graph G that the plan is not of.

        Raises:
            ValueError: it has another number of nodes or edges, or is on another device.
            RuntimeError: its values are not as the plan has them, or the plan was written to. On a GPU the error comes
                when the host next waits.
        """
        self.check_unwritten()
        G = as_graph(G)
        d = relative_positions(G).detach()
        check_of_graph(
            "plan",
            ("nodes", G.num_nodes(), self.num_nodes),
            ("edges", G.num_edges(), self.num_edges),
            ("device", d.device, self.order.device),
        )
        src, dst = G.edges()
        first, second = _radial_input(d, edge_features(G))[self.pairs.T]
        planned_zero = torch.zeros_like(d[:, 0], dtype=torch.bool).index_fill(0, self.zero_edges, 1)
        fits = (first == second).all() & (_is_zero(d) == planned_zero).all() & (src == self.src).all()
        torch._assert_async(
            fits & (dst == self.dst).all() & values_in_range(G, d),
            "plan must be of this graph: edges lead elsewhere, others have length zero, the two directions of one no "
            "longer agree in length or edata['w'], or edata['d'], edata['w'] or edata['envelope'] is out of range",
        )

    def __repr__(self) -> str:
        return f"Plan(nodes={self.num_nodes}, edges={self.num_edges}, pairs={len(self.pairs)})"


class OutEdges(NamedTuple):
    """The edges by source node, in rows: a row is a node with some of its outgoing edges, at most 64.

    Longer rows come first, so that a block of consecutive rows is almost a rectangle; nodes without outgoing edges have
    none. A node of very many edges has several rows, so that one such node makes no block large.

    Attributes:
        edges: all edges, row by row, ``[edges]``.
        row, place: of each of these, which row it is in and where in that row.
        node: source node of each row, ``[rows]``.
        first, count: of each row, its first edge in ``edges``, and how many it has.
        ends: where in ``edges`` each row ends, after a zero: whole numbers of the host, which decide shapes.
    """

    edges: Tensor
    row: Tensor
    place: Tensor
    node: Tensor
    first: Tensor
    count: Tensor  # type: ignore[assignment]  # hides a method of tuple
    ends: tuple[int, ...]

    @classmethod
    def of(cls, src: Tensor, num_nodes: int) -> OutEdges:
        """Group the edges by their source nodes ``src``, int64 ``[edges]``, of ``num_nodes`` in all."""
        order = src.argsort(stable=True)
        degree = segment_size(src, num_nodes)
        parts = (degree + LONGEST_ROW - 1) // LONGEST_ROW
        node = torch.arange(num_nodes, device=src.device).repeat_interleave(parts)
        part = torch.arange(len(node), device=src.device) - (parts.cumsum(0) - parts)[node]
        # The rows of one node are of equal lengths, or differ by one.
        count = degree[node] // parts[node] + (part < degree[node] % parts[node])
        start = count.cumsum(0) - count
        count, longest_first = count.sort(descending=True, stable=True)
        row = torch.arange(len(node), device=src.device).repeat_interleave(count)
        first = count.cumsum(0) - count
        place = torch.arange(len(src), device=src.device) - first[row]
        edges = order[start[longest_first][row] + place]
        return cls(edges, row, place, node[longest_first], first, count, (0, *count.cumsum(0).tolist()))

    def ranges(self, rows: int, slots: int) -> Iterator[tuple[int, int]]:
        """Blocks of consecutive rows, at most this many and with this many slots, or one row; half of the slots, at
        least, hold an edge.
        """
        first, last = 0, 0
        while first < len(self.node):
            longest = self._length(first)
            most = min(first + max(1, min(rows, slots // longest)), len(self.node))
            while last < most and 2 * self._length(last) >= longest:
                last += 1
            yield first, last
            first = last

    def _length(self, row: int) -> int:
        return self.ends[row + 1] - self.ends[row]

    def block(self, first: int, last: int) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The rows from ``first`` to before ``last``, with as many slots each as the longest has.

        Returns:
            the nodes of the rows; the edge in every slot, ``[rows x slots]``, where the last edge of a row fills the
            slots that are left over; the edges of the rows; and their slots, or None where none are left over.
        """
        length, inside = self._length(first), slice(self.ends[first], self.ends[last])
        nodes, edges = self.node[first:last], self.edges[inside]
        if inside.stop - inside.start == (last - first) * length:
            return nodes, edges, edges, None
        place = torch.arange(length, device=edges.device)
        place = torch.minimum(place, self.count[first:last, None] - 1)
        slots = self.edges[self.first[first:last, None] + place].flatten()
        return nodes, slots, edges, (self.row[inside] - first) * length + self.place[inside]


def relative_positions(G: GraphLike) -> Tensor:
    """``edata['d']`` of ``G`` as ``[edges, 3]``, its type and shape checked."""
    if "d" not in G.edata:
        raise KeyError(
            "the graph must have edata['d'] (data.d in PyTorch Geometric), "
            "the relative positions x_dst - x_src of its edges"
        )
    d = G.edata["d"]
    if d.shape not in ((G.num_edges(), 3), (G.num_edges(), 1, 3)):
        raise ValueError(
            f"edata['d'] must have shape [{G.num_edges()}, 3] or [{G.num_edges()}, 1, 3], got {list(d.shape)}"
        )
    if d.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"edata['d'] must be float32 or float64, got {d.dtype}{half_remedy(d)}")
    return d.reshape(-1, 3)


def check_values(G: GraphLike) -> None:
    """Refuse ``G`` where the numbers on its edges are not as a :class:`Plan` needs them, for what makes none.

    In code that PyTorch compiles or exports nothing can be looked at; relative positions are then when it runs.

    Raises:
        KeyError, TypeError, ValueError: as of :class:`Plan`.
    """
    if is_recorded():
        fits = (relative_positions(G).abs() <= LARGEST_DISTANCE).all()
        torch._assert_async(fits, f"edata['d'] must be finite and at most {LARGEST_DISTANCE:.0e}")
        return
    with torch.no_grad():
        _check_values(*_read(G))


def _read(G: GraphLike) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, int]:
    """All of a graph that a plan depends on: both nodes of the edges, and the fields that layers compute with."""
    return *G.edges(), relative_positions(G).detach(), edge_features(G), edge_envelope(G), G.num_nodes()


def _looked_at(
    src: Tensor, dst: Tensor, d: Tensor, w: Tensor | None, envelope: Tensor | None, num_nodes: int
) -> tuple[Tensor, ...]:
    """The tensors of a plan; an error where values are not as they must be."""
    _check_values(src, dst, d, w, envelope, num_nodes)
    # Copies: the graph's own may be written to.
    src, dst = (ends.to(torch.int64, copy=True) for ends in (src, dst))
    pairs = _pairs(src, dst, num_nodes, d, w)
    alone = torch.ones(len(src), dtype=torch.bool, device=d.device).index_fill(0, pairs.flatten(), False)
    order = torch.cat([pairs.flatten(), alone.nonzero().squeeze(-1)])
    return src, dst, order, pairs, _is_zero(d).nonzero().squeeze(-1)


def _shapes(src: Tensor, dst: Tensor, d: Tensor, w: Any, envelope: Any, num_nodes: int) -> tuple[Tensor, ...]:
    """The same, without values."""
    ends = [src.new_empty(src.shape, dtype=torch.int64) for _ in range(3)]
    return *ends, ends[0].new_empty(_unknown_size(), 2), ends[0].new_empty(_unknown_size())


def _unknown_size() -> Any:
    try:
        return torch.library.get_ctx().new_dynamic_size()
    except (
        torch._subclasses.fake_tensor.DynamicOutputShapeException
    ):  # as FakeTensorMode has it, unless it is told to use symbols
        return 0


LIBRARY.define(
    "plan(Tensor src, Tensor dst, Tensor d, Tensor? w, Tensor? envelope, SymInt num_nodes)"
    " -> (Tensor src, Tensor dst, Tensor order, Tensor pairs, Tensor zero_edges)"
)
LIBRARY.impl("plan", _looked_at, "CompositeExplicitAutograd")
torch.library.register_fake(f"{NAMESPACE}::plan", _shapes, lib=LIBRARY)


def _ranges(d: Tensor, w: Tensor | None, envelope: Tensor | None) -> list[tuple[str, Tensor, str, Tensor]]:
    """The fields that layers compute with: name, value, which numbers are allowed, and where it has such."""
    limit = f"finite and at most {LARGEST_DISTANCE:.0e}"
    ranges = [("edata['d']", d, limit, d.abs() <= LARGEST_DISTANCE)]
    if w is not None:
        ranges.append(("edata['w']", w, limit, w.abs() <= LARGEST_DISTANCE))
    if envelope is not None:
        fits = (envelope >= 0) & envelope.isfinite()
        ranges.append(("edata['envelope']", envelope, "at least 0 and finite", fits))
    return ranges


def values_in_range(G: GraphLike, d: Tensor) -> Tensor:
    """Whether the fields of ``G`` that layers compute with, ``d`` and others, are finite and so on, as a tensor."""
    return torch.stack([fits.all() for *_, fits in _ranges(d, edge_features(G), edge_envelope(G))]).all()


def edge_features(G: GraphLike) -> Tensor | None:
    """``edata['w']`` of ``G`` as ``[edges, edge_dim]``, without its gradient; None where there is none.

    Raises:
        TypeError, ValueError: it is not of real numbers, or has another shape.
    """
    if "w" not in G.edata:
        return None
    w, edges = as_floating_point(G.edata["w"], torch.float64), G.num_edges()
    check_floating_point(w, "edata['w']")
    if w.dim() not in (2, 3) or w.shape[2:] not in ((), (1,)):
        raise ValueError(
            f"edata['w'] must have shape [{edges}, edge_dim] or [{edges}, edge_dim, 1], got {list(w.shape)}"
        )
    return w.detach().flatten(1)


def _check_values(
    src: Tensor, dst: Tensor, d: Tensor, w: Tensor | None, envelope: Tensor | None, num_nodes: int
) -> None:
    for name, value, allowed, fits in _ranges(d, w, envelope):
        if not fits.all():
            edge = int((~fits).any(1).nonzero()[0])
            raise ValueError(f"{name} must be {allowed}, got {value[edge].tolist()} on edge {edge}")
    for name, ends in (("src", src), ("dst", dst)):
        if ((ends < 0) | (ends >= num_nodes)).any():
            raise ValueError(f"{name} must hold nodes in [0, {num_nodes}), got {ends.min()} to {ends.max()}")


def _is_zero(d: Tensor) -> Tensor:
    return (d == 0).all(-1)


def _radial_input(d: Tensor, w: Tensor | None) -> Tensor:
    """What the radial networks see of each edge, ``[edges, edge_dim + 1]``."""
    r = length_and_direction(d)[0]
    return r if w is None else torch.cat([w, r], dim=-1)


def _pairs(src: Tensor, dst: Tensor, num_nodes: int, d: Tensor, w: Tensor | None) -> Tensor:
    """Edges and their reverses with opposite ``d`` and equal ``w``, each edge at most once, ``[pairs, 2]``.

    Lengths of opposite vectors are equal on whatever device they are computed; those of others may be by chance.
    """
    key = torch.minimum(src, dst) * num_nodes + torch.maximum(src, dst)
    ahead, back = (src < dst).nonzero().squeeze(-1), (src > dst).nonzero().squeeze(-1)
    (ahead_key, ahead), (back_key, back) = _sorted(key, ahead), _sorted(key, back)
    if any((found[1:] == found[:-1]).any() for found in (ahead_key, back_key)):  # repeated, as in periodic cells
        key = _finer(key, torch.where((src < dst)[:, None], d, -d))
        (ahead_key, ahead), (back_key, back) = _sorted(key, ahead.sort().values), _sorted(key, back.sort().values)
    if not len(back):
        return back.new_zeros(0, 2)
    # Of repeated edges the first is paired with the first, the second with the second ...
    reverse = back
    if not torch.equal(ahead_key, back_key):  # some edge has no reverse
        place = torch.arange(len(ahead), device=src.device) - torch.searchsorted(ahead_key, ahead_key)
        partner = torch.searchsorted(back_key, ahead_key) + place
        exists, partner = partner < len(back), partner.clamp_max(len(back) - 1)
        exists &= back_key[partner] == ahead_key
        ahead, reverse = ahead[exists], back[partner[exists]]
    fits = (d[ahead] == -d[reverse]).all(-1)
    if w is not None:
        fits &= (w[ahead] == w[reverse]).all(-1)
    return torch.stack([ahead, reverse], dim=1)[fits]


def _sorted(key: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """The keys of these edges, ascending, and the edges."""
    found, order = key[edges].sort(stable=True)
    return found, edges[order]


def _finer(key: Tensor, d: Tensor) -> Tensor:
    """Keys of edges, equal where both ``key`` and ``d`` are."""
    order = torch.arange(len(key), device=key.device)
    for column in (*d.flip(1).T, key):
        order = order[column[order].argsort(stable=True)]
    differs = (key[order].diff() != 0) | (d[order][1:] != d[order][:-1]).any(-1)
    number = torch.cat([differs.new_zeros(1), differs]).cumsum(0)
    return torch.empty_like(key).index_copy_(0, order, number)
