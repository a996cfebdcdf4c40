"""What holds of every model: equivariance in both precisions, on every kind of graph.

Models come with float32 parameters, which lose nothing in float64 and back. They are changed in place: to copy
thousands of modules takes long.
"""

import copy
from functools import partial

import torch

from equivariant_attention.graphs import as_graph
from equivariant_attention.testing import TOLERANCE, assert_equivariant


def in_dtype(G, dtype):
    graph = as_graph(G)
    for fields in (graph.ndata, graph.edata):
        for name in list(fields):
            fields[name] = fields[name].to(dtype)
    return G


def rounding_error(make_output, model, G):
    """How far the float32 outputs of a model are from its float64 outputs, relative to the largest."""
    expected = make_output(model.double(), in_dtype(copy.deepcopy(G), torch.float64))
    found = make_output(model.float(), in_dtype(copy.deepcopy(G), torch.float32)).double()
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def assert_model_is_equivariant(make_output, model, G, **options):
    """Float64 below 1e-12; float32 below 1e-5 or, if that is larger, 10 times the model's own rounding error."""
    for dtype, tolerance in TOLERANCE.items():
        if dtype == torch.float32:
            tolerance = max(tolerance, 10 * rounding_error(make_output, model, G))
        model, graph = model.to(dtype), in_dtype(copy.deepcopy(G), dtype)
        assert_equivariant(partial(make_output, model), graph, tolerance=tolerance, **options)
