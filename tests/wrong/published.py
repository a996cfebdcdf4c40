"""Signs, weights and models that are none, given to ``equivariant_attention.published``; which argument is named."""

from functools import partial

import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GConvSE3, GNormSE3
from equivariant_attention.published import converted, fit_signs

SCALARS, VECTORS = Fiber(1, 2), Fiber(2, 2)
WEIGHT = "Gblock.0.GMAB.v.kernel_unary.(1,1).rp.net.6.weight"
SIGNS = {
    "zero": ({(1, 1, 1): 0}, ValueError),
    "a fraction": ({(1, 1, 1): 2.5}, ValueError),
    "a bool": ({(1, 1, 1): True}, ValueError),
    "text": ({(1, 1, 1): "-"}, ValueError),
    "of two degrees": ({(1, 1): -1}, ValueError),
    "of text": ({"1,1,1": -1}, ValueError),
    "of no coupling": ({(1, 1, 3): -1}, ValueError),
    "of a fraction": ({(1.0, 1, 1): -1}, ValueError),
    "list": ([(1, 1, 1)], TypeError),
    "name": ("rosettafold", TypeError),
}
OURS = GConvSE3(VECTORS, VECTORS).state_dict()
WEIGHTS = {
    "rows": ({WEIGHT: torch.ones(4, 32)}, ValueError, WEIGHT),
    "one dimension": ({WEIGHT: torch.ones(3)}, ValueError, WEIGHT),
    "no rows": ({WEIGHT: torch.ones(0, 32)}, ValueError, WEIGHT),
    "whole numbers": ({WEIGHT: torch.ones(3, 32, dtype=torch.int8)}, TypeError, WEIGHT),
    "no tensor": ({WEIGHT: [1.0]}, TypeError, WEIGHT),
    "a checkpoint": ({"model_state_dict": {WEIGHT: torch.ones(3, 32)}}, TypeError, "state_dict"),
    "list": ([WEIGHT], TypeError, "state_dict"),
}
MODELS = {
    "no convolution": (GNormSE3(VECTORS), ValueError),
    "scalars alone": (GConvSE3(SCALARS, SCALARS), ValueError),
    "a file": ("model.pt", TypeError),
}

# call: (what is called, error, the argument that the error names first)
WRONG = {
    **{
        f"converted: signs, {name}": (partial(converted, OURS, table), error, "signs")
        for name, (table, error) in SIGNS.items()
    },
    **{
        f"converted: weights, {name}": (partial(converted, weights, {(1, 1, 1): -1}), error, argument)
        for name, (weights, error, argument) in WEIGHTS.items()
    },
    **{
        f"fit_signs: {name}": (partial(fit_signs, model, ({}, torch.zeros(1))), error, "model")
        for name, (model, error) in MODELS.items()
    },
}
