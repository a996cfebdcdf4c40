"""Where C++ cannot be built, layers run in PyTorch; where that is a surprise, a warning tells why, once."""

import warnings
from pathlib import Path

import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.modules import GNormSE3
from equivariant_attention.native import calls, compiler, norm
from tests.cases import random_features

FIBER = Fiber(2, 4)


@pytest.fixture
def forgotten(monkeypatch):
    """As in a process that has built nothing and has warned of nothing."""
    monkeypatch.delenv(compiler.SWITCH, raising=False)
    monkeypatch.setattr(calls, "WARNED", [])
    for function in (compiler.library, calls._not_built):
        function.cache_clear()
    yield
    for function in (compiler.library, calls._not_built):
        function.cache_clear()


def test_without_a_home_layers_run_and_a_warning_tells_once(forgotten, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    layer, features = GNormSE3(FIBER), random_features(FIBER, 5, torch.float32)
    expected = layer(features)
    calls._not_built.cache_clear()
    compiler.library.cache_clear()
    monkeypatch.setattr(Path, "home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("CXX", "sh")  # is asked nothing, as there is no folder
    with pytest.warns(calls.SlowerWarning, match="no home folder(.|\n)*EQUIVARIANT_ATTENTION_COMPILE=0"):
        found = layer(features)
    for degree, value in expected.items():
        torch.testing.assert_close(found[degree], value)
    assert calls.not_built(Path("another.cpp"))  # warnings are errors here


@pytest.mark.parametrize(("variable", "value"), [("EQUIVARIANT_ATTENTION_COMPILE", "0"), ("PATH", "")])
def test_what_is_no_surprise_is_not_told(forgotten, monkeypatch, variable, value):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv(variable, value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert calls.not_built(norm.SOURCE)
    assert not caught


def test_tensors_without_memory_have_no_address():
    """As fully sharded parameters are between two passes."""
    assert calls.address(None) is None
    tensor = torch.ones(2, 3)
    assert calls.address(tensor) == tensor.data_ptr()
    tensor.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"a tensor of shape \[2, 3\] has no memory"):
        calls.address(tensor)
