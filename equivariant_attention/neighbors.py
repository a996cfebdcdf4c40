"""Graphs from positions: every pair of nodes, the k nearest, or those within a radius.

Which nodes are neighbours is decided on squared distances in float64, written out operation by operation, so that the
tree searched on a CPU and the blocks of distances made on a GPU find the same edges, ties included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from .checks import check_positive, check_whole_number
from .envelope import polynomial_envelope
from .graphs import Graph, graph_of_node, graph_sizes
from .periodic import Cells, offsets
from .plan import LARGEST_DISTANCE
from .segments import segment_size
from .so3.vectors import length_and_direction

_BLOCK = 2**20  # distances held at once in the search on a GPU: 8 MiB, and some five times that beside them
_SLACK = 1 + 1e-9  # by how much a tree searches beyond a distance, so that its own rounding misses no candidate

# From positions, float64 [n, 3], to edges (src, dst), int64, ordered by destination, then source: of one graph on a
# CPU, of a batch of graphs of these sizes on a GPU.
_Edges = tuple[Tensor, Tensor]
_Search = tuple[Callable[[Tensor], _Edges], Callable[[Tensor, Sequence[int]], _Edges]]
_Array = TypeVar("_Array", Tensor, np.ndarray)


def fully_connected_graph(x: Tensor, batch: Tensor | None = None) -> Graph:
    """Return the graph with an edge, each way, between every two nodes of a graph.

    Args:
        x: positions `[nodes, 3]`, float32 or float64, in any unit, on any device; may require a gradient.
        batch: graph number of each node, sorted, int `[nodes]`, as in PyTorch Geometric; by default one graph.

    Returns:
        A Graph with `ndata['x']` `[nodes, 1, 3]`, `edata['d'] = x_dst - x_src` `[edges, 3]`, differentiable with
        respect to `x`, and its batch sizes; edges ordered by destination, then source; never from a node to itself.

    Raises:
        ValueError: `x` or `batch` is not as above, or a position is not finite and at most 5e17.
    """
    _check_positions(x)
    sizes = _sizes(x, batch)
    return _with_positions(x, sizes, *_every_pair(sizes, x.device))


def knn_graph(x: Tensor, k: int, batch: Tensor | None = None) -> Graph:
    """Return the graph with an edge to every node from each of the `k` nodes of its graph nearest to it.

    Args:
        x, batch: as for `fully_connected_graph`.
        k: at least 1; a node with fewer others in its graph has an edge from each of them. Of equally near nodes the
            first are taken.

    Returns:
        A Graph as from `fully_connected_graph`.

    Raises:
        ValueError: `x`, `k` or `batch` is not as above, or a position is not finite and at most 5e17.
    """
    check_whole_number(k, 1, "k")
    return _graph(x, batch, (partial(_nearest_in_tree, k=k), partial(_nearest_in_blocks, k=k)))


def radius_graph(
    x: Tensor,
    radius: float,
    batch: Tensor | None = None,
    cell: Tensor | None = None,
    pbc: bool | Tensor | Sequence[bool] | None = None,
    envelope: int | None = None,
) -> Graph:
    """Return the graph with an edge, each way, between every two nodes of a graph at most `radius` apart.

    In a cell that repeats, an edge leads from every image of a node that is near enough, of the node itself too: two
    nodes then have as many edges as there are such images. Positions need not lie in the cell. It takes `vesin`, whose
    time grows with the number of nodes, or `ase`, which is slower.

    Args:
        x, batch: as for `fully_connected_graph`.
        radius: larger than 0, in the unit of `x`, and finite in a cell; a distance equal to it counts.
        cell: the vectors by which the nodes repeat, a row each, `[3, 3]` for all graphs or `[graphs, 3, 3]`, of the
            dtype and on the device of `x`; may require a gradient. None for nodes that do not repeat.
        pbc: along which vectors they do: a bool, or `[3]` or `[graphs, 3]` of them; None along all of a cell. Others
            may be zero.
        envelope: p of the `polynomial_envelope` that lets edges end smoothly (6 does well), at least 1; None for edges
            that count in full up to the radius, as published.

    Returns:
        A Graph as from `fully_connected_graph`. In a cell `edata['d'] = x_dst - (x_src + offset)`, with
        `edata['offset']` `[edges, 3]` from a node to its image, both differentiable with respect to `cell` also, and
        edges ordered by destination, source, and image. With an envelope also `edata['envelope']` `[edges, 1]`,
        differentiable too, by which layers weigh what they gather.

    Raises:
        ValueError: an argument is not as above, a position is not finite and at most 5e17, or the cell is not finite,
            is flat, or has no vector along which it is to repeat.
        ImportError: there is a cell, and neither `vesin` nor `ase`.
    """
    check_positive(radius, "radius")
    radius = float(radius)
    if envelope is not None:
        check_whole_number(envelope, 1, "envelope")
    _check_positions(x)
    sizes = _sizes(x, batch)
    cells = Cells.of(cell, pbc, x, len(sizes), radius)
    if cells is None:
        graph = _graph(x, batch, (partial(_within_in_tree, radius=radius), partial(_within_in_blocks, radius=radius)))
    else:
        graph = _periodic_graph(x, sizes, cells, radius)
    if envelope is not None:
        r, _ = length_and_direction(graph.edata["d"])
        graph.edata["envelope"] = polynomial_envelope(r, radius, envelope)
    return graph


def _sizes(x: Tensor, batch: Tensor | None) -> list[int]:
    return [len(x)] if batch is None else graph_sizes(batch, len(x)).tolist()


def _graph(x: Tensor, batch: Tensor | None, search: _Search) -> Graph:
    """The Graph of all edges that the search finds in each graph of the batch."""
    _check_positions(x)
    sizes = _sizes(x, batch)
    # On a GPU other than CUDA there may be no float64.
    points = x.detach().to(x.device if x.is_cuda else "cpu").double()
    of_one, of_all = search
    if x.is_cuda:
        return _with_positions(x, sizes, *of_all(points, sizes))
    graph = _joined(x, sizes, [of_one(part) for part in points.split(sizes)])
    src, dst = graph.edges()
    graph.edata["d"] = x[dst] - x[src]
    return graph


def _periodic_graph(x: Tensor, sizes: list[int], cells: Cells, radius: float) -> Graph:
    parts = x.detach().cpu().double().split(sizes)
    found = [[torch.from_numpy(a) for a in cells.near(part.numpy(), i, radius)] for i, part in enumerate(parts)]
    graph = _joined(x, sizes, [(src, dst) for src, dst, _ in found])
    image = torch.cat([x.new_zeros(0, 3, dtype=torch.int64, device="cpu"), *(image for _, _, image in found)])
    offset = offsets(cells, image.to(x.device), [len(image) for _, _, image in found])
    src, dst = graph.edges()
    graph.edata["offset"] = offset
    graph.edata["d"] = x[dst] - x[src] - offset  # in this order, so that the two directions of an edge are opposite
    return graph


def _with_positions(x: Tensor, sizes: Sequence[int], src: Tensor, dst: Tensor) -> Graph:
    """The batch of graphs of these sizes with these edges."""
    graph = Graph(src, dst, len(x))
    graph.set_batch_num_nodes(sizes)
    graph.set_batch_num_edges(segment_size(graph_of_node(graph)[dst], len(sizes)))
    graph.ndata["x"] = x[:, None, :]
    graph.edata["d"] = x[dst] - x[src]
    return graph


def _joined(x: Tensor, sizes: list[int], found: Sequence[tuple[Tensor, Tensor]]) -> Graph:
    """The batch of graphs with these edges (src, dst), each counted from its first node."""
    first, edges = 0, [x.new_zeros(2, 0, dtype=torch.int64, device=found[0][0].device if found else x.device)]
    for size, ends in zip(sizes, found, strict=True):
        edges.append(torch.stack(ends) + first)
        first += size
    src, dst = torch.cat(edges, dim=1).to(x.device)
    graph = Graph(src, dst, len(x))
    graph.set_batch_num_nodes(sizes)
    graph.set_batch_num_edges([len(ends[0]) for ends in found])
    graph.ndata["x"] = x[:, None, :]
    return graph


def _check_positions(x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64) or x.shape[1:] != (3,):
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must be a float32 or float64 tensor [nodes, 3], got {got}")
    fits = (x.abs() <= LARGEST_DISTANCE / 2).all(dim=1)
    if not fits.all():
        node = int((~fits).nonzero()[0])
        limit = f"{LARGEST_DISTANCE / 2:.0e}"
        raise ValueError(f"x must be finite and at most {limit}, got {x[node].tolist()} at node {node}")


def _every_pair(sizes: Sequence[int], device: torch.device | str = "cpu") -> _Edges:
    size = torch.tensor(sizes, dtype=torch.int64, device=device)
    nodes, total = sum(sizes), sum(n * (n - 1) for n in sizes)
    first, others = (v.repeat_interleave(size, output_size=nodes) for v in (size.cumsum(0) - size, size - 1))
    dst = torch.arange(nodes, device=device).repeat_interleave(others, output_size=total)
    src = torch.arange(total, device=device) - (others.cumsum(0) - others - first)[dst]
    # The sources of a node are counted past the node itself.
    return src + (src >= dst), dst


def _nearest_in_tree(points: Tensor, k: int) -> _Edges:
    if len(points) < 2:
        return _every_pair([len(points)])
    k, tree = min(k, len(points) - 1), cKDTree(points.numpy())
    # The node itself is one of the k + 1. A tree settles ties as it likes, so it is asked for the distance of the last
    # neighbour, and then for all nodes up to that distance.
    reach = tree.query(tree.data, k=[k + 1])[0][:, 0]
    src, dst, squared = _candidates(tree, reach)
    order = np.lexsort((src, squared, dst))
    src, dst = src[order], dst[order]
    rank = np.arange(len(dst)) - np.searchsorted(dst, dst)
    return _ordered(src[rank < k], dst[rank < k])


def _within_in_tree(points: Tensor, radius: float) -> _Edges:
    if len(points) < 2:
        return _every_pair([len(points)])
    src, dst, squared = _candidates(cKDTree(points.numpy()), radius)
    near = np.sqrt(squared) <= radius
    return _ordered(src[near], dst[near])


def _candidates(tree: cKDTree, reach: float | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of other nodes within reach of a node, or a little beyond: (src, dst, squared distance)."""
    sources = tree.query_ball_point(tree.data, reach * _SLACK)
    counts = np.fromiter(map(len, sources), np.int64, len(sources))
    src = np.fromiter(chain.from_iterable(sources), np.int64, counts.sum())
    dst = np.repeat(np.arange(len(sources)), counts)
    src, dst = src[src != dst], dst[src != dst]
    return src, dst, _squared_distance(tree.data[dst], tree.data[src])


def _ordered(src: np.ndarray, dst: np.ndarray) -> tuple[Tensor, Tensor]:
    order = np.lexsort((src, dst))
    return torch.from_numpy(src[order]), torch.from_numpy(dst[order])


def _nearest_in_blocks(points: Tensor, sizes: Sequence[int], k: int) -> _Edges:
    size = torch.tensor(sizes, dtype=torch.int64, device=points.device)
    wanted = (size - 1).clamp(0, k).repeat_interleave(size, output_size=len(points))
    total = sum(n * min(n - 1, k) for n in sizes if n)
    found = wanted.new_empty(total + 1)  # of which the last takes what is not near
    before = wanted.cumsum(0) - wanted
    for rows, first, squared in _blocks(points, sizes):
        distance, own = squared.nan_to_num(nan=math.inf), wanted[rows, None]
        least = distance.topk(min(k, distance.shape[1]), dim=1, largest=False, sorted=True).values
        limit = least.gather(1, (own - 1).clamp_min(0))
        # Of those as far as the last the first ones, which topk may not give.
        near, last = distance < limit, distance == limit
        near |= last & (last.cumsum(1) <= own - near.sum(1, keepdim=True))
        place = torch.where(near, before[rows, None] + near.cumsum(1) - 1, total)
        src = (first[:, None] + torch.arange(place.shape[1], device=points.device)).expand_as(place)
        found.scatter_(0, place.flatten(), src.flatten())
    dst = torch.arange(len(points), device=points.device).repeat_interleave(wanted, output_size=total)
    return found[:total], dst


def _within_in_blocks(points: Tensor, sizes: Sequence[int], radius: float) -> _Edges:
    found = [torch.zeros(2, 0, dtype=torch.int64, device=points.device)]
    for rows, first, squared in _blocks(points, sizes):
        row, place = (squared.sqrt() <= radius).nonzero(as_tuple=True)
        found.append(torch.stack([first[row] + place, rows[row]]))
    src, dst = torch.cat(found, dim=1)
    return src, dst


def _blocks(points: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Nodes, block by block; the first node of the graph of each; and their squared distances to it and those after it:
    `[block]`, `[block]`, `[block, nodes of the largest graph]`; NaN to the node itself and beyond its graph.
    """
    widest = max(sizes, default=0)
    if not widest:
        return
    size = torch.tensor(sizes, dtype=torch.int64, device=points.device)
    first, size = ((v.repeat_interleave(size, output_size=len(points))) for v in (size.cumsum(0) - size, size))
    place = torch.arange(widest, device=points.device)
    for rows in torch.arange(len(points), device=points.device).split(max(1, _BLOCK // widest)):
        start = first[rows]
        others = (start[:, None] + place).clamp_max(len(points) - 1)
        squared = _squared_distance(points[rows, None], points[others])
        # Not infinity, which is within an infinite radius: NaN is within none.
        beyond = (place >= size[rows, None]) | (others == rows[:, None])
        yield rows, start, squared.masked_fill_(beyond, math.nan)


def _squared_distance(a: _Array, b: _Array) -> _Array:
    """Between points `[..., 3]`: `[...]`; no fused or reordered sum, so rounded alike by NumPy, a CPU and a GPU."""
    difference = a - b
    x, y, z = (difference[..., i] for i in range(3))
    return x * x + y * y + z * z
