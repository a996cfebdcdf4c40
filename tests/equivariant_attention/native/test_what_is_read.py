"""What C++ is given to read: tensors of other classes, views, several threads at once."""

import threading

import pytest
import torch
from torch.utils._pytree import tree_map

from equivariant_attention.contraction import cpp, use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.models import SE3Transformer
from equivariant_attention.modules import GConvSE3Partial, GSE3Res, get_basis_and_r
from equivariant_attention.native.calls import check_read, contiguous, not_built
from equivariant_attention.neighbors import knn_graph
from tests.cases import random_features, random_graph

runs = pytest.mark.skipif(bool(not_built(cpp.SOURCE)), reason=not_built(cpp.SOURCE))
FIBER = Fiber(2, 2)


class Named(torch.Tensor):
    """A subclass whose numbers are its own."""


class Wrapper(torch.Tensor):
    """A subclass whose numbers are those of another tensor, and whose own memory holds nothing."""

    @staticmethod
    def __new__(cls, inner):
        self = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, strides=inner.stride())
        self.inner = inner
        return self

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda v: v.inner if isinstance(v, cls) else v, (args, kwargs or {}))
        return function(*args, **kwargs)


@pytest.mark.parametrize("kind", [Wrapper, lambda v: v.as_subclass(Named)], ids=["wrapper", "subclass"])
@pytest.mark.parametrize("place", ["features", "d", "w", "envelope", "edges", "parameters"])
def test_tensors_of_other_classes(place, kind):
    """The values are those of plain tensors, or PyTorch says that it cannot."""
    layer, G = GSE3Res(FIBER, FIBER, edge_dim=1, div=1), random_graph(torch.float32, edge_dim=1)
    features = random_features(FIBER, G.num_nodes(), torch.float32)
    G.edata["envelope"] = torch.rand(G.num_edges(), 1)

    def output():
        basis, r = get_basis_and_r(G, 1)
        return layer(features, G=G, r=r, basis=basis)

    expected = output()
    if place == "features":
        features = {d: kind(v) for d, v in features.items()}
    elif place == "edges":
        fields, (src, dst) = dict(G.edata), G.edges()
        G = Graph(src, dst, G.num_nodes())
        G._src, G._dst = kind(src), kind(dst)
        G.edata.update(fields)
    elif place == "parameters":
        for module in layer.modules():
            for name, parameter in module._parameters.items():
                module._parameters[name] = kind(parameter.detach())
    else:
        G.edata[place] = kind(G.edata[place])
    try:
        found = output()
    except (RuntimeError, TypeError, NotImplementedError):
        return
    for d in expected:
        torch.testing.assert_close(found[d].as_subclass(torch.Tensor), expected[d], rtol=1e-4, atol=1e-5)


def test_edge_index_of_pytorch_geometric():
    geometric = pytest.importorskip("torch_geometric")
    x, index = torch.randn(5, 3), torch.tensor([[0, 1, 2, 3, 4], [1, 2, 3, 4, 0]])
    special, d = geometric.EdgeIndex(index), x[index[1]] - x[index[0]]
    model, features = SE3Transformer({0: 4}, {0: 4, 1: 4}, {0: 2}, num_layers=1), {"0": torch.randn(5, 4, 1)}
    expected = model(geometric.data.Data(pos=x, edge_index=index, d=d), features)["0"]
    G = Graph(special[0], special[1])
    G.edata["d"] = d
    for graph in (geometric.data.Data(pos=x, edge_index=special, d=d), G):
        torch.testing.assert_close(model(graph, features)["0"], expected)
    assert all(type(ends) is torch.Tensor for ends in G.edges())


@runs
@pytest.mark.parametrize("place", ["features", "d", "w"])
def test_negated_views(place):
    """By public means such a view of real numbers is contiguous where it has one of them."""
    layer, G = GConvSE3Partial(Fiber(1, 1), FIBER, edge_dim=1), Graph([0], [0], 1)
    features = {"0": torch.rand(1, 1, 1)}
    G.edata["d"], G.edata["w"] = torch.randn(1, 3), torch.randn(1, 1)

    def negated(v):
        return torch._neg_view(-v)

    found = []
    for backend in ("oracle", "cpp", "frame"):
        for change in (lambda v: v, negated):
            given = {"features": features["0"], "d": G.edata["d"], "w": G.edata["w"]}
            given[place] = change(given[place])
            other = Graph([0], [0], 1)
            other.edata["d"], other.edata["w"] = given["d"], given["w"]
            basis, r = get_basis_and_r(other, 1)
            with use_backend(backend):
                found.append(layer({"0": given["features"]}, G=other, r=r, basis=basis)["1"])
    for value in found[1:]:
        torch.testing.assert_close(value, found[0])
    imaginary = torch.complex(torch.zeros(1, 1, 1), -features["0"]).conj().imag
    assert imaginary.is_neg()
    assert torch.equal(contiguous([imaginary, None])[0], features["0"])


@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (torch.zeros(2, 3).double(), TypeError, "x must be a dense tensor of torch.float32 on cpu, got torch.float64"),
        (torch.zeros(2, 3, device="meta"), TypeError, "got torch.float32 on meta"),
        (torch.zeros(2, 3).to_sparse(), TypeError, "x must be a dense tensor"),
        (Wrapper(torch.zeros(2, 3)), TypeError, "Wrapper"),
        (torch.zeros(3, 2), ValueError, r"x must have shape \[2, 3\], got \[3, 2\]"),
    ],
)
def test_what_would_be_misread_is_refused(tensor, error, message):
    check_read(torch.zeros(2, 3), "x", torch.float32, (2, 3))
    with pytest.raises(error, match=message):
        check_read(tensor, "x", torch.float32, (2, 3))


@runs
@pytest.mark.parametrize("change", [lambda v: v.double(), lambda v: v[:1]], ids=["dtype", "shape"])
def test_messages_of_which_other_tensors_were_kept(change):
    """Hooks of saved tensors may compress them, say."""
    layer, G = GConvSE3Partial(FIBER, FIBER), random_graph(torch.float32)
    features = {d: v.requires_grad_() for d, v in random_features(FIBER, G.num_nodes(), torch.float32).items()}
    basis, r = get_basis_and_r(G, 1)
    with torch.autograd.graph.saved_tensors_hooks(lambda v: v, change):
        output = layer(features, G=G, r=r, basis=basis)
    with pytest.raises((TypeError, ValueError)):
        sum(v.sum() for v in output.values()).backward()


@pytest.mark.parametrize("threads_of_each", [1, 2])
def test_several_threads_at_once(threads_of_each):
    """Forward and backward passes of four threads, each with its own graph, are what they are one after the other."""
    model = SE3Transformer({0: 4}, {0: 4, 1: 4}, {0: 2}, num_layers=2, n_heads=2)
    parameters, sizes = [*model.parameters()], (6, 9, 12, 15)
    problems = [(knn_graph(torch.randn(nodes, 3), 4), {"0": torch.randn(nodes, 4, 1)}) for nodes in sizes]

    def compute(G, features):
        output = model(G, features)["0"]
        return [output, *torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)]

    found = [[] for _ in problems]

    def repeated(i):
        torch.set_num_threads(threads_of_each)
        for _ in range(5):
            found[i].append(compute(*problems[i]))

    threads = [threading.Thread(target=repeated, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.set_num_threads(1)
    for problem, runs_of_thread in zip(problems, found, strict=True):
        expected = compute(*problem)
        assert len(runs_of_thread) == 5
        for values in runs_of_thread:
            for a, b in zip(values, expected, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * max(1.0, float(b.detach().abs().max())))
