"""Where kernels can run."""

import os

import pytest
import torch

from equivariant_attention.kernels import launch

triton = pytest.importorskip("triton")
GPU = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of some capability, of which nothing but that is asked."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(triton, "__version__", str(launch.FLOAT64))
    monkeypatch.setattr(torch.version, "hip", None)
    return lambda *capability: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0)])
def test_on_gpus_since_the_a100(gpu, capability):
    gpu(*capability)
    assert launch.missing(GPU) == launch.missing(GPU, torch.float64) == ""


@pytest.mark.parametrize("capability", [(6, 1), (7, 0), (7, 5)])
def test_not_on_older_ones(gpu, capability):
    """No test compiles for these, and the library would choose kernels by itself."""
    gpu(*capability)
    assert launch.missing(GPU) == "they need a GPU of NVIDIA's of capability 8.0 or more, this is a GPU"


def test_not_on_those_of_others(gpu, monkeypatch):
    gpu(9, 4)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "NVIDIA" in launch.missing(GPU)


def test_what_else_is_needed(gpu, monkeypatch):
    gpu(9, 0)
    assert launch.missing(GPU, torch.bfloat16) == "they need float32 or float64, got torch.bfloat16"
    monkeypatch.setattr(triton, "__version__", "3.8.0")
    assert launch.missing(GPU) == ""
    assert launch.missing(GPU, torch.float64).startswith("they need Triton 3.9 or later for torch.float64")
    monkeypatch.setenv(launch.SWITCH, "0")
    assert launch.missing(GPU) == "EQUIVARIANT_ATTENTION_TRITON=0 forbids it"


@triton.jit
def _kernel(x_at, rows, ROWS: triton.language.constexpr):
    """Nothing."""


@pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="Triton's interpreter compiles nothing")
def test_numbers_of_rows_are_none_to_compile_for():
    made = launch.for_all_sizes(_kernel, (torch.zeros(1), 16))
    assert [parameter.do_not_specialize for parameter in made.params] == [False, True, False]
    assert made.fn is _kernel.fn
    assert [parameter.do_not_specialize for parameter in _kernel.params] == [False] * 3


def test_what_is_interpreted_stays_as_it_is():
    assert launch.for_all_sizes(len, ()) is len
