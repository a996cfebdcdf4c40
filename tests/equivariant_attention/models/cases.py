"""Small models that the tests of models share."""

import torch

from equivariant_attention.graphs import as_graph
from equivariant_attention.models import TFN, SE3Transformer
from tests.cases import random_features, with_features

EDGE_DIM = 2
FIBERS = ({0: 4, 1: 2}, {0: 4, 1: 4, 2: 4}, {0: 3, 1: 2, 2: 1})


def transformer(**options):
    return SE3Transformer(*FIBERS, **{"num_layers": 2, "n_heads": 2, "edge_dim": EDGE_DIM, **options})


def tfn(**options):
    return TFN(*FIBERS, **{"num_layers": 2, "edge_dim": EDGE_DIM, **options})


MODELS = {
    "SE3Transformer": transformer,
    "SE3Transformer-cat": lambda: transformer(x_ij="cat"),
    "SE3Transformer-add": lambda: transformer(x_ij="add"),
    "SE3Transformer-att": lambda: transformer(selfint="att"),
    "SE3Transformer-gate": lambda: transformer(nonlinearity="gate"),
    "SE3Transformer-fixed": lambda: transformer(learnable_skip=False),
    "SE3Transformer-avg": lambda: transformer(pooling="avg"),
    "SE3Transformer-avg-2": lambda: transformer(pooling="avg", return_type=2),
    "SE3Transformer-sum": lambda: transformer(pooling="sum"),
    "SE3Transformer-bessel": lambda: transformer(radial_basis="bessel", cutoff=3.0),
    "SE3Transformer-gaussian-silu": lambda: transformer(radial_basis="gaussian", cutoff=3.0, activation="silu"),
    "SE3Transformer-max-0": lambda: transformer(pooling="max", return_type=0),
    "SE3Transformer-1": lambda: transformer(return_type=1),
    "SE3Transformer-scalars-cat": lambda: SE3Transformer({0: 3}, {0: 4}, {0: 2}, 1, edge_dim=EDGE_DIM, x_ij="cat"),
    "SE3Transformer-vector": lambda: SE3Transformer({1: 1}, {0: 2, 1: 2}, {3: 1}, 1, edge_dim=EDGE_DIM),
    "TFN": tfn,
    "TFN-TFN": lambda: tfn(flavor="TFN"),
    "TFN-gate": lambda: tfn(nonlinearity="gate"),
    "TFN-max-0": lambda: tfn(pooling="max", return_type=0),
    "TFN-avg-1": lambda: tfn(pooling="avg", return_type=1),
}


def with_inputs(model, G):
    """The graph with random input features of the model on its nodes, their degrees by name, and the features."""
    graph = as_graph(G)
    features = random_features(model.fiber_in, graph.num_nodes(), graph.edata["d"].dtype)
    return *with_features(G, features), features


def on_graph(model):
    """The model as a function of a graph that carries its input features."""

    def run(G):
        ndata = as_graph(G).ndata
        return model(G, {str(degree): ndata[f"h{degree}"] for degree in model.fiber_in.degrees})

    return run


def tensors(output):
    return [output] if torch.is_tensor(output) else list(output.values())
