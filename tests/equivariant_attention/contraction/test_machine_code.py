"""Kernels, compiled for GPUs that are not there: nothing spills, and tensor cores are used in the inner loop."""

import os
import re
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from benchmarks.machine_code import CAPABILITIES, of_launch
from equivariant_attention import kernels
from equivariant_attention.contraction import use_backend
from equivariant_attention.contraction.triton_messages import MOST_CHANNELS
from equivariant_attention.contraction.triton_mix import mix_product_gradient
from equivariant_attention.fibers import Fiber
from equivariant_attention.kernels.launch import recorded
from equivariant_attention.modules import GNormSE3, GSE3Res, get_basis_and_r
from tests.cases import random_features
from tests.equivariant_attention.contraction.test_contraction import undirected_graph

pytest.importorskip("equivariant_attention.kernels.mixing", exc_type=ImportError)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter compiles nothing"),
]


# Compiled for as many channels as the library gives them; others were at 256, and take as few registers as at 32.
WIDE = ("by_hidden", "by_weights", "last_layers_gradient", "mixed", "by_values")
# Launched, or launched otherwise, where forces are asked for.
FOR_FORCES = {"frames": ("turned_back",), "radial": ("hidden_gradient",), "attention": ("forward", "gradient")}
# On sm_100 three take half a minute to compile; 'mixed' has 8 bytes of stack there for 256 channels, and 128 registers.
LEFT_OUT = {(100, name) for name in ("attended_gradient", "turned", "turned_back", "mixed")}


def layer_launches(degrees, channels, dtype=torch.float32, forces=False):
    """Launch what a layer and its norm launch, on edges that share radial weights and on others."""
    fiber, G = Fiber(degrees, channels), undirected_graph(dtype, edge_dim=4)
    G.edata["d"].requires_grad_(forces)
    layers = [GSE3Res(fiber, fiber, edge_dim=4, div=2, n_heads=8), GNormSE3(fiber)]
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), dtype).items()}
    with use_backend("triton"):
        basis, r = get_basis_and_r(G, degrees - 1, compute_gradients=forces)
        for layer in layers:
            features = layer.to(dtype)(features, G=G, r=r, basis=basis)
        sum(v.sum() for v in features.values()).backward()


def module_of(launch):
    return launch.kernel.__module__.rpartition(".")[2]


@cache
def launches(capability, precision="high"):
    """Of a layer of the paper's QM9 model, or of a wide one: those that mix, and others.

    Of each other kernel the last, as no launch before it has more inputs; and what only forces launch.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with recorded(capability) as narrow:
            layer_launches(degrees=4, channels=32)
        with recorded(capability) as wide:
            layer_launches(degrees=2, channels=MOST_CHANNELS)
        with recorded(capability) as for_forces:
            layer_launches(degrees=4, channels=32, forces=True)
    finally:
        torch.set_float32_matmul_precision(before)
    found = [one for one in narrow if one.name not in WIDE] + [one for one in wide if one.name in WIDE]
    mix = [one for one in found if module_of(one) == "mixing"]
    others = {(module_of(one), one.name): one for one in found if module_of(one) != "mixing"}
    more = {(of, one.name): one for one in for_forces if one.name in FOR_FORCES.get(of := module_of(one), ())}
    return [one for one in mix if one.arguments["D"] == 2], [*others.values(), *more.values()]


def multiplies(loop):
    return any("MMA" in name or name.startswith("FFMA") for name in loop)


def test_every_kernel_is_compiled():
    """But those of products.py, which others call."""
    known = {
        (path.stem, name)
        for path in Path(kernels.__file__).parent.glob("*.py")
        for name in re.findall(r"^@triton\.jit\ndef ([a-z]\w*)", path.read_text(), re.MULTILINE)
        if path.stem != "products"
    }
    assert known == {(module_of(launch), launch.name) for part in launches(90) for launch in part}


@pytest.mark.parametrize(
    ("capability", "precision"),
    [*product(CAPABILITIES, ["high", "highest"]), (80, "medium"), (90, "medium")],
)
def test_no_launch_that_mixes_spills(capability, precision):
    for launch in launches(capability, precision)[0]:
        code = of_launch(launch, capability)
        assert not code.spilled, launch.name
        products = [loop for loop in code.innermost if multiplies(loop)]
        assert products, launch.name
        for loop in products:
            assert any("MMA" in name for name in loop), launch.name


def test_no_launch_that_mixes_in_float64_spills():
    """Of a layer whose values and keys have 16 channels."""
    with recorded(90) as record:
        layer_launches(degrees=2, channels=32, dtype=torch.float64)
    for launch in record:
        if module_of(launch) == "mixing" and launch.arguments["D"] == 2:
            assert not of_launch(launch, 90).spilled, launch.name


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_no_other_launch_spills(capability):
    """Which are in 'highest' as in 'high'."""
    for launch in launches(capability)[1]:
        if (capability, launch.name) not in LEFT_OUT:
            assert not of_launch(launch, capability).spilled, launch.name


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
