"""Graphs and features that the tests of NVIDIA's dialect share."""

import torch

from equivariant_attention.nvidia import Fiber, SE3Transformer
from tests.cases import random_graph

VECTORS = {"fiber_in": {0: 4, 1: 3}, "fiber_hidden": {0: 8, 1: 8}, "fiber_out": {0: 4, 1: 2}, "fiber_edge": {0: 3}}


def graph(dtype=torch.float64, sizes=(5, 4, 6)):
    """As the package takes it: with ``edata['rel_pos']``."""
    G = random_graph(dtype, sizes=sizes)
    G.edata["rel_pos"] = G.edata.pop("d")
    return G


def features(fiber, rows, dtype=torch.float64):
    return {str(d): torch.randn(rows, m, 2 * d + 1, dtype=dtype) for d, m in dict(Fiber(fiber).items()).items() if m}


def model(dtype=torch.float64, fibers=None, **options):
    """A small transformer, whose LayerNorms and GroupNorms are not as they are made."""
    arguments = {"num_layers": 2, "num_heads": 2, "channels_div": 2, **options}
    made = SE3Transformer(**{k: Fiber(v) for k, v in {**VECTORS, **(fibers or {})}.items()}, **arguments).to(dtype)
    return with_other_norms(made)


def with_other_norms(module):
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
                assert name.endswith(("weight", "bias"))
    return module
