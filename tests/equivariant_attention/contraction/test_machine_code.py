"""Kernels, compiled for GPUs that are not there: nothing spills, and tensor cores are used in the inner loop."""

import os
from functools import cache

import pytest
import torch

from benchmarks.machine_code import CAPABILITIES, of_launch
from equivariant_attention.contraction import use_backend
from equivariant_attention.contraction.triton_mix import mix_product_gradient
from equivariant_attention.fibers import Fiber
from equivariant_attention.kernels.launch import recorded
from equivariant_attention.modules import GSE3Res, get_basis_and_r
from tests.cases import random_features
from tests.equivariant_attention.contraction.test_contraction import undirected_graph

mixing = pytest.importorskip("equivariant_attention.kernels.mixing", exc_type=ImportError)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter compiles nothing"),
]


@cache
def launches(capability, precision="high"):
    """What a layer of the paper's QM9 model launches, on edges that share radial weights."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        fiber, G = Fiber(4, 32), undirected_graph(torch.float32, edge_dim=4)
        layer = GSE3Res(fiber, fiber, edge_dim=4, div=2, n_heads=8)
        features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float32).items()}
        basis, r = get_basis_and_r(G, 3)
        with recorded(capability) as record, use_backend("triton"):
            output = layer(features, G=G, r=r, basis=basis)
            sum(v.sum() for v in output.values()).backward()
    finally:
        torch.set_float32_matmul_precision(before)
    return [launch for launch in record if launch.arguments.get("D", 2) == 2]


@pytest.mark.parametrize("precision", ["high", "highest"])
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_launch_of_a_layer_spills(capability, precision):
    spilled = {}
    for launch in launches(capability, precision):
        # Others are in 'highest' as in 'high', and take fewer registers: two kinds of GPU are enough for them.
        if (precision == "highest" or capability > 90) and launch.kernel.__module__ != mixing.__name__:
            continue
        code = of_launch(launch, capability)
        if code.spilled:
            spilled[launch.name, launch.arguments.get("AB"), launch.arguments.get("C")] = code.spilled
        if launch.kernel.__module__ == mixing.__name__:
            assert any("MMA" in name for loop in code.innermost for name in loop), launch.name
    assert not spilled


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_product_alone_spills(capability):
    """Of as many numbers in a row as it may have."""
    h, A, x, dy = (torch.zeros(shape) for shape in ((1, 64, 33), (1, 33, 32 * 32), (64, 4, 32), (64, 4, 32)))
    with recorded(capability) as record:
        mix_product_gradient(h, A, x, dy)
    assert {launch.name: of_launch(launch, capability).spilled for launch in record} == {
        "messages": 0,
        "by_hidden": 0,
        "by_weights": 0,
    }
