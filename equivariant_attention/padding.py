"""Batches padded to few sizes: what was compiled, or captured as a CUDA graph, for one of them then serves others."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .graphs import as_graph, rebuilt
from .plan import Plan


class Sizes(NamedTuple):
    """How much there is of everything in a batch.

    Attributes:
        nodes, edges, graphs: of the batch.
        pairs, zero_edges: how many its :class:`~equivariant_attention.plan.Plan` has.
    """

    nodes: int
    edges: int
    graphs: int
    pairs: int
    zero_edges: int = 0

    @classmethod
    def of(cls, G: Any, plan: Plan) -> Sizes:
        """Those of a batch as it is.

        Args:
            G: the graphs.
            plan: theirs.

        Returns:
            the sizes.
        """
        return cls(plan.num_nodes, plan.num_edges, as_graph(G).batch_size, len(plan.pairs), len(plan.zero_edges))

    def rounded(self, steps: int = 16) -> Sizes:
        """The least sizes with room for these and a graph of padding, of which there are few.

        There are ``steps`` between a power of two and the next, so that at most one in ``steps`` is padding, beside two
        nodes. Graphs are one more, however many there are.

        Args:
            steps: a power of two.

        Returns:
            the sizes.
        """

        def up(number: int) -> int:
            step = max(1, (1 << number.bit_length() - 1) // steps) if number else 1
            return -(-number // step) * step

        pairs, zero_edges = up(self.pairs), up(self.zero_edges)
        alone = up(self.edges - 2 * self.pairs + zero_edges - self.zero_edges)
        return Sizes(up(self.nodes + 2), 2 * pairs + alone, self.graphs + 1, pairs, zero_edges)


def padded(G: Any, plan: Plan, sizes: Sizes) -> tuple[Any, Plan]:
    """A batch with graphs of padding at its end.

    No edge joins them to the others, so they change nothing: the first rows of every output, on nodes, edges and
    graphs, are what they were, and so are derivatives of what depends on these alone. Losses are to leave out the rest.

    The nodes are couples, one unit apart along the first axis, and the edges lead from one of a couple to the other;
    those of length zero lead from a node to itself. Other numbers on them are those of the first node and edge of the
    batch, so that what has no NaN there has none here; ``edata['offset']`` is 0. All graphs of padding but the last
    have one node each.

    Args:
        G: the graphs, with ``edata['d']``.
        plan: theirs.
        sizes: what they are to have then.

    Returns:
        graphs of the same kind, and their plan, whose lists by node are made.

    Raises:
        ValueError: there is no room for the batch in ``sizes``, or none for the nodes of the padding.
    """
    graph = as_graph(G)
    nodes, edges, graphs, pairs, zero_edges = (more - own for more, own in zip(sizes, Sizes.of(G, plan), strict=True))
    alone = edges - 2 * pairs - zero_edges
    joined = pairs + alone > 0
    if min(nodes, graphs, pairs, zero_edges, alone) < 0 or nodes < graphs + joined or (graphs == 0 and nodes + edges):
        raise ValueError(
            f"sizes must have room for {Sizes.of(G, plan)} and, if there is more, for a graph of padding with a node, "
            f"or two with edges, got {sizes}"
        )
    src, dst = _ends(plan.num_nodes + graphs - 1, nodes - graphs + 1, pairs, alone, zero_edges, plan.src)
    ndata = {name: _more(value, nodes) for name, value in graph.ndata.items()}
    edata = {name: _more(value, edges) for name, value in graph.edata.items()}
    place = torch.arange(sizes.nodes, device=plan.src.device)
    x = torch.zeros(sizes.nodes, 3, dtype=edata["d"].dtype, device=plan.src.device)
    x[:, 0] = (place - plan.num_nodes - graphs + 1) % 2
    _overwrite(ndata, "x", plan.num_nodes, x[plan.num_nodes :])
    _overwrite(edata, "d", plan.num_edges, x[dst] - x[src])
    _overwrite(edata, "offset", plan.num_edges, torch.zeros_like(x[src]))
    all_src, all_dst = (
        torch.cat([own, more.to(own.dtype)]) for own, more in zip(graph.edges(), (src, dst), strict=True)
    )
    counts = _last(graph.batch_num_nodes(), graphs, 1, nodes), _last(graph.batch_num_edges(), graphs, 0, edges)
    return rebuilt(G, all_src, all_dst, ndata, edata, *counts), _plan(plan, sizes, src, dst, pairs, zero_edges)


def _last(counts: Tensor, graphs: int, each: int, total: int) -> Tensor:
    """The ``counts`` of a batch, and of so many more graphs with ``total`` in all, ``each`` in all of them but one."""
    added = [each] * (graphs - 1) + [total - each * (graphs - 1)]
    return torch.cat([counts, counts.new_tensor(added[:graphs])])


def _ends(first: int, nodes: int, pairs: int, alone: int, zero_edges: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where the edges of the last graph start and end: pairs, then those without a reverse, then loops."""
    number = torch.arange(max(pairs, alone, zero_edges), device=like.device)
    a = first + 2 * (number % max(nodes // 2, 1))
    there, back = torch.stack([a, a + 1], dim=1)[:pairs], torch.stack([a + 1, a], dim=1)[:pairs]
    loops = first + number[:zero_edges] % max(nodes, 1)
    return torch.cat([there.flatten(), a[:alone], loops]), torch.cat([back.flatten(), a[:alone] + 1, loops])


def _more(values: Tensor, count: int) -> Tensor:
    """The values, and so many times the first of them; zeros, where there is none."""
    first = values[:1] if len(values) else values.new_zeros(1, *values.shape[1:])
    return torch.cat([values, first.detach().expand(count, *values.shape[1:])])


def _overwrite(fields: dict[str, Tensor], name: str, first: int, vectors: Tensor) -> None:
    """Put vectors ``[rows, 3]`` into the last rows of a field, where there is one."""
    if name in fields:
        field = fields[name]
        fields[name] = torch.cat([field[:first], vectors.to(field.dtype).reshape(-1, *field.shape[1:])])


def _plan(plan: Plan, sizes: Sizes, src: Tensor, dst: Tensor, pairs: int, zero_edges: int) -> Plan:
    """The plan of a batch that is padded with these edges."""
    added = torch.arange(plan.num_edges, sizes.edges, device=src.device)
    paired = torch.cat([plan.pairs, added[: 2 * pairs].view(-1, 2)])
    alone = torch.cat([plan.order[2 * len(plan.pairs) :], added[2 * pairs :]])
    new = Plan.__new__(Plan)
    new.fill(
        sizes.nodes,
        torch.cat([plan.src, src]),
        torch.cat([plan.dst, dst]),
        torch.cat([paired.flatten(), alone]),
        paired,
        torch.cat([plan.zero_edges, added[len(added) - zero_edges :]]),
    )
    _ = new.by_source, new.by_destination  # made here, and not on a GPU in every step
    return new
