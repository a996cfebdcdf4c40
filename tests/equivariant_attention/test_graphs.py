"""The library's Graph against DGL's, the view of PyTorch Geometric's, and what each refuses."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equivariant_attention import graphs
from equivariant_attention.graphs import (
    Graph,
    as_graph,
    batch,
    edge_subgraph,
    edges_on,
    graph_of_node,
    rebuilt,
    unbatch,
)

few = settings(max_examples=40, deadline=None)


@pytest.fixture
def dgl():
    return pytest.importorskip("dgl", exc_type=ImportError)


@pytest.fixture
def pyg():
    return pytest.importorskip("torch_geometric.data", exc_type=ImportError)


def random_graph(seed, num_nodes, num_edges, dtype=torch.int64):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, max(num_nodes, 1), (2, num_edges if num_nodes else 0), generator=generator, dtype=dtype)
    graph = Graph(*ends, num_nodes)
    graph.ndata["x"] = torch.randn(num_nodes, 1, 3, generator=generator)
    graph.ndata["z"] = torch.randint(0, 9, (num_nodes,), generator=generator)
    graph.edata["d"] = torch.randn(graph.num_edges(), 3, generator=generator)
    return graph


def data_of(pyg, graph):
    return pyg.Data(
        edge_index=torch.stack(graph.edges()),
        pos=graph.ndata["x"].reshape(-1, 3),
        z=graph.ndata["z"],
        d=graph.edata["d"],
        num_nodes=graph.num_nodes(),
    )


def assert_same(G, H):
    """Whether two graphs, of whatever kinds, have the same edges, batch sizes and fields."""
    G, H = as_graph(G), as_graph(H)
    assert (G.num_nodes(), G.num_edges(), G.batch_size) == (H.num_nodes(), H.num_edges(), H.batch_size)
    for name in ("batch_num_nodes", "batch_num_edges"):
        assert getattr(G, name)().tolist() == getattr(H, name)().tolist()
    assert all(torch.equal(end, other) for end, other in zip(G.edges(), H.edges(), strict=True))
    for fields, others in ((G.ndata, H.ndata), (G.edata, H.edata)):
        assert set(fields) == set(others)
        for name in fields:
            assert torch.equal(fields[name], others[name]), name


# Construction


def test_number_of_nodes_by_default():
    assert Graph([0, 4], [2, 1]).num_nodes() == 5
    assert Graph([], []).num_nodes() == 0
    assert Graph([], [], 3).num_nodes() == 3
    assert Graph([0], [1], torch.tensor(4)).num_nodes() == 4


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_edges_keep_their_dtype(dtype):
    graph = Graph(torch.tensor([0, 1], dtype=dtype), torch.tensor([1, 1], dtype=dtype))
    assert [end.dtype for end in graph.edges()] == [dtype] * 2
    assert [end.dtype for end in edges_on(graph, "cpu")] == [torch.int64] * 2


# Fields


def test_fields_are_a_dict():
    graph = random_graph(0, 5, 8)
    assert sorted(graph.ndata) == ["x", "z"]
    assert "d" in graph.edata
    assert "w" not in graph.edata
    assert len(graph.ndata) == 2
    assert graph.edata.get("w") is None
    assert graph.ndata.pop("z").shape == (5,)
    del graph.ndata["x"]
    assert not graph.ndata
    value = torch.zeros(8, 2)
    graph.edata["w"] = value
    assert graph.edata["w"] is value


@pytest.mark.parametrize(
    ("label", "name", "value", "error", "message"),
    [
        ("edata", "d", torch.zeros(10, 3), ValueError, r"must have first dimension 12 \(edges\), got shape \[10, 3\]"),
        ("ndata", "x", torch.zeros(12, 3), ValueError, r"must have first dimension 5 \(nodes\), got shape \[12, 3\]"),
        ("ndata", "x", torch.tensor(5.0), ValueError, r"must have first dimension 5 \(nodes\), got shape \[\]"),
        ("edata", "w", torch.zeros(12, device="meta"), ValueError, "must be on the graph's device, cpu, got .* meta"),
        ("ndata", "f", [0.0] * 5, TypeError, "must be a tensor, got list"),
    ],
)
def test_fields_that_do_not_belong_are_refused(label, name, value, error, message):
    graph = random_graph(0, 5, 12)
    fields = getattr(graph, label)
    before = dict(fields)
    with pytest.raises(error, match=rf"{label}\['{name}'\] {message}"):
        fields[name] = value
    assert list(fields) == list(before)
    assert all(fields[key] is before[key] for key in before)


def test_missing_field_names_those_there_are():
    with pytest.raises(KeyError, match=r"no ndata\['v'\] on this graph, only \['x', 'z'\]"):
        random_graph(0, 5, 12).ndata["v"]


def test_repr_tells_sizes_and_fields():
    graph = batch([random_graph(0, 5, 12), random_graph(1, 2, 0)])
    assert repr(graph) == (
        "Graph(num_nodes=7, num_edges=12, batch_size=2, device='cpu',\n"
        "      ndata={'x': [7, 1, 3] float32, 'z': [7] int64},\n"
        "      edata={'d': [12, 3] float32})"
    )


# Batch sizes


def test_a_new_graph_is_a_batch_of_one():
    graph = random_graph(0, 5, 8)
    assert graph.batch_size == 1
    assert graph.batch_num_nodes().tolist() == [5]
    assert graph.batch_num_edges().tolist() == [8]


def test_batch_sizes_are_int64_and_checked():
    graph = random_graph(0, 5, 8)
    graph.set_batch_num_nodes(torch.tensor([2, 0, 3], dtype=torch.int32))
    graph.set_batch_num_edges([8, 0, 0])
    assert graph.batch_size == 3
    assert graph.batch_num_nodes().dtype == graph.batch_num_edges().dtype == torch.int64
    with pytest.raises(ValueError, match=r"batch_num_nodes must be at least 0 each and 5 in all, got \[2, 2\]"):
        graph.set_batch_num_nodes([2, 2])
    with pytest.raises(ValueError, match=r"batch_num_edges must be at least 0 each and 8 in all, got \[9, -1\]"):
        graph.set_batch_num_edges([9, -1])
    with pytest.raises(ValueError, match=r"batch_num_nodes must be .* int32 or int64, got torch.float32"):
        graph.set_batch_num_nodes([2.5, 2.5])
    assert graph.batch_num_nodes().tolist() == [2, 0, 3]


@pytest.mark.parametrize("sizes", [[3], [2, 0, 3, 1], [0, 0], []])
def test_graph_of_node(sizes):
    graph = Graph([], [], sum(sizes))
    graph.set_batch_num_nodes(sizes)
    assert graph_of_node(graph).tolist() == [i for i, size in enumerate(sizes) for _ in range(size)]
    assert graph_of_node(graph).dtype == torch.int64


# Copies


def test_local_var_shares_tensors_but_not_fields():
    graph = random_graph(0, 5, 8)
    copy = graph.local_var()
    assert_same(copy, graph)
    assert copy.ndata["x"] is graph.ndata["x"]
    copy.ndata["v"] = torch.zeros(5)
    del copy.edata["d"]
    copy.set_batch_num_nodes([2, 3])
    assert (sorted(graph.ndata), sorted(graph.edata), graph.batch_size) == (["x", "z"], ["d"], 1)


def test_to_moves_everything_and_copies_nothing_that_is_there():
    graph = batch([random_graph(0, 5, 8), random_graph(1, 3, 2)])
    same = graph.to("cpu")
    assert same is not graph
    assert same.edata["d"] is graph.edata["d"]
    assert_same(same, graph)

    moved = graph.to("meta")
    tensors = [*moved.edges(), *moved.ndata.values(), *moved.edata.values(), moved.batch_num_nodes()]
    assert {tensor.device.type for tensor in [*tensors, moved.batch_num_edges()]} == {"meta"}
    assert moved.device == torch.device("meta")
    moved.ndata["v"] = torch.zeros(8, device="meta")
    assert graph.device == torch.device("cpu")


def test_pin_memory_pins_every_tensor(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.data_ptr()) or tensor.clone())
    graph = batch([random_graph(0, 5, 8), random_graph(1, 3, 2)])
    assert_same(graph.pin_memory(), graph)
    tensors = [*graph.edges(), graph.batch_num_nodes(), graph.batch_num_edges()]
    tensors += [*graph.ndata.values(), *graph.edata.values()]
    assert sorted(pinned) == sorted(tensor.data_ptr() for tensor in tensors)


def test_pickle():
    graph = batch([random_graph(0, 5, 8), random_graph(1, 3, 2)])
    again = pickle.loads(pickle.dumps(graph))
    assert_same(again, graph)
    with pytest.raises(ValueError, match="first dimension 8"):
        again.ndata["v"] = torch.zeros(7)


def test_data_loader_workers_return_batches():
    members = [random_graph(seed, 4, 6) for seed in range(4)]
    loader = torch.utils.data.DataLoader(members, batch_size=2, collate_fn=batch, num_workers=1)
    for loaded, expected in zip(loader, (batch(members[:2]), batch(members[2:])), strict=True):
        assert_same(loaded, expected)


# Batching

members = st.lists(
    st.builds(random_graph, st.integers(0, 10**6), st.integers(0, 6), st.integers(0, 12)), min_size=1, max_size=5
)


@few
@given(members)
def test_unbatch_undoes_batch(graphs):
    together = batch(graphs)
    for graph, again in zip(graphs, unbatch(together), strict=True):
        assert_same(again, graph)
    assert_same(batch(unbatch(together)), together)


@few
@given(members, members)
def test_batches_are_flattened(some, others):
    assert_same(batch([batch(some), batch(others)]), batch([*some, *others]))


def test_batch_keeps_gradients():
    graph = random_graph(0, 5, 8)
    graph.edata["d"].requires_grad_()
    part = unbatch(batch([graph, graph]))[1]
    part.edata["d"].sum().backward()
    assert torch.equal(graph.edata["d"].grad, torch.ones(8, 3))


def test_batch_of_no_graphs_is_refused():
    with pytest.raises(ValueError, match="graphs must hold at least one graph, got none"):
        batch([])


def test_batch_names_the_graph_with_other_fields():
    first, odd = random_graph(0, 5, 8), random_graph(2, 3, 2)
    del odd.ndata["z"]
    with pytest.raises(ValueError, match=r"the same ndata, got .*'z'.* \(graph 0\) and \{'x': .*\} \(graph 2\)"):
        batch([first, random_graph(1, 5, 8), odd])
    odd = random_graph(2, 3, 2)
    odd.edata["d"] = odd.edata["d"][:, None]
    with pytest.raises(ValueError, match=r"the same edata, .* \(graph 1\)"):
        batch([first, odd])
    odd.edata["d"] = odd.edata["d"][:, 0].double()
    with pytest.raises(ValueError, match=r"the same edata, .*torch.float32.* and .*torch.float64.* \(graph 1\)"):
        batch([first, odd])
    with pytest.raises(ValueError, match=r"one device, got cpu \(graph 0\) and meta \(graph 1\)"):
        batch([first, first.to("meta")])


def test_unbatch_refuses_edges_outside_their_graph():
    graph = Graph([0, 2, 1], [1, 1, 0], 4)
    graph.set_batch_num_nodes([2, 2])
    with pytest.raises(ValueError, match="batch_num_edges must count 2 graphs as batch_num_nodes does, got 1"):
        unbatch(graph)
    graph.set_batch_num_edges([2, 1])
    with pytest.raises(ValueError, match="got edge 1, counted to graph 0, from a node of graph 1 to one of graph 0"):
        unbatch(graph)


# DGL


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_batch_and_unbatch_as_dgl(dgl, dtype):
    own = [random_graph(seed, n, e, dtype) for seed, (n, e) in enumerate([(5, 8), (1, 0), (0, 0), (4, 9)])]
    theirs = [graph.to_dgl() for graph in own]
    assert_same(batch(own), dgl.batch(theirs))
    for graph, other in zip(unbatch(batch(own)), dgl.unbatch(dgl.batch(theirs)), strict=True):
        assert_same(graph, other)


def test_dgl_graphs_batch_to_dgl_graphs(dgl):
    theirs = [random_graph(seed, 4, 5, torch.int32).to_dgl() for seed in range(3)]
    together = batch(theirs)
    assert isinstance(together, dgl.DGLGraph)
    assert together.idtype == torch.int32
    assert_same(together, dgl.batch(theirs))
    for graph, other in zip(unbatch(together), theirs, strict=True):
        assert isinstance(graph, dgl.DGLGraph)
        assert_same(graph, other)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_to_dgl_and_back(dgl, dtype):
    graph = batch([random_graph(0, 5, 8, dtype), random_graph(1, 3, 0, dtype)])
    there = graph.to_dgl()
    assert isinstance(there, dgl.DGLGraph)
    assert there.idtype == dtype
    assert_same(there, graph)
    assert_same(Graph.from_dgl(there), graph)
    assert Graph.from_dgl(there).edata["d"].data_ptr() == graph.edata["d"].data_ptr()


def test_a_graph_without_nodes_to_dgl_and_back(dgl):
    assert_same(Graph.from_dgl(Graph([], []).to_dgl()), Graph([], []))


def test_from_dgl_takes_only_dgl(dgl):
    with pytest.raises(TypeError, match=r"G must be a dgl.DGLGraph, got equivariant_attention.graphs.Graph"):
        Graph.from_dgl(random_graph(0, 5, 8))


def test_dgl_graphs_of_several_types_are_refused(dgl):
    mixed = dgl.heterograph({("a", "r", "b"): ([0], [1]), ("b", "s", "b"): ([0], [1])})
    with pytest.raises(TypeError, match=r"must be homogeneous .*, got node types \['a', 'b'\]"):
        as_graph(mixed)
    with pytest.raises(TypeError, match="a block"):
        as_graph(dgl.create_block(([0, 1], [1, 0])))


def test_dgl_graph_with_features_elsewhere_is_told_how_to_move(dgl):
    for device in ("cuda", "meta"):
        with pytest.raises(ValueError, match=rf"device, {device}, .* on cpu; use Graph.from_dgl\(G\).to\(device\)"):
            edges_on(random_graph(0, 5, 8).to_dgl(), torch.device(device))


@pytest.mark.parametrize("module", [None, type(sys)("dgl")])
def test_without_dgl(monkeypatch, module):
    """DGL blocked, and half imported."""
    monkeypatch.setitem(sys.modules, "dgl", module)
    graph = random_graph(0, 5, 8)
    assert as_graph(graph) is graph
    if module is None:
        with pytest.raises(ImportError, match=r"to_dgl.* needs DGL, which cannot be imported here"):
            graph.to_dgl()


# PyTorch Geometric


def test_view_reads_a_data(pyg):
    graph = random_graph(0, 5, 8)
    view = as_graph(data_of(pyg, graph))
    assert view.ndata["x"].shape == (5, 3)
    graph.ndata["x"] = graph.ndata["x"][:, 0]
    assert_same(view, graph)
    assert view.device == torch.device("cpu")
    assert as_graph(view) is view


def test_view_reads_a_batch(pyg):
    own = [random_graph(seed, n, e) for seed, (n, e) in enumerate([(5, 8), (1, 0), (4, 9)])]
    for graph in own:
        graph.ndata["x"] = graph.ndata["x"][:, 0]
    data = pyg.Batch.from_data_list([data_of(pyg, graph) for graph in own])
    assert_same(data, batch(own))
    assert_same(batch(unbatch(data)), batch(own))
    for graph, again in zip(own, unbatch(data), strict=True):
        assert isinstance(again, pyg.Batch)
        assert_same(again, graph)
    assert torch.equal(graph_of_node(data), data.batch)
    del data.ptr
    assert_same(data, batch(own))


def test_view_of_a_subgraph_of_a_batch_has_the_graphs_of_its_nodes(pyg):
    """PyTorch Geometric leaves ptr as it was."""
    whole = pyg.Batch.from_data_list([data_of(pyg, random_graph(seed, n, 9)) for seed, n in enumerate((4, 5, 3, 2))])
    part = whole.subgraph(torch.tensor([0, 1, 4, 5, 6, 9, 10]))
    assert as_graph(part).batch_size == 4
    assert as_graph(part).batch_num_nodes().tolist() == [2, 3, 2, 0]
    assert as_graph(part).batch_num_edges().sum() == part.num_edges
    assert graph_of_node(part).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert [G.num_nodes for G in unbatch(part)] == [2, 3, 2, 0]
    del part.batch
    with pytest.raises(RuntimeError, match=r"data\.ptr must end with the number of nodes, 7"):
        graph_of_node(part)


@pytest.mark.parametrize("batch", [[1, 0, 0], [0, 1, 2], [-1, 0, 0]])
def test_view_refuses_a_batch_that_is_not_sorted_or_of_more_graphs_than_ptr(pyg, batch):
    data = pyg.Data(edge_index=torch.tensor([[0], [1]]), num_nodes=3, batch=torch.tensor(batch))
    data.ptr = torch.tensor([0, 1, 3])
    with pytest.raises(RuntimeError, match=r"batch must be sorted and of the 2 graphs that data\.ptr has"):
        as_graph(data).batch_num_nodes()


def test_view_writes_through(pyg):
    data = data_of(pyg, random_graph(0, 5, 8))
    view = as_graph(data)
    d, x, f, w = torch.ones(8, 3), torch.ones(5, 3), torch.ones(5, 6, 1), torch.ones(8, 2)
    view.edata["d"], view.ndata["x"], view.ndata["f"], view.edata["w"] = d, x, f, w
    assert data.d is d
    assert data.pos is x
    assert data.f is f
    assert data.w is w
    assert data.x is None
    assert (sorted(view.ndata), sorted(view.edata)) == (["f", "x", "z"], ["d", "w"])
    del view.ndata["x"]
    assert "pos" not in data


def test_node_features_of_pyg_are_data_x(pyg):
    data = data_of(pyg, random_graph(0, 5, 8))
    data.x = torch.randn(5, 4)
    view = as_graph(data)
    assert view.ndata["data.x"] is data.x
    assert view.ndata["x"] is data.pos
    assert sorted(view.ndata) == ["data.x", "x", "z"]
    assert sorted(as_graph(batch([data, data])).ndata) == ["data.x", "x", "z"]


def test_view_refuses_fields_that_do_not_belong(pyg):
    data = data_of(pyg, random_graph(0, 5, 8))
    view = as_graph(data)
    with pytest.raises(ValueError, match=r"edata\['d'\] must have first dimension 8 \(edges\), got shape \[7, 3\]"):
        view.edata["d"] = torch.zeros(7, 3)
    data.w = torch.zeros(7, 1)
    assert "w" in view.edata
    with pytest.raises(ValueError, match=r"edata\['w'\] must have first dimension 8 \(edges\), got shape \[7, 1\]"):
        view.edata["w"]
    with pytest.raises(KeyError, match=r"no edata\['z'\]"):
        view.edata["z"]


def test_missing_relative_positions_are_not_computed(pyg):
    data = data_of(pyg, random_graph(0, 5, 8))
    del data.d
    with pytest.raises(KeyError, match=r"set data.d = data.pos\[dst\] - data.pos\[src\]"):
        as_graph(data).edata["d"]
    del data.pos
    with pytest.raises(KeyError, match=r"no ndata\['x'\] .*; set data.pos"):
        as_graph(data).ndata["x"]


def test_as_many_nodes_as_edges(pyg):
    graph = random_graph(0, 6, 6)
    data = data_of(pyg, graph)
    data.w, data.edge_attr, data.y = torch.zeros(6, 1), torch.zeros(6, 1), torch.zeros(1)
    view = as_graph(data)
    assert (sorted(view.ndata), sorted(view.edata)) == (["x", "z"], ["d", "edge_attr", "w"])
    assert view.ndata["z"] is data.z
    assert view.edata["edge_attr"] is data.edge_attr


def test_a_data_needs_edges_and_a_number_of_nodes(pyg):
    with pytest.raises(ValueError, match=r"data.edge_index must be an int tensor \[2, edges\], got NoneType"):
        as_graph(pyg.Data(pos=torch.zeros(2, 3)))
    with pytest.raises(ValueError, match=r"\[2, edges\], got torch.int64 \[3, 2\]"):
        as_graph(pyg.Data(pos=torch.zeros(2, 3), edge_index=torch.zeros(3, 2, dtype=torch.int64)))


def test_batch_vector_must_be_sorted(pyg):
    data = data_of(pyg, random_graph(0, 3, 4))
    data.batch = torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="batch must be sorted"):
        as_graph(data).batch_num_nodes()
    data.batch = torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"batch must be an int tensor \[3\]"):
        as_graph(data).batch_num_nodes()


def test_edges_of_a_data_need_be_grouped_only_for_unbatch(pyg):
    data = pyg.Data(edge_index=torch.tensor([[2, 0, 3], [3, 1, 2]]), batch=torch.tensor([0, 0, 1, 1]))
    assert as_graph(data).batch_num_edges().tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"edges must be grouped by graph .* got edge 0"):
        unbatch(data)


def test_hetero_data_is_refused(pyg):
    with pytest.raises(TypeError, match=r"torch_geometric.data.Data, got torch_geometric.data.hetero_data.HeteroData"):
        as_graph(pyg.HeteroData())


# What every layer calls


def test_graphs_are_returned_as_they_are(dgl):
    own = random_graph(0, 5, 8)
    theirs = own.to_dgl()
    assert as_graph(own) is own
    assert as_graph(theirs) is theirs


@pytest.mark.parametrize("other", [None, (torch.zeros(2), torch.zeros(2)), {"edges": 1}])
def test_anything_else_is_refused(other):
    with pytest.raises(TypeError, match=f"G must be a homogeneous dgl.DGLGraph, .*, got {type(other).__name__}$"):
        as_graph(other)


def test_edges_on_refuses_features_on_another_device():
    graph = random_graph(0, 5, 8)
    for device in ("cuda", "cuda:1", "meta"):
        with pytest.raises(ValueError, match=rf"features' device, {device}, got one on cpu; use G.to\(device\)"):
            edges_on(graph, device)
    assert edges_on(graph.to("meta"), torch.device("meta"))[0].device.type == "meta"


@pytest.mark.parametrize(
    ("one", "other", "same"), [("cuda", "cuda:1", True), ("cuda:0", "cuda:1", False), ("cuda:0", "cpu", False)]
)
def test_a_device_without_number_is_any_of_its_type(one, other, same):
    assert graphs._same_device(torch.device(one), torch.device(other)) is same


@pytest.mark.parametrize("kind", ["own", "dgl", "pyg"])
def test_rebuilt_is_of_the_same_kind_and_touches_nothing(kind, request):
    """A batch with its nodes permuted and its edges turned round, made from the batch of each kind."""
    own = batch([random_graph(0, 5, 8), random_graph(1, 3, 2)])
    own.ndata["x"] = own.ndata["x"][:, 0]
    G, kinds = own, Graph
    if kind == "dgl":
        kinds = request.getfixturevalue("dgl").DGLGraph
        G = own.to_dgl()
    if kind == "pyg":
        pyg = request.getfixturevalue("pyg")
        kinds = pyg.Batch
        G = pyg.Batch.from_data_list([data_of(pyg, graph) for graph in unbatch(own)])
    original = own._mapped(torch.clone)
    order = torch.tensor([3, 1, 4, 0, 2, 7, 5, 6])
    dst, src = (order.argsort()[end] for end in own.edges())
    ndata = {name: value[order] for name, value in own.ndata.items()}
    edata = {"d": -own.edata["d"], "w": torch.ones(10, 1)}
    new = rebuilt(G, src, dst, ndata, edata, own.batch_num_nodes(), own.batch_num_edges())

    assert isinstance(new, kinds)
    expected = Graph(src, dst, 8)
    expected.set_batch_num_nodes([5, 3])
    expected.set_batch_num_edges([8, 2])
    expected.ndata.update(ndata)
    expected.edata.update(edata)
    assert_same(new, expected)
    assert_same(G, original)


def test_names_of_dgl_that_programs_call(dgl):
    src, dst = torch.tensor([0, 3, 3, 1]), torch.tensor([1, 1, 0, 1])
    own, theirs = (made.graph((src, dst), num_nodes=5) for made in (graphs, dgl))
    for G in (own, theirs):
        G.ndata["x"] = torch.arange(5.0)
    assert isinstance(own, graphs.DGLGraph)
    for name in ("num_nodes", "number_of_nodes", "num_edges", "number_of_edges"):
        assert getattr(own, name)() == getattr(theirs, name)()
    for name in ("nodes", "in_degrees", "out_degrees"):
        assert torch.equal(getattr(own, name)(), getattr(theirs, name)())
    for G in (own, theirs):
        with G.local_scope():
            G.ndata["y"] = G.ndata.pop("x")
            G.edata["w"] = torch.ones(4)
        assert list(G.ndata) == ["x"]
        assert not G.edata
        with G.local_scope():
            G.ndata["x"] = torch.zeros(5)
        assert G.ndata["x"].tolist() == [0, 1, 2, 3, 4]
    again = pickle.loads(pickle.dumps(own))
    assert_same(again, own)


def test_fields_come_back_after_an_error_too():
    G = random_graph(0, 5, 8)
    fields = G.ndata
    context = G.local_scope()
    context.__enter__()
    G.ndata["y"] = torch.ones(5)
    assert not context.__exit__(RuntimeError, RuntimeError(), None)
    assert G.ndata is fields
    assert "y" not in fields


def test_a_graph_of_dgls_name_needs_a_pair():
    assert graphs.graph(([0, 1], [1, 2])).num_nodes() == 3
    with pytest.raises(TypeError, match=r"data must be \(src, dst\), got int"):
        graphs.graph(3)


@pytest.mark.parametrize("kind", ["own", "dgl"])
def test_other_edge_fields_leave_the_graph_alone(kind, request):
    own = batch([random_graph(0, 5, 8), random_graph(1, 3, 2)])
    fields = sorted(own.edata), sorted(own.ndata)
    G = own if kind == "own" else request.getfixturevalue("dgl") and own.to_dgl()
    new = graphs.with_edge_fields(G, {"d": torch.zeros(10, 3)})
    assert isinstance(new, Graph)
    assert (list(new.edata), list(new.ndata)) == (["d"], [])
    assert (sorted(G.edata), sorted(G.ndata)) == fields
    assert new.batch_num_nodes().tolist() == [5, 3]
    assert new.batch_num_edges().tolist() == [8, 2]
    assert all(torch.equal(a, b) for a, b in zip(new.edges(), G.edges(), strict=True))


def test_importing_graphs_imports_neither_dgl_nor_pyg():
    program = (
        "import sys, equivariant_attention.graphs as g; g.as_graph(g.Graph([0], [1]));"
        "sys.exit(' '.join({'dgl', 'torch_geometric'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_graph_of_some_edges_has_all_nodes_and_their_graphs():
    G = batch([Graph([0, 1, 2], [1, 2, 0]), Graph([0, 1], [1, 0])])
    G.ndata["x"], G.edata["w"] = torch.randn(5, 1), torch.arange(5.0)
    some = edge_subgraph(G, torch.tensor([0, 2, 4]))
    assert [end.tolist() for end in some.edges()] == [[0, 2, 4], [1, 0, 3]]
    assert some.edata["w"].tolist() == [0, 2, 4]
    assert some.ndata["x"] is G.ndata["x"]
    assert some.batch_num_nodes().tolist() == [3, 2]
    assert some.batch_num_edges().tolist() == [2, 1]
    assert G.num_edges() == 5
    assert [one.num_edges() for one in unbatch(some)] == [2, 1]


def test_a_copy_has_fields_of_its_own():
    G = Graph([0, 1], [1, 0])
    G.ndata["a"] = torch.ones(2)
    H = copy.copy(G)
    H.ndata["b"] = torch.ones(2)
    assert H.ndata["a"] is G.ndata["a"]
    assert list(G.ndata) == ["a"]


def test_a_graph_is_read_on_another_device_than_it_was_saved_on():
    G = Graph([0, 1], [1, 0])
    G.ndata["a"] = torch.ones(2)
    file = io.BytesIO()
    torch.save(G, file)
    file.seek(0)
    H = torch.load(file, map_location="meta", weights_only=False)
    assert H.ndata["a"].device == H.device == torch.device("meta")
    assert torch.equal(pickle.loads(pickle.dumps(G)).ndata["a"], G.ndata["a"])


def test_fields_that_layers_look_for_on_edges_are_on_edges_where_there_are_as_many_nodes():
    Data = pytest.importorskip("torch_geometric.data").Data
    names = ("d", "w", "r", "envelope", "offset", "rel_pos", "f0", "f1", "edge_attr")
    data = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), pos=torch.zeros(2, 3), f=torch.ones(2, 1), num_nodes=2)
    for name in names:
        data[name] = torch.zeros(2, 1)
    G = as_graph(data)
    assert sorted(G.edata) == sorted(names)
    assert sorted(G.ndata) == ["f", "x"]
