"""The graphs of a data set in a few long arrays, from which batches and their plans are gathered by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from equivariant_attention.graphs import Graph
from equivariant_attention.plan import Plan
from utils.ragged import ranges, starts

CHUNK = 4096  # graphs whose pairs of edges are looked for at once: what that takes beside the table is small


class GraphTable:
    """Graphs whose edges and positions do not change.

    Which edges are pairs, of equal length and features in both directions, is found out once: the edges of each graph
    are kept in the order of its plan, pairs first, so that the plan of a batch is known without a look at values.

    Args:
        num_nodes, num_edges: of every graph, int64 ``[graphs]``.
        src, dst: the nodes of every edge, counted within its graph, int ``[edges]``, graph after graph.
        x: positions ``[nodes, 3]``.
        ndata: other fields, ``[nodes, ...]``.
        edata: numbers that radial networks depend on, ``[edges]`` or ``[edges, features]``.
    """

    def __init__(
        self,
        num_nodes: np.ndarray,
        num_edges: np.ndarray,
        src: np.ndarray,
        dst: np.ndarray,
        x: np.ndarray,
        ndata: Mapping[str, np.ndarray],
        edata: Mapping[str, np.ndarray],
    ) -> None:
        self.num_nodes, self.num_edges = num_nodes, num_edges
        self._first_node, self._first_edge = starts(num_nodes), starts(num_edges)
        order, self._num_pairs = self._pairs_first(src, dst, x, edata)
        self._ends = torch.from_numpy(np.stack([src, dst])[:, order])
        self._ndata = {name: torch.from_numpy(values) for name, values in {**ndata, "x": x}.items()}
        self._edata = {name: torch.from_numpy(values[order]) for name, values in edata.items()}

    def __len__(self) -> int:
        return len(self.num_nodes)

    def _pairs_first(
        self, src: np.ndarray, dst: np.ndarray, x: np.ndarray, edata: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """All edges, those of each graph in the order of its plan; and how many pairs each graph has."""
        owner = np.repeat(np.arange(len(self)), self.num_edges)
        orders, num_pairs = [np.empty(0, np.int64)], np.zeros(len(self), np.int64)
        for first in range(0, len(self), CHUNK):
            last = min(first + CHUNK, len(self))
            nodes, edges = (slice(s[first], s[last]) for s in (self._first_node, self._first_edge))
            to_first = self._first_node[owner[edges]] - nodes.start
            G = Graph(
                *(torch.from_numpy(ends[edges].astype(np.int64) + to_first) for ends in (src, dst)),
                num_nodes=nodes.stop - nodes.start,
            )
            positions, ends = torch.from_numpy(x[nodes].astype(np.float64)), G.edges()
            G.edata["d"] = positions[ends[1]] - positions[ends[0]]
            features = [values[edges].astype(np.float64) for values in edata.values()]
            G.edata["w"] = torch.from_numpy(np.column_stack([np.empty((len(to_first), 0)), *features]))
            plan = Plan(G)
            order = edges.start + plan.order.numpy()
            orders.append(order[np.argsort(owner[order], kind="stable")])
            num_pairs += np.bincount(owner[edges.start + plan.pairs[:, 0].numpy()], minlength=len(self))
        return np.concatenate(orders), num_pairs

    def batch(self, indices: Sequence[int], turns: Tensor | None = None) -> tuple[Graph, Plan]:
        """Some of the graphs, as one batch.

        Args:
            indices: which, int ``[S]``.
            turns: what their positions are turned by, and mirrored where the determinant is -1, ``[S, 3, 3]``; None
                for nothing.

        Returns:
            the graphs with all fields and ``edata['d']``, x_dst - x_src; and their plan.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        num_nodes, num_edges, num_pairs = self.num_nodes[chosen], self.num_edges[chosen], self._num_pairs[chosen]
        nodes, edges = (
            torch.from_numpy(ranges(first[chosen], sizes))
            for first, sizes in ((self._first_node, num_nodes), (self._first_edge, num_edges))
        )
        to_first = torch.from_numpy(np.repeat(starts(num_nodes)[:-1], num_edges))
        src, dst = self._ends.index_select(1, edges).long() + to_first
        G = Graph(src, dst, num_nodes=len(nodes))
        G.set_batch_num_nodes(torch.from_numpy(num_nodes))
        G.set_batch_num_edges(torch.from_numpy(num_edges))
        G.ndata.update({name: values.index_select(0, nodes) for name, values in self._ndata.items()})
        G.edata.update({name: values.index_select(0, edges) for name, values in self._edata.items()})
        if turns is not None:
            turned = turns.repeat_interleave(G.batch_num_nodes(), dim=0) @ G.ndata["x"].unsqueeze(-1)
            G.ndata["x"] = turned.squeeze(-1)
        x = G.ndata["x"]
        G.edata["d"] = x.index_select(0, dst) - x.index_select(0, src)
        return G, _plan(G, num_edges, num_pairs)


def _plan(G: Graph, num_edges: np.ndarray, num_pairs: np.ndarray) -> Plan:
    """The plan of graphs whose first edges are pairs."""
    order = np.arange(num_edges.sum())
    if 2 * num_pairs.sum() < len(order):
        paired = order - np.repeat(starts(num_edges)[:-1], num_edges) < np.repeat(2 * num_pairs, num_edges)
        order = np.concatenate([order[paired], order[~paired]])
    places, (src, dst) = torch.from_numpy(order), G.edges()
    pairs = places[: 2 * num_pairs.sum()].clone().view(-1, 2)
    zero_edges = (G.edata["d"] == 0).all(dim=1).nonzero().squeeze(1)
    plan = Plan.__new__(Plan)
    plan.fill(G.num_nodes(), src.clone(), dst.clone(), places, pairs, zero_edges)
    return plan
