"""The graphs of batches: of which class, and in which precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equivariant_attention.graphs import Graph, as_graph, import_dgl
from equivariant_attention.plan import Plan
from utils.cli import UsageError


def choose_graph(graph: str, device: torch.device) -> str:
    """What --graph means here, ``'dgl'`` or ``'own'``.

    Args:
        graph: the flag, ``'auto'``, ``'dgl'`` or ``'own'``.
        device: of the training.

    Raises:
        UsageError: DGL is asked for and cannot be used.
    """
    if graph == "own" or (graph == "auto" and device.type != "cpu"):
        return "own"
    try:
        import_dgl().graph(([0], [0])).to(device)
    except Exception as error:  # DGL fails in many ways where it is not made for this PyTorch, Python or device
        if graph == "auto":
            return "own"
        raise UsageError(f"--graph dgl: DGL cannot be used here on {device}: {error}") from error
    return "dgl"


def make_graph(graph: str, src: Tensor, dst: Tensor, num_nodes: int) -> Any:
    """A graph without fields.

    Args:
        graph: ``'own'`` for :class:`~equivariant_attention.graphs.Graph`, ``'dgl'`` for a ``dgl.DGLGraph``.
        src, dst: int ``[edges]``.
        num_nodes: how many.

    Raises:
        ValueError: another ``graph``.
    """
    if graph == "own":
        return Graph(src, dst, num_nodes=num_nodes)
    if graph == "dgl":
        return import_dgl().graph((src, dst), num_nodes=num_nodes)
    raise ValueError(f"graph: expected 'own' or 'dgl', got {graph!r}")


def fully_connected(graph: str, num_graphs: int, n: int) -> tuple[Any, Tensor, Tensor]:
    """Graphs of n nodes each, in one batch, with an edge each way between every two nodes of a graph.

    Args:
        graph: as for :func:`make_graph`.
        num_graphs: S, how many.
        n: nodes of each.

    Returns:
        the batch, with N = S n nodes and E = S n (n - 1) edges in the order of their destinations, then sources; and
        the nodes that the edges of one graph lead from and to, int64 ``[n (n - 1)]`` each.

    Raises:
        ValueError: another ``graph``.
    """
    dst, src = (~torch.eye(n, dtype=torch.bool)).nonzero(as_tuple=True)
    first = torch.arange(num_graphs).mul(n).unsqueeze(1)
    G = make_graph(graph, (first + src).flatten(), (first + dst).flatten(), num_graphs * n)
    G.set_batch_num_nodes(torch.full((num_graphs,), n))
    G.set_batch_num_edges(torch.full((num_graphs,), n * (n - 1)))
    return G, src, dst


def complete(batch: Any) -> Any:
    """A batch whose plans have made what kernels ask of them, so that a GPU need not in every step.

    Args:
        batch: as for :func:`cast`.
    """
    for part in batch if isinstance(batch, tuple) else (batch,):
        if isinstance(part, Plan):
            _ = part.by_source, part.by_destination
    return batch


def cast(batch: Any, dtype: torch.dtype) -> Any:
    """A batch with all its real numbers of one type; a graph's fields are changed in place.

    Args:
        batch: a graph, a tensor, a plan (which has no real numbers), None, or a tuple of such.
        dtype: the type.
    """
    if isinstance(batch, tuple):
        return tuple(cast(part, dtype) for part in batch)
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    if batch is None or isinstance(batch, Plan):
        return batch
    graph = as_graph(batch)
    for fields in (graph.ndata, graph.edata):
        for name in list(fields):
            fields[name] = cast(fields[name], dtype)
    return batch
