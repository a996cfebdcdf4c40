"""Calls of the library's functions, each with one wrong argument, and which argument the error must name."""

from functools import partial

import torch

from equivariant_attention import graphs
from equivariant_attention.contraction import use_backend
from equivariant_attention.envelope import polynomial_envelope
from equivariant_attention.fibers import Fiber, fiber2head, fiber2tensor, get_fiber_dict, get_fiber_tensor
from equivariant_attention.graphs import Graph, graph_of_node
from equivariant_attention.modules import (
    BN,
    GMABSE3,
    G1x1SE3,
    GAttentiveSelfInt,
    GAvgPooling,
    GCat,
    GConvSE3,
    GConvSE3Partial,
    GNormBias,
    GNormSE3,
    GSE3Res,
    GSum,
    PairwiseConv,
    RadialFunc,
    get_basis,
    get_basis_and_r,
    get_r,
)
from equivariant_attention.neighbors import fully_connected_graph, knn_graph, radius_graph
from equivariant_attention.plan import Plan
from equivariant_attention.precompute import BasisCache
from equivariant_attention.so3 import (
    aligned_coupling,
    aligning_matrices,
    aligning_rotation,
    coupling,
    features_to_symmetric_tensor,
    random_rotation,
    spherical_harmonics,
    symmetric_tensor_to_features,
    wigner_d,
    wigner_matrices,
)
from equivariant_attention.so3.vectors import length_and_direction
from equivariant_attention.testing import assert_equivariant, equivariance_error

NAN, INFINITY = float("nan"), float("inf")
ONE = Fiber(1, 2)
A, B = Fiber(dictionary={0: 2, 1: 3}), Fiber(dictionary={1: 5})
OF_A = {"0": torch.zeros(4, 2, 1), "1": torch.zeros(4, 3, 3)}


def small(**edata):
    """Two nodes, an edge each way."""
    G = Graph([0, 1], [1, 0])
    G.edata["d"] = torch.tensor([[0.0, 0, 1], [0, 0, -1]])
    G.edata.update(edata)
    return G


def cached(G, keys):
    return BasisCache(1, 2**20).get_basis_and_r(G, keys)


def lengths(G):
    return G.edata["d"].norm(dim=-1, keepdim=True)


def moved(d):
    return get_basis_and_r(small(d=d), 1)


def repeated(cell=None, pbc=None, radius=1.0):
    return radius_graph(torch.zeros(2, 3), radius, cell=cell, pbc=pbc)


INT32, ON_META = torch.tensor([0], dtype=torch.int32), torch.empty(1, dtype=torch.int64, device="meta")
CELL, FLAT = 3 * torch.eye(3), torch.tensor([[3.0, 0, 0], [0, 3, 0], [3, 3, 0]])
SYMMETRIC = {"0": torch.zeros(2, 1), "2": torch.zeros(2, 5)}
FROM_POSITIONS = (fully_connected_graph, partial(knn_graph, k=3), partial(radius_graph, radius=1.5))
POSITIONS = {
    "of two numbers": torch.zeros(4, 2),
    "of three dimensions": torch.zeros(4, 1, 3),
    "whole": torch.zeros(4, 3, dtype=torch.int64),
    "list": [[0.0, 0.0, 0.0]],
    "nan": torch.tensor([[0.0, 0, 0], [0, NAN, 0]]),
    "infinite": torch.tensor([[INFINITY, 0, 0]]),
}
BATCHES = {
    "not sorted": torch.tensor([0, 1, 0]),
    "from -1": torch.tensor([-1, 0, 0]),
    "too short": torch.tensor([0, 0]),
    "no whole numbers": torch.tensor([0.0, 0, 0]),
    "list": [0, 0, 0],
}
NAMES = {fully_connected_graph: "fully_connected_graph", **{f: f.func.__name__ for f in FROM_POSITIONS[1:]}}


# call: (what is called, error, the argument that the error names first)
WRONG = {
    # fibers
    "Fiber: degrees": (lambda: Fiber(2.5, 4), TypeError, "num_degrees"),
    "Fiber: no degrees": (lambda: Fiber(0, 4), ValueError, "a Fiber"),
    "Fiber: channels": (lambda: Fiber(2, 1.5), TypeError, "the multiplicity of degree 0"),
    "Fiber: negative": (lambda: Fiber(2, -1), ValueError, "a Fiber"),
    "Fiber: strings": (lambda: Fiber(dictionary={"0": 4}), TypeError, "a degree"),
    "Fiber: list": (lambda: Fiber(dictionary=[(4, 0)]), TypeError, "dictionary"),
    "Fiber: no pairs": (lambda: Fiber(structure=[4, 4]), TypeError, "structure"),
    "Fiber: no list": (lambda: Fiber(structure=4), TypeError, "structure"),
    "Fiber: empty": (lambda: Fiber(structure=[]), ValueError, "a Fiber"),
    "Fiber: no channels": (lambda: Fiber(structure=[(0, 1)]), ValueError, "a Fiber"),
    "Fiber: negative degree": (lambda: Fiber(structure=[(1, -1)]), ValueError, "a Fiber"),
    "Fiber: a degree twice": (lambda: Fiber(structure=[(1, 0), (2, 0)]), ValueError, "a Fiber"),
    "combine": (lambda: Fiber.combine(A, {0: 1}), TypeError, "f2"),
    "combine_max": (lambda: Fiber.combine_max([(1, 0)], A), TypeError, "f1"),
    "combine_selectively": (lambda: Fiber.combine_selectively(A, None), TypeError, "f2"),
    "combine_fibers": (lambda: Fiber.combine_fibers(OF_A, A, OF_A, B), ValueError, "val2"),
    "get_fiber_dict: no tensor": (lambda: get_fiber_dict([1.0], A), TypeError, "F"),
    "get_fiber_dict: no dimension": (lambda: get_fiber_dict(torch.tensor(1.0), A), ValueError, "F"),
    "get_fiber_dict: fiber": (lambda: get_fiber_dict(torch.zeros(11), 11), TypeError, "struct"),
    "get_fiber_dict: mask": (lambda: get_fiber_dict(torch.zeros(11), A, {0}), TypeError, "mask"),
    "get_fiber_dict: none kept": (
        lambda: get_fiber_dict(torch.zeros(11), A, Fiber(dictionary={2: 1})),
        ValueError,
        "mask",
    ),
    "get_fiber_tensor: degree": (lambda: get_fiber_tensor(OF_A, B), ValueError, "F"),
    "get_fiber_tensor: no dict": (lambda: get_fiber_tensor([OF_A], A), TypeError, "F"),
    "get_fiber_tensor: value": (lambda: get_fiber_tensor({**OF_A, "1": [0]}, A), TypeError, "F['1']"),
    "fiber2tensor": (lambda: fiber2tensor({"0": OF_A["0"]}, A), ValueError, "F"),
    "fiber2head: channels": (lambda: fiber2head({"1": OF_A["1"]}, 1, B), ValueError, "F['1']"),
    "fiber2head: heads": (lambda: fiber2head(OF_A, 1.5, A), TypeError, "n_heads"),
    # graphs
    "Graph: None": (lambda: Graph(None, [0]), ValueError, "src"),
    "Graph: ragged": (lambda: Graph([0], [[1], 2]), ValueError, "dst"),
    "Graph: two dimensions": (lambda: Graph([[0]], [[1]]), ValueError, "src"),
    "Graph: floats": (lambda: Graph([0], [1.0]), ValueError, "dst"),
    "Graph: bools": (lambda: Graph([True], [True]), ValueError, "src"),
    "Graph: numbers": (lambda: Graph(3, 4), ValueError, "src"),
    "Graph: too short": (lambda: Graph([0, 1], [1]), ValueError, "dst"),
    "Graph: dtypes": (lambda: Graph(INT32, [1]), ValueError, "dst"),
    "Graph: devices": (lambda: Graph(ON_META, [1]), ValueError, "dst"),
    "Graph: src beyond": (lambda: Graph([0, 3], [1, -1], 3), ValueError, "src"),
    "Graph: dst beyond": (lambda: Graph([0, 2], [1, 4], 3), ValueError, "dst"),
    "Graph: dst negative": (lambda: Graph([0], [-1]), ValueError, "dst"),
    "Graph: nodes negative": (lambda: Graph([], [], -1), ValueError, "num_nodes"),
    "Graph: half a node": (lambda: Graph([0], [1], 2.5), ValueError, "num_nodes"),
    **{
        f"{NAMES[function]}: x, {name}": (partial(function, x), ValueError, "x")
        for function in FROM_POSITIONS
        for name, x in POSITIONS.items()
    },
    **{
        f"{NAMES[function]}: batch, {name}": (partial(function, torch.zeros(3, 3), batch=batch), ValueError, "batch")
        for function in FROM_POSITIONS
        for name, batch in BATCHES.items()
    },
    **{f"knn_graph: {k} neighbours": (partial(knn_graph, torch.zeros(3, 3), k), ValueError, "k") for k in (0, -1, 2.5)},
    **{
        f"radius_graph: {radius}": (partial(radius_graph, torch.zeros(3, 3), radius), ValueError, "radius")
        for radius in (0, -1.0, NAN)
    },
    "cell: list": (lambda: repeated([[1, 0, 0]]), ValueError, "cell"),
    "cell: dtype": (lambda: repeated(CELL.double()), ValueError, "cell"),
    "cell: shape": (lambda: repeated(CELL[:2]), ValueError, "cell"),
    "cell: graphs": (lambda: repeated(CELL.expand(2, 3, 3)), ValueError, "cell"),
    "cell: none": (lambda: repeated(pbc=True), ValueError, "cell"),
    "cell: not finite": (lambda: repeated(CELL * NAN), ValueError, "cell"),
    "cell: vector missing": (lambda: repeated(CELL * torch.tensor([[1], [0], [1]])), ValueError, "cell"),
    "cell: flat": (lambda: repeated(FLAT), ValueError, "cell"),
    "pbc: numbers": (lambda: repeated(CELL, [1, 0, 1]), ValueError, "pbc"),
    "pbc: shape": (lambda: repeated(CELL, [True, False]), ValueError, "pbc"),
    "radius: infinite": (lambda: repeated(CELL, radius=INFINITY), ValueError, "radius"),
    "batch": (lambda: graphs.batch(small()), TypeError, "graphs"),
    "batch: None": (lambda: graphs.batch([small(), None]), TypeError, "G"),
    "unbatch": (lambda: graphs.unbatch([small()]), TypeError, "G"),
    "graph_of_node": (lambda: graph_of_node(None), TypeError, "G"),
    "fully_connected_graph: float16": (lambda: fully_connected_graph(torch.zeros(2, 3).half()), ValueError, "x"),
    "fully_connected_graph: scalar": (lambda: fully_connected_graph(torch.tensor(1.0)), ValueError, "x"),
    "knn_graph: too far": (lambda: knn_graph(torch.full((2, 3), 1e200, dtype=torch.float64), 1), ValueError, "x"),
    "knn_graph: k": (lambda: knn_graph(torch.zeros(2, 3), "1"), ValueError, "k"),
    "radius_graph: None": (lambda: radius_graph(torch.zeros(2, 3), None), ValueError, "radius"),
    "radius_graph: text": (lambda: radius_graph(torch.zeros(2, 3), "1"), ValueError, "radius"),
    "radius_graph: batch": (lambda: radius_graph(torch.zeros(2, 3), 1, torch.zeros(2)), ValueError, "batch"),
    # what is made of a graph, once per forward pass
    "polynomial_envelope: r": (lambda: polynomial_envelope(1.0, 2.0), TypeError, "r"),
    "polynomial_envelope: whole": (lambda: polynomial_envelope(torch.ones(2, dtype=torch.int64), 2.0), TypeError, "r"),
    "polynomial_envelope: cutoff": (lambda: polynomial_envelope(torch.ones(2), None), ValueError, "cutoff"),
    "Plan: relative positions": (lambda: Plan(torch.zeros(2, 3)), TypeError, "G"),
    "Plan: nothing": (lambda: Plan(None), TypeError, "G"),
    "Plan: no d": (lambda: Plan(Graph([0], [1])), KeyError, "the graph"),
    "Plan: nan": (lambda: Plan(small(d=torch.tensor([[0, 0, 1], [0, NAN, 0]]))), ValueError, "edata['d']"),
    "Plan: w of nan": (lambda: Plan(small(w=torch.tensor([[1, 2], [3, NAN]]))), ValueError, "edata['w']"),
    "Plan: w of one dimension": (lambda: Plan(small(w=torch.zeros(2))), ValueError, "edata['w']"),
    "Plan: w of complex numbers": (
        lambda: Plan(small(w=torch.ones(2, 1, dtype=torch.complex64))),
        TypeError,
        "edata['w']",
    ),
    "Plan: envelope": (lambda: Plan(small(envelope=torch.tensor([[1.0], [-0.5]]))), ValueError, "edata['envelope']"),
    "Plan.check": (lambda: Plan(small()).check(None), TypeError, "G"),
    "get_basis_and_r: graph": (lambda: get_basis_and_r([small()], 1), TypeError, "G"),
    "get_basis_and_r: plan": (lambda: get_basis_and_r(small(), 1, plan=small()), TypeError, "plan"),
    "get_basis_and_r: half": (lambda: get_basis_and_r(small(d=torch.zeros(2, 3).half()), 1), TypeError, "edata['d']"),
    "get_basis_and_r: shape": (lambda: moved(torch.zeros(2, 2)), ValueError, "edata['d']"),
    "get_basis_and_r: whole": (lambda: moved(torch.zeros(2, 3, dtype=torch.int64)), TypeError, "edata['d']"),
    "get_basis_and_r: nan": (lambda: moved(torch.full((2, 3), NAN)), ValueError, "edata['d']"),
    "get_basis_and_r: infinite": (lambda: moved(torch.full((2, 3), INFINITY)), ValueError, "edata['d']"),
    "get_basis_and_r: too far": (lambda: moved(torch.full((2, 3), 1e19)), ValueError, "edata['d']"),
    "get_basis": (lambda: get_basis(small(), "1"), ValueError, "max_degree"),
    "get_r": (lambda: get_r(Graph([0], [1])), KeyError, "the graph"),
    "BasisCache: no keys": (lambda: cached(small(), None), TypeError, "keys"),
    "BasisCache: lists": (lambda: cached(small(), [[0]]), TypeError, "keys"),
    "BasisCache: rows": (lambda: cached(small(), [torch.arange(2)]), TypeError, "keys"),
    "BasisCache: graph": (lambda: cached(None, [0]), TypeError, "G"),
    "BasisCache: nan": (lambda: cached(small(d=torch.full((2, 3), NAN)), [0]), ValueError, "edata['d']"),
    # tests of equivariance
    "equivariance_error: model": (lambda: equivariance_error(None, small()), TypeError, "model"),
    "equivariance_error: degree": (
        lambda: equivariance_error(lengths, small(), output_degree=-1),
        ValueError,
        "output_degree",
    ),
    "equivariance_error: field": (
        lambda: equivariance_error(lengths, small(), edge_degrees={"d": "1"}),
        ValueError,
        "edge_degrees['d']",
    ),
    "equivariance_error: key": (lambda: equivariance_error(lambda G: {"v": lengths(G)}, small()), TypeError, "model"),
    "equivariance_error: value": (lambda: equivariance_error(lambda G: {"0": 1.0}, small()), TypeError, "model"),
    "equivariance_error: number": (lambda: equivariance_error(lambda G: lengths(G).sum(), small()), TypeError, "model"),
    "equivariance_error: nothing": (lambda: equivariance_error(lambda G: {}, small()), TypeError, "model"),
    "equivariance_error: rows": (
        lambda: equivariance_error(lengths, small(), output_on="graphs"),
        ValueError,
        "the output",
    ),
    "assert_equivariant: no d": (lambda: assert_equivariant(lengths, Graph([0], [1])), KeyError, "the graph"),
    "assert_equivariant: whole numbers": (
        lambda: assert_equivariant(lengths, small(d=torch.zeros(2, 3, dtype=torch.int64))),
        TypeError,
        "edata['d']",
    ),
    # layers
    "BN": (lambda: BN(0), ValueError, "m"),
    "RadialFunc": (lambda: RadialFunc(1, -1, 2), ValueError, "in_dim"),
    "RadialFunc: num_freq": (lambda: RadialFunc(0, 1, 2), ValueError, "num_freq"),
    "RadialFunc: edge_dim": (lambda: RadialFunc(1, 1, 2, 1.5), ValueError, "edge_dim"),
    "PairwiseConv: degree": (lambda: PairwiseConv(-1, 2, 1, 2), ValueError, "degree_in"),
    "PairwiseConv: channels": (lambda: PairwiseConv(1, 2, 1, 0), ValueError, "nc_out"),
    "GConvSE3: fiber": (lambda: GConvSE3([(1, 0)], ONE), TypeError, "f_in"),
    "GConvSE3: edge_dim": (lambda: GConvSE3(ONE, ONE, edge_dim="1"), ValueError, "edge_dim"),
    "GConvSE3: flavor": (lambda: GConvSE3(ONE, ONE, flavor=None), ValueError, "flavor"),
    "GConvSE3Partial": (lambda: GConvSE3Partial(ONE, None), TypeError, "f_out"),
    "GConvSE3Partial: cat": (lambda: GConvSE3Partial(None, ONE, x_ij="cat"), TypeError, "f_in"),
    "GConvSE3Partial: x_ij": (lambda: GConvSE3Partial(ONE, ONE, x_ij=["cat"]), ValueError, "x_ij"),
    "G1x1SE3": (lambda: G1x1SE3(ONE, {0: 1}), TypeError, "f_out"),
    "GNormSE3: name": (lambda: GNormSE3(ONE, "relu"), TypeError, "nonlin"),
    "GNormSE3: layers": (lambda: GNormSE3(ONE, num_layers=1.0), ValueError, "num_layers"),
    "GNormBias: name": (lambda: GNormBias(ONE, "relu"), TypeError, "nonlin"),
    "GNormBias: layers": (lambda: GNormBias(ONE, num_layers=-1), ValueError, "num_layers"),
    "GNormBias: fiber": (lambda: GNormBias(2), TypeError, "fiber"),
    "GAttentiveSelfInt": (lambda: GAttentiveSelfInt(2, ONE), TypeError, "f_in"),
    "GMABSE3: fiber": (lambda: GMABSE3({0: 2}, ONE, 1), TypeError, "f_value"),
    "GMABSE3: heads": (lambda: GMABSE3(ONE, ONE, 1.0), ValueError, "n_heads"),
    "GSE3Res: skip": (lambda: GSE3Res(ONE, ONE, skip="add"), ValueError, "skip"),
    "GSE3Res: selfint": (lambda: GSE3Res(ONE, ONE, selfint="2x2"), ValueError, "selfint"),
    "GSE3Res: x_ij": (lambda: GSE3Res(ONE, ONE, div=1, x_ij="sub"), ValueError, "x_ij"),
    "GSE3Res: zero": (lambda: GSE3Res(ONE, ONE, div=0), ValueError, "div"),
    "GSE3Res: div": (lambda: GSE3Res(ONE, ONE, div="2"), ValueError, "div"),
    "GSE3Res: negative": (lambda: GSE3Res(ONE, ONE, div=-1), ValueError, "div"),
    "GSE3Res: heads": (lambda: GSE3Res(ONE, ONE, div=1, n_heads=0), ValueError, "n_heads"),
    "GSE3Res: fiber": (lambda: GSE3Res(2, ONE, div=1), TypeError, "f_in"),
    "GSum": (lambda: GSum(ONE, {0: 1}), TypeError, "f_y"),
    "GCat": (lambda: GCat(None, ONE), TypeError, "f_x"),
    "GAvgPooling": (lambda: GAvgPooling(0), ValueError, "type"),
    "use_backend": (lambda: use_backend(3).__enter__(), ValueError, "backend"),
    "use_backend: memory": (lambda: use_backend(None, 1.5).__enter__(), ValueError, "memory"),
    # rotations
    "coupling: negative": (lambda: coupling(-1, 1, 1), ValueError, "degree_out"),
    "coupling: fraction": (lambda: coupling(1, 1.5, 1), ValueError, "degree_in"),
    "coupling: J": (lambda: coupling(1, 1, 0.5), ValueError, "J"),
    "aligned_coupling": (lambda: aligned_coupling(1, -1), ValueError, "degree_in"),
    "spherical_harmonics: degree": (lambda: spherical_harmonics(-1, torch.zeros(2, 3)), ValueError, "max_degree"),
    "spherical_harmonics: shape": (lambda: spherical_harmonics(1, torch.zeros(3, 2)), ValueError, "direction"),
    "spherical_harmonics: dtype": (lambda: spherical_harmonics(1, torch.ones(2, 3).long()), TypeError, "direction"),
    "wigner_d: degree": (lambda: wigner_d(-1, torch.eye(3)), ValueError, "degree"),
    "wigner_d: shape": (lambda: wigner_d(1, torch.eye(4)), ValueError, "rotation"),
    "wigner_matrices": (lambda: wigner_matrices(2, [1]), TypeError, "rotation"),
    "wigner_matrices: degree": (lambda: wigner_matrices(1.5, torch.eye(3)), ValueError, "max_degree"),
    "aligning_rotation": (lambda: aligning_rotation(torch.tensor(1.0)), ValueError, "direction"),
    "aligning_matrices": (lambda: aligning_matrices(2, torch.ones(4)), ValueError, "direction"),
    "aligning_matrices: degree": (lambda: aligning_matrices(-1, torch.ones(3)), ValueError, "max_degree"),
    "symmetric_tensor_to_features: shape": (
        lambda: symmetric_tensor_to_features(torch.zeros(3, 4)),
        ValueError,
        "tensor",
    ),
    "symmetric_tensor_to_features: not symmetric": (
        lambda: symmetric_tensor_to_features(torch.ones(3, 3).triu()),
        ValueError,
        "tensor",
    ),
    "symmetric_tensor_to_features: nan": (
        lambda: symmetric_tensor_to_features(torch.full((3, 3), NAN)),
        ValueError,
        "tensor",
    ),
    "symmetric_tensor_to_features: infinite": (
        lambda: symmetric_tensor_to_features(torch.full((3, 3), INFINITY)),
        ValueError,
        "tensor",
    ),
    "features_to_symmetric_tensor: degrees": (
        lambda: features_to_symmetric_tensor({"0": SYMMETRIC["0"]}),
        ValueError,
        "features",
    ),
    "features_to_symmetric_tensor: shape": (
        lambda: features_to_symmetric_tensor({**SYMMETRIC, "2": torch.zeros(2, 3)}),
        ValueError,
        "features['2']",
    ),
    "features_to_symmetric_tensor: rows": (
        lambda: features_to_symmetric_tensor({**SYMMETRIC, "0": torch.zeros(1, 1)}),
        ValueError,
        "features",
    ),
    "features_to_symmetric_tensor: dtype": (
        lambda: features_to_symmetric_tensor({**SYMMETRIC, "2": torch.zeros(2, 5).double()}),
        TypeError,
        "features['2']",
    ),
    "length_and_direction": (lambda: length_and_direction(torch.ones(3).half()), TypeError, "vectors"),
}

# The same of errors that PyTorch or Python raises, and a part of what these say.
FOREIGN = {
    "Graph.to": (lambda: small().to("nowhere"), RuntimeError, "nowhere"),
    "assert_equivariant: option": (lambda: assert_equivariant(lengths, small(), degree=1), TypeError, "degree"),
    "random_rotation": (lambda: random_rotation(-1), RuntimeError, "negative dimension -1"),
}
