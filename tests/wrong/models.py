"""Ready-made models, each made or called with one wrong argument, and which argument the error must name."""

import math
from functools import partial

import torch

from equivariant_attention.models import TFN, ManyBodyPotential, Potential, RadialBasis, SE3Transformer

FIBERS = {0: 4, 1: 2}, {0: 4, 1: 4, 2: 4}, {0: 3, 1: 2, 2: 1}


def predicted(z):
    return Potential(2.0, {0: 4}, num_layers=0).predict(z, torch.zeros(2, 3))


# of both models: (arguments, the argument that the error names first)
OF_BOTH = {
    "pooling": ({"pooling": "median"}, "pooling"),
    "maximum of vectors": ({"pooling": "max"}, "pooling='max'"),
    "maximum of one vector": ({"pooling": "max", "return_type": 1}, "pooling='max'"),
    "no such degree": ({"return_type": 3}, "return_type"),
    "a degree as text": ({"return_type": "0"}, "return_type"),
    "no layers": ({"num_layers": 0}, "num_layers"),
    "edge_dim": ({"edge_dim": -1}, "edge_dim"),
}
FIBERS_OF_BOTH = {
    "a degree as text": (({"0": 6}, {0: 4}, {0: 1}), TypeError, "fiber_in"),
    "a number": ((6, {0: 4}, {0: 1}), TypeError, "fiber_in"),
    "no degree": (({}, {0: 4}, {0: 1}), ValueError, "fiber_in"),
    "one channel": (({0: 6}, {0: 4, 1: 1}, {0: 1}), ValueError, "fiber_hidden"),
}
OF_SE3_TRANSFORMER = {
    "radial_basis alone": ({"radial_basis": "bessel"}, "radial_basis and cutoff"),
    "cutoff alone": ({"cutoff": 2.0}, "radial_basis and cutoff"),
    "radial_basis": ({"radial_basis": "sine", "cutoff": 2.0}, "radial_basis"),
    "activation": ({"activation": "tanh"}, "activation"),
    "nonlinearity": ({"nonlinearity": "tanh"}, "nonlinearity"),
}
OF_TFN = {
    "one layer": ({"num_layers": 1}, "num_layers"),
    "flavor": ({"flavor": "other"}, "flavor"),
    "nonlinearity": ({"nonlinearity": "tanh"}, "nonlinearity"),
}
OF_POTENTIAL = {
    "no scalars": ({"fiber_hidden": {1: 4}}, "fiber_hidden"),
    "one channel": ({"fiber_hidden": {0: 4, 1: 1}}, "fiber_hidden"),
    "num_embedding": ({"num_embedding": 0}, "num_embedding"),
    "num_neighbors": ({"num_neighbors": 0}, "num_neighbors"),
    "num_layers": ({"num_layers": -1}, "num_layers"),
    "num_hidden": ({"num_hidden": 0}, "num_hidden"),
    "envelope": ({"envelope": 0}, "envelope"),
    "activation": ({"activation": "tanh"}, "activation"),
    "nonlinearity": ({"nonlinearity": "none"}, "nonlinearity"),
    "radial_basis": ({"radial_basis": None}, "radial_basis"),
}
OF_MANY_BODY = {
    "no channels": ({"num_channels": 0}, "num_channels"),
    "max_degree": ({"max_degree": -1}, "max_degree"),
    "more degrees sent": ({"max_degree": 1, "max_degree_sent": 2}, "max_degree_sent"),
    "no layers": ({"num_layers": 0}, "num_layers"),
    "correlation": ({"correlation": 0}, "correlation"),
    "num_embedding": ({"num_embedding": 0}, "num_embedding"),
    "num_neighbors": ({"num_neighbors": 0}, "num_neighbors"),
    "num_hidden": ({"num_hidden": 2.5}, "num_hidden"),
    "envelope": ({"envelope": 0}, "envelope"),
    "radial_basis": ({"radial_basis": "sine"}, "radial_basis"),
}
MADE_WITH = (
    (partial(SE3Transformer, *FIBERS), OF_BOTH | OF_SE3_TRANSFORMER),
    (partial(TFN, *FIBERS), OF_BOTH | OF_TFN),
    (partial(Potential, 2.0, fiber_hidden={0: 4, 1: 4}), OF_POTENTIAL),
    (partial(ManyBodyPotential, 2.0), OF_MANY_BODY),
)

# call: (what is called, error, the argument that the error names first)
WRONG = {
    **{
        f"{make.func.__name__}: {name}": (partial(make, **options), ValueError, argument)
        for make, table in MADE_WITH
        for name, (options, argument) in table.items()
    },
    **{
        f"{model.__name__}: fibers, {name}": (partial(model, *fibers), error, argument)
        for model in (SE3Transformer, TFN)
        for name, (fibers, error, argument) in FIBERS_OF_BOTH.items()
    },
    "RadialBasis: name": (lambda: RadialBasis("sine", 4, 2.0), ValueError, "radial_basis"),
    "RadialBasis: one function": (lambda: RadialBasis("bessel", 1, 2.0), ValueError, "num_radial"),
    "RadialBasis: no cutoff": (lambda: RadialBasis("bessel", 4, 0.0), ValueError, "cutoff"),
    "RadialBasis: infinite": (lambda: RadialBasis("bessel", 4, math.inf), ValueError, "cutoff"),
    "ManyBodyPotential: cutoff": (lambda: ManyBodyPotential(0.0), ValueError, "cutoff"),
    "Potential.predict: floats": (lambda: predicted(torch.tensor([1.0, 2.0])), ValueError, "z"),
    "Potential.predict: too few": (lambda: predicted(torch.tensor([1])), ValueError, "z"),
    "Potential.predict: list": (lambda: predicted([1, 2]), ValueError, "z"),
    "Potential.predict: zero": (lambda: predicted(torch.tensor([0, 1])), ValueError, "z"),
    "Potential.predict: too large": (lambda: predicted(torch.tensor([1, 119])), ValueError, "z"),
}
