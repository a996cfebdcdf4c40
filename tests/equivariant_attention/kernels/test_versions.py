"""Kernels in the Triton that is installed: each is launched, on a GPU that is not there, and its Python compiled.

Triton's language grows: what one version takes for a constant of the compiler, an older one does not. ``.ci/run
triton_oldest`` runs these tests with the oldest version that the library says it works with. No machine code is made.
"""

import inspect
import os
import pkgutil
from importlib import import_module

import pytest
import torch

from equivariant_attention import kernels
from equivariant_attention.contraction import use_backend
from equivariant_attention.fibers import Fiber
from equivariant_attention.kernels.launch import OLDEST, launch, recorded
from equivariant_attention.modules import GMABSE3, GNormBias, GNormSE3, GSE3Res, get_basis_and_r
from tests.cases import random_features
from tests.equivariant_attention.contraction.test_contraction import undirected_graph

triton = pytest.importorskip("triton", minversion=str(OLDEST))
pytestmark = pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter compiles nothing")
FIBER = Fiber(2, 16)


class Driver:
    """As much of a GPU's driver as Triton asks before it compiles."""

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """Launches get as far as the first pass that knows the GPU."""
    from triton.backends.nvidia.compiler import CUDABackend

    def stop(*arguments):
        raise NotImplementedError("no GPU")

    monkeypatch.setattr(CUDABackend, "make_ttgir", staticmethod(stop))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton.runtime.driver.set_active(Driver())
    yield
    triton.runtime.driver.set_active(None)  # whatever there is, when it is asked for


def differentiable_features(rows):
    return {d: v.requires_grad_() for d, v in random_features(FIBER, rows, torch.float32).items()}


def recorded_launches(precision):
    """What layers of all kinds launch, forward and backward, with and without derivatives by positions."""
    G = undirected_graph(torch.float32, edge_dim=4)
    layers = [GSE3Res(FIBER, FIBER, edge_dim=4, div=2, n_heads=8), GNormSE3(FIBER), GNormBias(FIBER)]
    inputs, values, keys = (differentiable_features(n) for n in (G.num_nodes(), G.num_edges(), G.num_edges()))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with recorded() as launches, use_backend("triton"):
            for forces in (False, True):
                G.edata["d"] = G.edata["d"].detach().requires_grad_(forces)
                features = inputs
                basis, r = get_basis_and_r(G, 1, compute_gradients=forces)
                for layer in layers:
                    features = layer(features, G=G, r=r, basis=basis)
                sum(v.sum() for v in features.values()).backward()
            attended = GMABSE3(FIBER, FIBER, n_heads=8)(values, keys, inputs, G=G)
            sum(v.sum() for v in attended.values()).backward()
    finally:
        torch.set_float32_matmul_precision(before)
    return launches


def all_kernels():
    """The modules and names of all kernels that are launched; those with an underscore are parts of others."""
    modules = (import_module(f"{kernels.__name__}.{module.name}") for module in pkgutil.iter_modules(kernels.__path__))
    return {
        (module.__name__, name)
        for module in modules
        for name, _ in inspect.getmembers(module, lambda value: isinstance(value, triton.JITFunction))
        if not name.startswith("_") and name not in ("dot", "summed")
    }


def test_every_kernel_is_launched_and_compiled(gpu):
    launches = [one for precision in ("highest", "high", "medium") for one in recorded_launches(precision)]
    assert {(one.kernel.__module__, one.name) for one in launches} == all_kernels()
    seen = set()
    for one in launches:
        options = dict(one.arguments)
        given = [options.pop(parameter.name) for parameter in one.kernel.params if not parameter.is_constexpr]
        if (one.kernel, str(options)) not in seen:
            seen.add((one.kernel, str(options)))
            with pytest.raises(NotImplementedError, match="no GPU"):
                launch(one.kernel, one.grid, *given, **options)
