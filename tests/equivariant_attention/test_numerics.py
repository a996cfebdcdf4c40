"""Every magnitude that positions and features have, and every precision: finite, and wrong by a few roundings.

The tables of docs/numerics.md measure the same, with more layers.
"""

import pytest
import torch

from benchmarks.numerics import GAPS, ON_GPU, PRECISIONS, SCALES, SIZES, errors, random_case, table
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.graphs import Graph
from equivariant_attention.modules import GAvgPooling, GConvSE3, GNormSE3, GSE3Res, get_basis_and_r
from tests.cases import BACKENDS_HERE, random_features

DEPTH = 2
ROUNDINGS = 16  # per layer: a layer sums over about as many channels, each of them rounded, in any order

CASES = (
    {"depth": DEPTH},
    *({"scale": scale} for scale in SCALES),
    *({"scale": scale, "x_ij": "cat"} for scale in SCALES),
    *({"size": size} for size in SIZES),
    *({"gap": gap} for gap in GAPS),
)
every_case = pytest.mark.parametrize("arguments", CASES, ids=lambda a: "-".join(f"{k}={v}" for k, v in a.items()))


@every_case
@pytest.mark.parametrize("name", PRECISIONS)
def test_errors_are_a_few_roundings(name, arguments):
    precision = PRECISIONS[name]
    found = errors(random_case(**arguments), precision)
    assert found.is_finite
    assert found.value < ROUNDINGS * DEPTH * precision.eps
    # Under autocast only networks of invariants are rounded to its type, and alike for every rotation, nearly always.
    assert found.equivariance < (ROUNDINGS * DEPTH if precision.autocast is None else 1) * precision.eps


@pytest.mark.parametrize(("name", "eps"), [("'highest'", 2**-23), ("'high'", 2**-10), ("'medium'", 2**-7)])
def test_radial_weights_that_a_gpu_rounds_are_off_by_a_few_roundings_and_hardly_by_rotations(name, eps):
    """Emulated: products of hidden values and last layers alone."""
    found = errors(random_case(depth=DEPTH), ON_GPU[name])
    assert found.is_finite
    assert found.value < ROUNDINGS * DEPTH * eps
    assert found.equivariance < ROUNDINGS * DEPTH * max(PRECISIONS["float32"].eps, eps / 32)
    if name != "'highest'":
        assert found.value > errors(random_case(depth=DEPTH), PRECISIONS["float32"]).value


@pytest.mark.parametrize("backend", BACKENDS_HERE)
@pytest.mark.parametrize("gap", GAPS)
def test_nearly_coincident_points_in_every_order(backend, gap):
    with use_backend(backend):
        found = errors(random_case(gap=gap), PRECISIONS["float32"])
    assert found.is_finite
    assert max(found.value, found.equivariance) < ROUNDINGS * DEPTH * PRECISIONS["float32"].eps


def test_a_million_isolated_nodes():
    fiber = Fiber(2, 2)
    G = Graph([], [], num_nodes=10**6)
    G.edata["d"] = torch.zeros(0, 3)
    h = features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float32).items()}
    basis, r = get_basis_and_r(G, 1)
    for layer in (GSE3Res(fiber, fiber, div=1), GNormSE3(fiber), GConvSE3(fiber, fiber, self_interaction=True)):
        before, h = h, layer(h, G=G, r=r, basis=basis)
    assert all(value.shape == features[d].shape and not value.any() for d, value in h.items())
    pooled = GAvgPooling()(before, G=G)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert features["0"].grad.isfinite().all()


def test_a_table():
    printed = table("layers", {"one": {"depth": 1}}, ["float32"]).split("\n")
    assert printed[0] == "| layers | float32: value | gradient | equivariance |"
    assert all(float(cell) < 1e-4 for cell in printed[2].split(" | ")[1:-1])
