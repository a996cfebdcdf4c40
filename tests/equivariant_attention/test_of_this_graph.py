"""A basis is of one graph: another, or one that was written to, is refused by every backend; a copy is not."""

import copy
import io
import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph, as_graph
from equivariant_attention.modules import GConvSE3, GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.neighbors import fully_connected_graph, knn_graph
from equivariant_attention.plan import Plan
from tests.cases import BACKENDS_HERE, as_kind, random_features

EVERY_BACKEND = [*BACKENDS_HERE, None]
FIBER = Fiber(2, 4)
SOME_EDGES = 20_000  # bytes, for a few edges at a time
by_every_backend = pytest.mark.parametrize("backend", EVERY_BACKEND)


def neighbours():
    near = knn_graph(torch.randn(12, 3), 3)
    G = Graph(*(end.clone() for end in near.edges()), 12)  # in memory of their own each
    G.edata["d"] = near.edata["d"]
    return G


def features(nodes=12):
    return random_features(FIBER, nodes, torch.float32)


WRITES = {
    "in place": lambda tensor, value: tensor.copy_(value),
    "through .data": lambda tensor, value: tensor.data.copy_(value),
    "through NumPy": lambda tensor, value: np.copyto(tensor.numpy(), value.numpy()),
}
WRITTEN = r"basis must be of this graph: (src|dst|edata\['d'\]) (was written to after|is not what it was made of)"


def changed(values, number):
    values = values.clone()
    values[0] = number
    return values


@by_every_backend
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("field", "number"), [(0, 25), (0, -1), (0, 10**12), (1, 12), (1, -1), ("d", 0), ("d", torch.nan)]
)
def test_a_graph_that_was_written_to_is_refused(backend, write, field, number):
    G, layer = neighbours(), GSE3Res(FIBER, FIBER)
    basis, r = get_basis_and_r(G, 1)
    tensor = G.edata["d"] if field == "d" else G.edges()[field]
    WRITES[write](tensor, changed(tensor, number))
    with use_backend(backend), pytest.raises(ValueError, match=WRITTEN):
        layer(features(), G=G, r=r, basis=basis)


@pytest.fixture
def data():
    """Of PyTorch Geometric."""
    pytest.importorskip("torch_geometric.data")
    return as_kind(neighbours(), "pyg")


@by_every_backend
def test_edges_of_pytorch_geometric_and_inference_mode(backend, data):
    layer = GConvSE3(FIBER, FIBER)
    with torch.inference_mode():
        G = neighbours()
    for graph in (data, G):
        with use_backend(backend), torch.inference_mode():
            basis, r = get_basis_and_r(graph, 1)
            layer(features(), G=graph, r=r, basis=basis)
            as_graph(graph).edges()[0][3] = -2
            with pytest.raises((ValueError, RuntimeError), match=WRITTEN):
                layer(features(), G=graph, r=r, basis=basis)


@by_every_backend
@pytest.mark.parametrize("end", [0, 1])
def test_a_basis_of_other_edges_between_the_same_positions_is_refused(backend, end):
    """As in a lattice, where neighbours of all atoms are alike."""
    G, layer = fully_connected_graph(torch.randn(8, 3)), GConvSE3(FIBER, FIBER)
    edges = list(G.edges())
    edges[end] = torch.randperm(8)[edges[end]]
    other = Graph(*edges, 8)
    other.edata["d"] = G.edata["d"]
    basis, r = get_basis_and_r(G, 1)
    with (
        use_backend(backend),
        pytest.raises(RuntimeError, match=r"basis must be of this graph: (src|dst) is not what it"),
    ):
        layer(features(8), G=other, r=r, basis=basis)
    with pytest.raises(RuntimeError, match="plan must be of this graph: edges lead elsewhere"):
        get_basis_and_r(other, 1, plan=Plan(G))


def test_edges_of_other_integers_are_the_same():
    G, layer = neighbours(), GConvSE3(FIBER, FIBER)
    basis, r = get_basis_and_r(G, 1)
    other = Graph(*(end.int() for end in G.edges()), 12)
    other.edata["d"] = G.edata["d"]
    h = features()
    assert torch.equal(layer(h, G=other, r=r, basis=basis)["1"], layer(h, G=G, r=r, basis=basis)["1"])


def test_where_values_are_not_looked_at_the_error_comes_later():
    """As on a GPU: here, where PyTorch counts what runs."""
    G, layer = neighbours(), GConvSE3(FIBER, FIBER)
    basis, r = get_basis_and_r(G, 1)
    other = G.local_var()
    with FlopCounterMode(display=False):
        layer(features(), G=other, r=r, basis=basis)
        other.edata["d"] = G.edata["d"].clone()
        layer(features(), G=other, r=r, basis=basis)
        G.edges()[0].copy_(G.edges()[0].flip(0))
        with pytest.raises(RuntimeError, match="basis must be of this graph: edges or edata"):
            layer(features(), G=G, r=r, basis=basis)


# ------------------------------------------------------------------------------ radial weights of both directions


def paired(w):
    G = fully_connected_graph(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
    G.edata["w"] = w
    return G


def rewritten_w(how):
    def outputs(layer, h, new):
        G = paired(torch.ones(30, 1))
        basis, r = get_basis_and_r(G, 1)
        WRITES[how](G.edata["w"], new)
        return layer(h, G=G, r=r, basis=basis)

    return outputs


def rewritten_r(layer, h, new):
    G = paired(torch.ones(30, 1))
    basis, r = get_basis_and_r(G, 1)
    r.data.mul_(1 + new.abs())
    return layer(h, G=G, r=r, basis=basis)


def another_r(layer, h, new):
    G = paired(torch.ones(30, 1))
    basis, r = get_basis_and_r(G, 1)
    return layer(h, G=G, r=r + new.abs(), basis=basis)


def another_w(layer, h, new):
    G = paired(torch.ones(30, 1))
    basis, r = get_basis_and_r(G, 1)
    G.edata["w"] = new
    return layer(h, G=G, r=r, basis=basis)


RADIAL = {
    **{f"w {how}": rewritten_w(how) for how in WRITES},
    "r": rewritten_r,
    "another r": another_r,
    "another w": another_w,
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("way", RADIAL)
def test_edge_features_and_distances_are_those_that_the_layer_sees(way, mode):
    layer, h, new = GConvSE3(FIBER, FIBER, edge_dim=1), features(6), torch.randn(30, 1)
    found = {}
    for backend in EVERY_BACKEND:
        with use_backend(backend), mode():
            found[backend] = RADIAL[way](layer, h, new)["1"]
    for backend in EVERY_BACKEND:
        torch.testing.assert_close(found[backend], found["oracle"])


def test_pairs_are_shared_where_values_cannot_be_looked_at(monkeypatch):
    """As on a GPU: the same tensors are taken to be the same, which is asserted later."""
    monkeypatch.setattr("equivariant_attention.basis.can_look_at", lambda tensor: False)
    G, new = paired(torch.ones(30, 1)), torch.randn(30, 1)
    basis, r = get_basis_and_r(G, 1)
    assert basis.is_of(G.edata["w"], r)
    assert not basis.is_of(G.edata["w"], r.clone())
    G.edata["w"].copy_(new)
    assert not basis.is_of(G.edata["w"], r)
    with torch.inference_mode():
        G = paired(torch.ones(30, 1))
        basis, r = get_basis_and_r(G, 1)
        assert basis.is_of(G.edata["w"], r)
        G.edata["w"].copy_(new)
        with pytest.raises(RuntimeError, match=r"r and edata\['w'\] must not be written to in inference mode"):
            basis.is_of(G.edata["w"], r)


# ------------------------------------------------------------------------------------------------------- copies


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


class Graphs(Dataset):
    """One graph with its basis."""

    def __init__(self, wrapped):
        self.wrapped = wrapped

    def __len__(self):
        return 1

    def __getitem__(self, index):
        G = neighbours()
        if self.wrapped:
            G.edata["d"] -= 2 * (G.edata["d"] / 2).round()  # a periodic box
        return G, *get_basis_and_r(G, 1)


def first(graphs):
    return graphs[0]


def from_worker(thing):
    return first([*DataLoader(Graphs(False), collate_fn=first, num_workers=1)])


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "torch.save": saved,
    "worker": from_worker,
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_graph_with_its_basis_is_as_good(way, wrapped):
    G, basis, r = COPIES[way](Graphs(wrapped)[0])
    layer, h = GSE3Res(FIBER, FIBER), features()
    expected = layer(h, G=G, r=r, basis=get_basis_and_r(G, 1)[0])
    for backend in EVERY_BACKEND:
        with use_backend(backend):
            torch.testing.assert_close(layer(h, G=G, r=r, basis=basis), expected)
    assert basis.is_of(None, r)
    G.edata["d"][0] += 1
    with pytest.raises(ValueError, match=r"edata\['d'\] was written to after get_basis_and_r"):
        layer(h, G=G, r=r, basis=basis)


def test_a_copy_of_what_was_written_to_is_refused():
    G, basis, r = Graphs(False)[0]
    G.edges()[1].fill_(0)
    G, basis, r = copy.deepcopy((G, basis, r))
    with pytest.raises(ValueError, match="dst was written to after get_basis_and_r"):
        GSE3Res(FIBER, FIBER)(features(), G=G, r=r, basis=basis)


# --------------------------------------------------------------------------------- before the backward pass


def gradients(G, layer, h, change, create_graph):
    """Gradients of the layer's output on a copy of G, which changes before the backward pass."""
    G = copy.deepcopy(G)
    basis, r = get_basis_and_r(G, 1)
    output = layer(h, G=G, r=r, basis=basis)
    change(G)
    leaves = [*h.values(), *layer.parameters()]
    loss = output["1"].square().sum()
    return torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True, materialize_grads=True)


@by_every_backend
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("make", [GConvSE3Partial, GConvSE3, GSE3Res])
@pytest.mark.parametrize("memory", [None, SOME_EDGES])
def test_edges_that_are_written_to_before_the_backward_pass(backend, create_graph, make, memory):
    """Gradients are right, or PyTorch refuses what it saved."""
    G, layer = neighbours(), make(FIBER, FIBER)
    h = {degree: value.requires_grad_() for degree, value in features().items()}
    expected = gradients(G, layer, h, lambda G: None, create_graph)

    def roll(G, end):
        G.edges()[end].copy_((G.edges()[end] + 7) % 12)

    with use_backend(backend, memory):
        found = gradients(G, layer, h, lambda G: roll(G, 0), create_graph)
        for d, right in zip(found, expected, strict=True):
            torch.testing.assert_close(d, right, rtol=1e-4, atol=1e-4)
        if make is not GConvSE3Partial:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                gradients(G, layer, h, lambda G: roll(G, 1), create_graph)


READ = {
    "edata['d']": lambda G, h, r: G.edata["d"],
    "edata['w']": lambda G, h, r: G.edata["w"],
    "edata['envelope']": lambda G, h, r: G.edata["envelope"],
    "r": lambda G, h, r: r,
    "h['0']": lambda G, h, r: h["0"],
    "h['1']": lambda G, h, r: h["1"],
}


@by_every_backend
@pytest.mark.parametrize("field", READ)
@pytest.mark.parametrize("memory", [None, SOME_EDGES])
def test_values_that_are_written_to_before_the_backward_pass(backend, field, memory):
    """Gradients are right, or there are none."""
    G, layer, before = neighbours(), GSE3Res(FIBER, FIBER, edge_dim=1, x_ij="cat"), features()
    G.edata["w"], G.edata["envelope"] = torch.randn(36, 1), torch.rand(36, 1)
    found = []
    for change in (False, True):
        copied, h = copy.deepcopy((G, before))
        with use_backend(backend, memory):
            basis, r = get_basis_and_r(copied, 1)
            output = layer(h, G=copied, r=r, basis=basis)
            if change:
                READ[field](copied, h, r).add_(1)
            try:
                loss = sum(value.square().sum() for value in output.values())
                found.append(torch.autograd.grad(loss, [*layer.parameters()], materialize_grads=True))
            except RuntimeError as error:
                assert re.search(r"modified by an inplace operation|must not be written to before", str(error))  # noqa: PT017
    assert found
    for gradient, right in zip(found[-1], found[0], strict=True):
        torch.testing.assert_close(gradient, right)


@pytest.mark.parametrize("backend", ["oracle", "edge"])
@pytest.mark.parametrize("what", ["features", "parameters", "basis"])
def test_blocks_are_not_made_again_of_what_was_written_to(backend, what):
    G, layer = neighbours(), GConvSE3Partial(FIBER, FIBER)
    h = features()
    basis, r = get_basis_and_r(G, 1)
    with use_backend(backend, memory=1):
        output = layer(h, G=G, r=r, basis=basis)
    written = {"features": h["1"], "parameters": next(layer.parameters()).detach(), "basis": basis["1,1"]}[what]
    written.add_(1)
    with pytest.raises(RuntimeError, match="what messages are made from must not be written to before"):
        sum(value.sum() for value in output.values()).backward()


# ------------------------------------------------------------------------------------------------- and others


@by_every_backend
def test_a_graph_without_edges_has_derivatives_of_zero(backend):
    G, layer = Graph([], [], 3), GConvSE3(FIBER, FIBER, self_interaction=True, edge_dim=1)
    G.edata["d"], G.edata["w"] = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, 1, requires_grad=True)
    h = {degree: value.requires_grad_() for degree, value in features(3).items()}
    leaves = [*h.values(), *layer.parameters(), G.edata["d"], G.edata["w"]]
    with use_backend(backend):
        basis, r = get_basis_and_r(G, 1, compute_gradients=True)
        output = layer(h, G=G, r=r, basis=basis)
        assert [value.shape for value in output.values()] == [(3, 4, 1), (3, 4, 3)]
        loss = sum(value.square().sum() for value in output.values())
        once = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        twice = torch.autograd.grad(sum(d.sum() for d in once), leaves, allow_unused=True, materialize_grads=True)
    assert all(d.shape == leaf.shape and not d.any() for d, leaf in zip(once, leaves, strict=True))
    assert not any(d.any() for d in twice)


def test_a_plain_dict_does_not_let_negative_numbers_of_nodes_pass(data):
    layer = GConvSE3Partial(FIBER, FIBER)
    basis, r = get_basis_and_r(data, 1)
    data.edge_index[0, 0] = -1
    for backend in ("oracle", "edge", None):
        with use_backend(backend), pytest.raises((IndexError, RuntimeError), match="out of range"):
            layer(features(), G=data, r=r, basis=dict(basis))


@by_every_backend
def test_threads_that_share_a_basis(backend):
    """Each may be the first to ask for frames or a pair of degrees."""
    G, layer, h = neighbours(), GSE3Res(FIBER, FIBER), features()
    expected = layer(h, G=G, r=get_basis_and_r(G, 1)[1], basis=get_basis_and_r(G, 1)[0])
    for _ in range(5):
        basis, r = get_basis_and_r(G, 1)

        def run(_, basis=basis, r=r):
            with use_backend(backend):
                return layer(h, G=G, r=r, basis=basis)

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(run, range(4)):
                torch.testing.assert_close(found, expected)
