"""What a layer needs of a graph, and nothing more; the library's own small batched Graph.

Layers take a DGLGraph, this library's Graph or a PyTorch Geometric Data, and read them through `as_graph`.
Neither DGL nor PyTorch Geometric is imported here: a graph of theirs can only arrive where they already are.
"""

from __future__ import annotations

import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor

from .native.private import is_recorded
from .segments import segment_size

_INTEGERS = (torch.int32, torch.int64)
_OF_EDGES = re.compile(r"d|w|r|envelope|offset|rel_pos|f\d+|.*edge.*")  # fields that layers look for on edges


class GraphLike(Protocol):
    """The names every graph returned by `as_graph` has: those of a DGLGraph that the layers read."""

    @property
    def ndata(self) -> MutableMapping[str, Tensor]:
        """Fields of the nodes by name, ``[nodes, ...]``."""

    @property
    def edata(self) -> MutableMapping[str, Tensor]:
        """Fields of the edges by name, ``[edges, ...]``."""

    @property
    def batch_size(self) -> int:
        """Number of graphs."""

    @property
    def device(self) -> torch.device:
        """Where the edges are."""

    def edges(self) -> tuple[Tensor, Tensor]:
        """``(src, dst)``, int ``[edges]``."""

    def num_nodes(self) -> int:
        """Over the whole batch."""

    def num_edges(self) -> int:
        """Over the whole batch."""

    def batch_num_nodes(self) -> Tensor:
        """Of each graph, ``[batch_size]``."""

    def batch_num_edges(self) -> Tensor:
        """Of each graph, ``[batch_size]``."""


class Fields(MutableMapping[str, Tensor]):
    """The tensors on the nodes, or on the edges, of one graph: a dict that refuses what cannot belong to the graph.

    Args:
        kind: 'nodes' or 'edges'.
        count: how many of them, the first dimension of every tensor.
        device: of the graph, and so of every tensor.
        store: where the tensors are kept; as it is, not copied.
    """

    def __init__(self, kind: str, count: int, device: torch.device, store: Any) -> None:
        self._label = {"nodes": "ndata", "edges": "edata"}[kind]
        self._kind, self._count, self._device, self._store = kind, count, device, store

    def _key(self, name: str) -> str:
        """What a field is called in the store."""
        return name

    def _hint(self, name: str) -> str:
        """How to come by a field that is missing."""
        return ""

    def _checked(self, name: str, value: Tensor) -> Tensor:
        field = f"{self._label}[{name!r}]"
        if not isinstance(value, Tensor):
            raise TypeError(f"{field} must be a tensor, got {type(value).__name__}")
        if value.shape[:1] != (self._count,):
            raise ValueError(
                f"{field} must have first dimension {self._count} ({self._kind}), got shape {list(value.shape)}"
            )
        if value.device != self._device:
            raise ValueError(f"{field} must be on the graph's device, {self._device}, got a tensor on {value.device}")
        return value

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(f"no {self._label}[{name!r}] on this graph, only {sorted(self)}{self._hint(name)}")
        return self._checked(name, self._store[self._key(name)])

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._store[self._key(name)] = self._checked(name, value)

    def __delitem__(self, name: str) -> None:
        del self._store[self._key(name)]

    def __contains__(self, name: object) -> bool:
        return name in self._store

    def __iter__(self) -> Iterator[str]:
        return iter(self._store)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        fields = (f"{k!r}: {list(v.shape)} {str(v.dtype).removeprefix('torch.')}" for k, v in self.items())
        return "{" + ", ".join(fields) + "}"


def import_dgl() -> Any:
    """DGL on PyTorch. Where no backend is named, importing it writes one to the user's home folder; not so here.

    Raises:
        ImportError, OSError: it is not installed, or cannot run here.
    """
    named = "DGLBACKEND" in os.environ
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        import dgl
    finally:
        if not named:
            del os.environ["DGLBACKEND"]
    return dgl


class Graph:
    """A directed graph, or a batch of them, with tensors on its nodes (`ndata`) and edges (`edata`).

    The names are DGL's. An edge leads from `src` to `dst`; a batch is one graph whose nodes, and edges, of each member
    are contiguous. A new Graph is a batch of one and has no fields.

    Args:
        src, dst: int32 or int64 `[edges]`, tensors of one device or sequences: where each edge starts and ends.
        num_nodes: number of nodes; by default the largest node of any edge plus one.

    Raises:
        ValueError: `src` or `dst` is not one-dimensional, not of integers, not as long as the other, on another
            device, or holds a node outside `[0, num_nodes)`.
    """

    ndata: Fields
    edata: Fields

    def __init__(self, src: Tensor | Sequence[int], dst: Tensor | Sequence[int], num_nodes: int | None = None) -> None:
        self._src, self._dst = _integers("src", src), _integers("dst", dst)
        if self._src.shape != self._dst.shape:
            raise ValueError(f"dst must be as long as src, {len(self._src)} edges, got {len(self._dst)}")
        for what in ("device", "dtype"):
            of_src, of_dst = getattr(self._src, what), getattr(self._dst, what)
            if of_src != of_dst:
                raise ValueError(f"dst must have the {what} of src, {of_src}, got {of_dst}")
        self._num_nodes = _checked_num_nodes(self._src, self._dst, num_nodes)
        self._batch_num_nodes = self._src.new_full((1,), self._num_nodes, dtype=torch.int64)
        self._batch_num_edges = self._src.new_full((1,), self.num_edges(), dtype=torch.int64)
        self._set_fields({}, {})

    def _set_fields(self, ndata: dict[str, Tensor], edata: dict[str, Tensor]) -> None:
        self.ndata = Fields("nodes", self.num_nodes(), self.device, ndata)
        self.edata = Fields("edges", self.num_edges(), self.device, edata)

    @property
    def device(self) -> torch.device:
        """Where the edges and every field are."""
        return self._src.device

    @property
    def batch_size(self) -> int:
        """Number of graphs in the batch."""
        return self._batch_num_nodes.shape[0]

    def edges(self) -> tuple[Tensor, Tensor]:
        """Return `(src, dst)`, both `[edges]`, in the dtype they were given in."""
        return self._src, self._dst

    def num_nodes(self) -> int:
        """Number of nodes, over the whole batch."""
        return self._num_nodes

    def num_edges(self) -> int:
        """Number of edges, over the whole batch."""
        return self._src.shape[0]

    def number_of_nodes(self) -> int:
        """The same as `num_nodes`, under DGL's other name."""
        return self.num_nodes()

    def number_of_edges(self) -> int:
        """The same as `num_edges`, under DGL's other name."""
        return self.num_edges()

    def nodes(self) -> Tensor:
        """The numbers of all nodes, in the dtype of the edges, `[nodes]`."""
        return torch.arange(self.num_nodes(), dtype=self._src.dtype, device=self.device)

    def in_degrees(self) -> Tensor:
        """How many edges lead to each node, int64 `[nodes]`."""
        return segment_size(self._dst.long(), self.num_nodes())

    def out_degrees(self) -> Tensor:
        """How many edges lead from each node, int64 `[nodes]`."""
        return segment_size(self._src.long(), self.num_nodes())

    def batch_num_nodes(self) -> Tensor:
        """Nodes of each graph, int64 `[batch_size]`."""
        return self._batch_num_nodes

    def batch_num_edges(self) -> Tensor:
        """Edges of each graph, int64 `[batch_size]`."""
        return self._batch_num_edges

    def set_batch_num_nodes(self, sizes: Tensor | Sequence[int]) -> None:
        """Say how the nodes divide into graphs: `sizes` `[batch_size]` must sum to `num_nodes()`, else ValueError."""
        self._batch_num_nodes = _checked_sizes("batch_num_nodes", sizes, self.num_nodes(), self.device)

    def set_batch_num_edges(self, sizes: Tensor | Sequence[int]) -> None:
        """Say how the edges divide into graphs: `sizes` `[batch_size]` must sum to `num_edges()`, else ValueError."""
        self._batch_num_edges = _checked_sizes("batch_num_edges", sizes, self.num_edges(), self.device)

    def __copy__(self) -> Graph:
        return self.local_var()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._set_fields(self.ndata._store, self.edata._store)  # which may be on another device than they were saved on

    def _shallow(self) -> Graph:
        """A new Graph whose attributes are those of this one."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Graph:
        """A new Graph with `function` applied to every tensor of this one."""
        new = self._shallow()
        for name in ("_src", "_dst", "_batch_num_nodes", "_batch_num_edges"):
            setattr(new, name, function(getattr(self, name)))
        new._set_fields(*({k: function(v) for k, v in fields.items()} for fields in (self.ndata, self.edata)))
        return new

    def to(self, device: torch.device | str | int, non_blocking: bool | None = None) -> Graph:
        """Return a new Graph on `device`, sharing tensors already there.

        Args:
            device: where to.
            non_blocking: as for `Tensor.to`; None does not wait for graphs in page-locked memory, see `pin_memory`.
        """
        if non_blocking is None:
            non_blocking = self._src.is_pinned()
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Graph:
        """Return a new Graph in page-locked memory, as `DataLoader(pin_memory=True)` asks for."""
        return self._mapped(Tensor.pin_memory)

    def local_var(self) -> Graph:
        """Return a new Graph that shares every tensor, and whose fields can be set without setting those of this."""
        return self._mapped(lambda tensor: tensor)

    def tensors(self) -> dict[str, Tensor]:
        """All that it holds, by name: edges, batch sizes and fields."""
        own = {"src": self._src, "dst": self._dst}
        own |= {"batch_num_nodes": self._batch_num_nodes, "batch_num_edges": self._batch_num_edges}
        own |= {f"ndata[{name!r}]": value for name, value in self.ndata.items()}
        return own | {f"edata[{name!r}]": value for name, value in self.edata.items()}

    @torch.no_grad()
    def refill(self, other: Graph) -> None:
        """Become another graph in the same memory, from where a captured CUDA graph reads it.

        Args:
            other: of as many nodes, edges and graphs, with the same fields; on any device.

        Raises:
            TypeError, ValueError: it is not a Graph, or not such a one.
        """
        if not isinstance(other, Graph):
            raise TypeError(f"other must be a Graph, got {_type_name(other)}")
        if other.num_nodes() != self.num_nodes():
            raise ValueError(f"other must have {self.num_nodes()} nodes, got {other.num_nodes()}")
        copy_into(self.tensors(), other.tensors(), "other")

    @contextmanager
    def local_scope(self) -> Iterator[None]:
        """A context at whose end the fields are again those that there were before; what is in them is not copied."""
        before = self.ndata, self.edata
        self._set_fields(*(dict(fields) for fields in before))
        try:
            yield
        finally:
            self.ndata, self.edata = before

    @classmethod
    def from_dgl(cls, G: Any) -> Graph:
        """Return the Graph with the edges, batch sizes and fields (shared, not copied) of a homogeneous DGLGraph.

        Raises:
            TypeError: `G` is not a homogeneous DGLGraph.
        """
        if not _is_dgl(G):
            raise TypeError(f"G must be a dgl.DGLGraph, got {_type_name(G)}")
        graph = as_graph(G)
        sizes = graph.batch_num_nodes(), graph.batch_num_edges()
        return _filled(cls(*graph.edges(), graph.num_nodes()), graph.ndata, graph.edata, *sizes)

    def to_dgl(self) -> Any:
        """Return the DGLGraph with the same edges, batch sizes and fields (shared, not copied).

        Raises:
            ImportError: DGL is not installed, or cannot run here.
        """
        try:
            dgl = import_dgl()
        except (ImportError, OSError) as error:
            raise ImportError("Graph.to_dgl() needs DGL, which cannot be imported here; layers take a Graph") from error
        G = dgl.graph(self.edges(), num_nodes=self.num_nodes())
        return _filled(G, self.ndata, self.edata, self.batch_num_nodes(), self.batch_num_edges())

    def __repr__(self) -> str:
        return (
            f"Graph(num_nodes={self.num_nodes()}, num_edges={self.num_edges()}, batch_size={self.batch_size}, "
            f"device={str(self.device)!r},\n      ndata={self.ndata!r},\n      edata={self.edata!r})"
        )


DGLGraph = Graph  # so that type hints of programs that `import graphs as dgl` hold


def graph(data: tuple[Tensor | Sequence[int], Tensor | Sequence[int]], num_nodes: int | None = None) -> Graph:
    """Return the Graph with the edges `data`, as `dgl.graph` does.

    Args:
        data: `(src, dst)`, as `Graph` takes them.
        num_nodes: number of nodes; by default the largest node of any edge plus one.

    Raises:
        TypeError: `data` is no pair.
        ValueError: as `Graph` says.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"data must be (src, dst), got {_type_name(data)}")
    return Graph(*data, num_nodes)


def copy_into(own: Mapping[str, Tensor], others: Mapping[str, Tensor], label: str) -> None:
    """Copy tensors into others of the same names, shapes and dtypes; the host waits for nothing in page-locked memory.

    Args:
        own: that are written to.
        others: that are read.
        label: what the others are of, for the message.

    Raises:
        ValueError: they differ in a name, a shape or a dtype; then nothing is written to.
    """
    expected, found = ({name: (list(v.shape), v.dtype) for name, v in part.items()} for part in (own, others))
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ValueError(f"{label} must have {name} as {expected.get(name)}, got {found.get(name)}")
    for name, value in own.items():
        value.copy_(others[name], non_blocking=True)


def as_graph(G: Any) -> GraphLike:
    """Return `G` as an object with the names of `GraphLike`; what every layer calls first.

    A DGLGraph and a Graph have those names already and are returned as they are. A PyTorch Geometric `Data` or `Batch`
    is returned behind a view, which keeps no state of its own::

        edges()                 edge_index[0], edge_index[1]: from source to target
        batch_num_nodes()       counted from batch, which must be sorted, for as many
                                graphs as ptr has; else from ptr, else one graph
        batch_num_edges()       counted: an edge belongs to the graph of its target
        ndata['x']              data.pos, `[nodes, 3]`
        ndata['data.x']         data.x, PyG's node features, whose name is taken
        ndata[name]             data.name, `[nodes, ...]`
        edata[name]             data.name, `[edges, ...]`

    What is set in `ndata` and `edata` is set on the Data. Listing them lists the tensors of fitting first dimension;
    where a graph has as many nodes as edges, those that layers look for on edges ('d', 'w', 'r', 'envelope', 'offset',
    'rel_pos', 'f0', 'f1', ...) and names with 'edge' in them are taken to be on the edges.
    `edata['d']` is never computed from `pos`, which does not know of periodic offsets: set `data.d`.

    Raises:
        TypeError: `G` is none of these, or a graph of theirs with several types of nodes or edges.
        ValueError: a Data without `edge_index` `[2, edges]` of integers, or without a known number of nodes.
    """
    if isinstance(G, (Graph, _PygView)):
        return G
    if _is_dgl(G):
        if not G.is_homogeneous or G.is_block:
            raise TypeError(
                f"a DGLGraph must be homogeneous (see dgl.to_homogeneous), got node types {G.ntypes}, "
                f"edge types {G.canonical_etypes}{', a block' if G.is_block else ''}"
            )
        return G
    if _is_pyg(G):
        return _PygView(G)
    remedy = ": give the graph itself, and relative positions as its edata['d']" if isinstance(G, Tensor) else ""
    raise TypeError(
        "G must be a homogeneous dgl.DGLGraph, an equivariant_attention.graphs.Graph or a torch_geometric.data.Data, "
        f"got {_type_name(G)}{remedy}"
    )


def with_edge_fields(G: Any, edata: Mapping[str, Tensor]) -> Graph:
    """Return a Graph on the edges of `G`, with the same batch sizes and these fields alone; `G` is not touched.

    Args:
        G: as `as_graph` takes it.
        edata: the fields of its edges; shared, not copied.

    Raises:
        TypeError, ValueError: as `as_graph` and `Graph` do.
    """
    like = as_graph(G)
    if isinstance(like, Graph):
        new = like._shallow()
        new._set_fields({}, {})
        new.edata.update(edata)
        return new
    sizes = like.batch_num_nodes(), like.batch_num_edges()
    return _filled(Graph(*like.edges(), like.num_nodes()), {}, edata, *sizes)


def edge_subgraph(G: Any, edges: Tensor) -> Graph:
    """Return the Graph of all nodes of `G` and some of its edges, with their fields; `G` is not touched.

    Args:
        G: as `as_graph` takes it.
        edges: the numbers of these, int64, ascending.

    Raises:
        TypeError, ValueError: as `as_graph` does.
    """
    like = as_graph(G)
    new = with_edge_fields(like, {})
    new._src, new._dst = (ends[edges] for ends in like.edges())
    owner = _owners(like.batch_num_edges(), like.num_edges(), like.device)[edges]
    new._batch_num_edges = segment_size(owner, like.batch_size)
    new._set_fields(dict(like.ndata), {name: value[edges] for name, value in like.edata.items()})
    return new


def edges_on(G: Any, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return the edges of `G` for computing with features on `device`: `(src, dst)`, int64 `[edges]`.

    Raises:
        ValueError: the graph is on another device; graphs are moved by whoever owns them, not once per layer.
    """
    graph = as_graph(G)
    check_device(graph, torch.device(device))
    src, dst = graph.edges()
    return src.long(), dst.long()


def own_tensor(tensor: Tensor) -> Tensor:
    """The same numbers in a tensor of PyTorch's own, where one of another class has them: PyG's EdgeIndex, say."""
    if type(tensor) is Tensor:
        return tensor
    if callable(unwrapped := getattr(tensor, "as_tensor", None)):
        return unwrapped()
    is_wrapper = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__  # its numbers are elsewhere
    return tensor if is_wrapper else tensor.as_subclass(Tensor)


def check_device(graph: GraphLike, device: torch.device) -> None:
    """Refuse a ``graph`` that is not on the ``device`` of the features with a ValueError that says how to move it."""
    if not _same_device(graph.device, device):
        remedy = "Graph.from_dgl(G).to(device)" if _is_dgl(graph) else "G.to(device)"
        raise ValueError(f"graph must be on the features' device, {device}, got one on {graph.device}; use {remedy}")


def graph_of_node(G: Any) -> Tensor:
    """Return which graph of the batch `G` each node belongs to, int64 `[nodes]`, on the device of `G`."""
    graph = as_graph(G)
    return _owners(graph.batch_num_nodes(), graph.num_nodes(), graph.device)


def rebuilt(
    G: Any,
    src: Tensor,
    dst: Tensor,
    ndata: Mapping[str, Tensor],
    edata: Mapping[str, Tensor],
    batch_num_nodes: Tensor,
    batch_num_edges: Tensor,
) -> Any:
    """Return a new graph of the same kind as `G`, made of the other arguments alone; `G` is not touched.

    Args:
        G: a DGLGraph, a Graph or a PyG Data or Batch (which come back with `batch` and `ptr`, without attributes of
            whole graphs).
        src, dst: int `[edges]`.
        ndata, edata: the fields, named as `as_graph` names them; shared, not copied.
        batch_num_nodes, batch_num_edges: int `[graphs]`; the first sums to the number of nodes.

    Returns:
        The graph.

    Raises:
        TypeError, ValueError: as `as_graph` and `Graph` do.
    """
    like = as_graph(G)
    if _is_dgl(G):
        src, dst = src.to(G.idtype), dst.to(G.idtype)
    new = _filled(Graph(src, dst, int(batch_num_nodes.sum())), ndata, edata, batch_num_nodes, batch_num_edges)
    if isinstance(like, _PygView):
        return like.rebuilt(new)
    return new.to_dgl() if _is_dgl(G) else new


def batch(graphs: Sequence[Any]) -> Any:
    """Return one batch of all `graphs`, of the kind of the first; those that are batches count with all their graphs.

    Raises:
        ValueError: no graphs, or graphs that differ in their device or in the names, dtypes or trailing shapes of their
            fields.
        TypeError: graphs of different kinds, or what is no sequence of graphs.
    """
    if not isinstance(graphs, Iterable):
        raise TypeError(f"graphs must be a sequence of graphs, got {_type_name(graphs)}")
    graphs = [as_graph(G) for G in graphs]
    if not graphs:
        raise ValueError("graphs must hold at least one graph, got none")
    _check_alike(graphs)
    first_nodes = list(accumulate((G.num_nodes() for G in graphs[:-1]), initial=0))
    src, dst = (
        torch.cat([ends + first for ends, first in zip(column, first_nodes, strict=True)])
        for column in zip(*(G.edges() for G in graphs), strict=True)
    )
    ndata, edata = (
        {name: torch.cat([fields[name] for fields in column]) for name in column[0]}
        for column in ([G.ndata for G in graphs], [G.edata for G in graphs])
    )
    sizes = (
        torch.cat([G.batch_num_nodes() for G in graphs]),
        torch.cat([G.batch_num_edges() for G in graphs]),
    )
    return rebuilt(graphs[0], src, dst, ndata, edata, *sizes)


def unbatch(G: Any) -> list[Any]:
    """Return the graphs of a batch, each of the kind of `G` and with its part of every field.

    Raises:
        ValueError: the batch sizes do not fit the graph, or an edge is not inside the graph they count it to.
    """
    graph = as_graph(G)
    nodes = _checked_sizes("batch_num_nodes", graph.batch_num_nodes(), graph.num_nodes(), graph.device)
    edges = _checked_sizes("batch_num_edges", graph.batch_num_edges(), graph.num_edges(), graph.device)
    if not len(nodes) and not len(edges):
        return []
    if len(nodes) != len(edges):
        raise ValueError(f"batch_num_edges must count {len(nodes)} graphs as batch_num_nodes does, got {len(edges)}")
    src, dst = edges_on(graph, graph.device)
    owner, edge_owner = graph_of_node(graph), _owners(edges, graph.num_edges(), graph.device)
    stray = (owner[src] != edge_owner) | (owner[dst] != edge_owner)
    if stray.any():
        e = int(stray.nonzero()[0])
        raise ValueError(
            f"edges must be grouped by graph as batch_num_edges counts them, got edge {e}, counted to graph "
            f"{int(edge_owner[e])}, from a node of graph {int(owner[src[e]])} to one of graph {int(owner[dst[e]])}"
        )
    first_node = (nodes.cumsum(0) - nodes)[edge_owner]
    per_graph = [part.split(edges.tolist()) for part in (src - first_node, dst - first_node)]
    ndata, edata = _split(graph.ndata, nodes.tolist()), _split(graph.edata, edges.tolist())
    dtype = graph.edges()[0].dtype
    return [
        rebuilt(graph, src.to(dtype), dst.to(dtype), *fields)
        for src, dst, *fields in zip(*per_graph, ndata, edata, nodes.split(1), edges.split(1), strict=True)
    ]


class _PygView:
    """A PyTorch Geometric Data under the names of `GraphLike`; `as_graph` tells how they correspond."""

    def __init__(self, data: Any) -> None:
        index, num_nodes = data.edge_index, data.num_nodes
        if not isinstance(index, Tensor) or index.dtype not in _INTEGERS or index.dim() != 2 or len(index) != 2:
            got = f"{index.dtype} {list(index.shape)}" if isinstance(index, Tensor) else _type_name(index)
            raise ValueError(f"data.edge_index must be an int tensor [2, edges], got {got}")
        if num_nodes is None:
            raise ValueError("data.num_nodes must be known, got None: set it, or data.pos")
        self._data, self._num_nodes = data, num_nodes
        counts = {"nodes": num_nodes, "edges": index.shape[1]}
        self.ndata, self.edata = (_PygFields(kind, counts, index.device, data) for kind in ("nodes", "edges"))

    @property
    def device(self) -> torch.device:
        return self._data.edge_index.device

    @property
    def batch_size(self) -> int:
        return self.batch_num_nodes().shape[0]

    def edges(self) -> tuple[Tensor, Tensor]:
        index = own_tensor(self._data.edge_index)
        return index[0], index[1]

    def num_nodes(self) -> int:
        return self._num_nodes

    def num_edges(self) -> int:
        return self._data.edge_index.shape[1]

    def batch_num_nodes(self) -> Tensor:
        ptr = self._data.ptr if "ptr" in self._data else None
        if "batch" in self._data:
            # Data.subgraph leaves ptr as it was, but for how many graphs there are.
            return graph_sizes(self._data.batch, self._num_nodes, None if ptr is None else ptr.shape[0] - 1)
        if ptr is None:
            return torch.tensor([self._num_nodes], device=self.device)
        torch._assert_async(
            ptr[-1] == self._num_nodes, f"data.ptr must end with the number of nodes, {self._num_nodes}"
        )
        return ptr.diff()

    def batch_num_edges(self) -> Tensor:
        sizes = self.batch_num_nodes()
        owner = _owners(sizes, self._num_nodes, self.device)[self._data.edge_index[1]]
        return torch.zeros_like(sizes).index_add(0, owner, torch.ones_like(owner))

    def rebuilt(self, plain: Graph) -> Any:
        """A Data, or Batch, like the one viewed, with the edges, sizes and fields of `plain`."""
        pyg = sys.modules["torch_geometric.data"]
        kind = pyg.Batch if isinstance(self._data, pyg.Batch) else pyg.Data
        sizes = plain.batch_num_nodes()
        ptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        data = kind(edge_index=torch.stack(plain.edges()), num_nodes=plain.num_nodes(), ptr=ptr)
        data.batch = graph_of_node(plain)
        view = _PygView(data)
        view.ndata.update(plain.ndata)
        view.edata.update(plain.edata)
        return data

    def __repr__(self) -> str:
        return f"as_graph({self._data!r})"


class _PygFields(Fields):
    """The attributes of a PyTorch Geometric Data that are tensors on its nodes, or on its edges."""

    def __init__(self, kind: str, counts: dict[str, int], device: torch.device, data: Any) -> None:
        super().__init__(kind, counts[kind], device, data)
        self._counts = counts
        self._attributes = {"x": "pos", "data.x": "x"} if kind == "nodes" else {}

    def _key(self, name: str) -> str:
        return self._attributes.get(name, name)

    def _hint(self, name: str) -> str:
        if (self._kind, name) == ("edges", "d"):
            return "; set data.d = data.pos[dst] - data.pos[src], where src, dst = data.edge_index"
        return f"; set data.{self._key(name)}"

    def _fits(self, value: Any) -> list[str]:
        """What the first dimension of an attribute lets it be on: nodes, edges, both or neither."""
        rows = value.shape[:1] if isinstance(value, Tensor) else ()
        return [kind for kind, count in self._counts.items() if rows == (count,)]

    def __contains__(self, name: object) -> bool:
        # What fits neither nodes nor edges counts as present, so that reading it says what is wrong with it.
        attribute = self._key(name) if isinstance(name, str) else name
        return attribute in self._store and self._fits(self._store[attribute]) in ([], [self._kind], list(self._counts))

    def __iter__(self) -> Iterator[str]:
        names = {attribute: name for name, attribute in self._attributes.items()}
        for attribute, value in self._store.to_dict().items():
            fits = [] if attribute in ("edge_index", "batch", "ptr") else self._fits(value)
            if len(fits) == 2:
                fits = ["edges" if _OF_EDGES.fullmatch(attribute) else "nodes"]
            if fits == [self._kind]:
                yield names.get(attribute, attribute)


def graph_sizes(batch: Tensor, num_nodes: int, num_graphs: int | None = None) -> Tensor:
    """Return the number of nodes of each graph, int64 `[graphs]`, from the sorted graph number of each node.

    Args:
        batch: int `[nodes]`, as in PyTorch Geometric; numbers that do not occur are graphs without nodes.
        num_nodes: the length `batch` must have.
        num_graphs: how many graphs there are, where that is known, as from PyTorch Geometric's `ptr`.

    Raises:
        ValueError: `batch` is not such a tensor.
        RuntimeError: it is not sorted, or has a number of `num_graphs` or more, where that is given. On a GPU the error
            comes when the host next waits.
    """
    if not isinstance(batch, Tensor) or batch.dtype not in _INTEGERS or batch.shape != (num_nodes,):
        got = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, Tensor) else _type_name(batch)
        raise ValueError(f"batch must be an int tensor [{num_nodes}], one graph number per node, got {got}")
    if num_graphs is not None:
        fits = ((batch >= 0) & (batch < num_graphs)).all() & (batch[1:] >= batch[:-1]).all()
        torch._assert_async(fits, f"batch must be sorted and of the {num_graphs} graphs that data.ptr has")
        return segment_size(batch.long(), num_graphs)
    if not num_nodes:
        return batch.new_zeros(0, dtype=torch.int64)
    if batch[0] < 0 or (batch[1:] < batch[:-1]).any():
        raise ValueError("batch must be sorted and count from 0, got graph numbers that decrease or are negative")
    return torch.bincount(batch)


def _owners(sizes: Tensor, total: int, device: torch.device) -> Tensor:
    """The number of the group each of `total` items is in, where groups are contiguous and have these sizes."""
    sizes = sizes.to(device)
    if not torch.compiler.is_compiling():
        # With the size of the output given, a GPU need not report the sum of the sizes back.
        return torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes, output_size=total)
    # ONNX has none of that: how many groups end before each item, or at it?
    ends = sizes.cumsum(0)
    ended = torch.zeros(total + 1, dtype=torch.int64, device=device).index_add(0, ends, torch.ones_like(ends))
    return ended[:total].cumsum(0)


def _filled(
    G: Any, ndata: Mapping[str, Tensor], edata: Mapping[str, Tensor], batch_num_nodes: Tensor, batch_num_edges: Tensor
) -> Any:
    """The same Graph or DGLGraph, newly made by the caller, with its batch sizes and fields set."""
    G.set_batch_num_nodes(batch_num_nodes)
    G.set_batch_num_edges(batch_num_edges)
    G.ndata.update(ndata)
    G.edata.update(edata)
    return G


def _split(fields: Mapping[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    """The part of every field that belongs to each graph of these sizes."""
    parts = {name: value.split(sizes) for name, value in fields.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def _check_alike(graphs: Sequence[GraphLike]) -> None:
    """Refuse to batch graphs that differ in kind, device or fields, naming the first that differs from graph 0."""

    def schemes(fields: Mapping[str, Tensor]) -> dict[str, str]:
        return {name: f"{value.dtype} {['...', *value.shape[1:]]}" for name, value in fields.items()}

    first = graphs[0]
    for i, G in enumerate(graphs):
        if type(G) is not type(first):
            kinds = f"{_type_name(first)} (graph 0) and {_type_name(G)} (graph {i})"
            raise TypeError(f"graphs must be of one kind, got {kinds}")
        if G.device != first.device:
            raise ValueError(f"graphs must be on one device, got {first.device} (graph 0) and {G.device} (graph {i})")
        for label in ("ndata", "edata"):
            expected, got = schemes(getattr(first, label)), schemes(getattr(G, label))
            if got != expected:
                raise ValueError(f"graphs must have the same {label}, got {expected} (graph 0) and {got} (graph {i})")


def _integers(name: str, value: Tensor | Sequence[int]) -> Tensor:
    """`value` as a one-dimensional tensor of integers, or a ValueError that names it."""
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} must be a tensor or a sequence of integers, got {value!r}") from error
        value = value if value.numel() else value.long()
    value = own_tensor(value)
    if value.dim() != 1 or value.dtype not in _INTEGERS:
        raise ValueError(f"{name} must be one-dimensional of int32 or int64, got {value.dtype} {list(value.shape)}")
    return value


def _checked_num_nodes(src: Tensor, dst: Tensor, num_nodes: int | None) -> int:
    """The number of nodes, by default as many as the edges need, or a ValueError if they need more."""
    if is_recorded():  # nothing can be looked at yet: a plan is made when it runs, and looks then
        if num_nodes is None:
            raise ValueError("num_nodes must be given in code that PyTorch compiles or exports, got None")
        return num_nodes
    ranges = {name: [int(end) for end in ends.aminmax()] for name, ends in (("src", src), ("dst", dst)) if len(ends)}
    if num_nodes is None:
        num_nodes = 1 + max((most for _, most in ranges.values()), default=-1)
    try:
        num_nodes = operator.index(num_nodes)
    except TypeError:
        raise ValueError(f"num_nodes must be an integer, got {num_nodes!r}") from None
    if num_nodes < 0:
        raise ValueError(f"num_nodes must be at least 0, got {num_nodes}")
    for name, (least, most) in ranges.items():
        if least < 0 or most >= num_nodes:
            raise ValueError(f"{name} must hold nodes in [0, {num_nodes}), got {least if least < 0 else most}")
    return num_nodes


def _checked_sizes(name: str, sizes: Tensor | Sequence[int], total: int, device: torch.device) -> Tensor:
    """`sizes` as int64 `[graphs]` on the device, or a ValueError if they do not add up to `total`."""
    sizes = _integers(name, sizes).to(device, torch.int64)
    if is_recorded():
        torch._assert_async((sizes >= 0).all() & (sizes.sum() == total), f"{name} must be at least 0 each and add up")
    elif (sizes < 0).any() or sizes.sum() != total:
        raise ValueError(f"{name} must be at least 0 each and {total} in all, got {sizes.tolist()}")
    return sizes


def _same_device(a: torch.device, b: torch.device) -> bool:
    """Whether two devices are one; 'cuda' without a number may be any of that type."""
    return a.type == b.type and (a.index is None or b.index is None or a.index == b.index)


def _is_dgl(G: Any) -> bool:
    return isinstance(G, getattr(sys.modules.get("dgl"), "DGLGraph", ()))


def _is_pyg(G: Any) -> bool:
    return isinstance(G, getattr(sys.modules.get("torch_geometric.data"), "Data", ()))


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
