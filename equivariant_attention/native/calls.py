"""What every call of a library in C++ has in common."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from ..compiling import constant_when_compiled
from ..native import compiler

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
ERRORS: dict[int, tuple[type[Exception], str]] = {  # by what a function returns
    1: (MemoryError, "not enough memory"),
    2: (IndexError, "an edge leads to a node that the graph does not have"),
    3: (IndexError, "the plan has an edge that the graph does not have"),
}
PROCESS = os.getpid()
WARNED: list[str] = []  # why this process was slower than it could be


class SlowerWarning(UserWarning):
    """There is a compiler, but C++ could not be built, and PyTorch computes, which takes several times as long."""


class Threads(ctypes.Structure):
    """PyTorch's own threads; ``threads.hpp`` says what the fields are."""

    _fields_ = (("count", ctypes.c_int64), ("openmp", ctypes.c_void_p))

    def __init__(self) -> None:
        # A forked process has none of its parent's OpenMP threads, and would wait for them forever.
        super().__init__(torch.get_num_threads(), _openmp() if os.getpid() == PROCESS else None)


def is_transformed() -> bool:
    """Whether ``torch.func``, forward derivatives or ``torch.jit.trace`` run: they need PyTorch's own operations."""
    return (
        torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def is_recorded() -> bool:
    """Whether PyTorch compiles, exports, records or counts what runs, which must then be registered operators."""
    # make_fx, FakeTensorMode, FlopCounterMode
    return torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None


def is_watched() -> bool:
    """Whether :func:`is_transformed` or :func:`is_recorded`."""
    return is_transformed() or is_recorded()


def is_looked_into() -> bool:
    """Whether PyTorch traces or transforms what runs, which must then be its own operations: no derivatives by hand."""
    return is_transformed() or torch.compiler.is_compiling()


def holds_numbers(tensor: Tensor) -> bool:
    """Whether a tensor is PyTorch's own and dense: no subclass, no wrapper of other tensors, not sparse."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and torch._C._has_storage(tensor)


def contiguous(tensors: Iterable[Any]) -> list[Any]:
    """The same tensors, contiguous, with no negation pending; None stays."""
    return [None if v is None else (v.resolve_neg() if v.is_neg() else v).contiguous() for v in tensors]


def check_read(tensor: Tensor, name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """Refuse a tensor that C++ would misread. Hooks of saved tensors may put another in its place between two passes.

    Raises:
        TypeError, ValueError: it is not dense on a CPU, or of another dtype or shape.
    """
    if not (tensor.dtype is dtype and tensor.is_cpu and holds_numbers(tensor)):
        got = f"{tensor.dtype} on {tensor.device}, {type(tensor).__name__}"
        raise TypeError(f"{name} must be a dense tensor of {dtype} on cpu, got {got}")
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")


def missing(source: Path, tensors: Iterable[Tensor], dtype: torch.dtype) -> str:
    """Why a C++ file cannot compute with these tensors in a dtype; empty, if it can. The first call builds it."""
    recorded = is_recorded()
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it needs tensors on a CPU, got tensors on {tensor.device}"
        if not recorded and not holds_numbers(tensor):
            return f"it needs tensors that hold numbers, got {type(tensor).__name__}"
    if dtype not in DTYPES:
        return f"it needs parameters in float32 or float64, got {dtype}"
    return not_built(source)


def call(source: Path, function: str, dtype: torch.dtype, arguments: ctypes.Structure) -> None:
    """Run a function of a C++ file that was built.

    Raises:
        MemoryError: there is not enough.
        IndexError: an edge leads to a node that the graph does not have.
    """
    run = getattr(compiler.library(source), f"{function}_{DTYPES[dtype]}")
    # A profiler's event costs as much as a short call, so there is one only where a profiler runs.
    is_profiled = torch.autograd._profiler_enabled()
    with torch.profiler.record_function(f"{source.stem}::{function}") if is_profiled else nullcontext():
        status = run(ctypes.byref(arguments))
    if status:
        error, reason = ERRORS[status]
        raise error(f"{source.name}: {reason}")


def address(tensor: Tensor | None) -> int | None:
    """Where the numbers of a tensor begin.

    Raises:
        ValueError: it has numbers and no memory for them, as after ``untyped_storage().resize_(0)``.
    """
    if tensor is None:
        return None
    found = tensor.data_ptr()
    if not found and tensor.numel():
        raise ValueError(f"a tensor of shape {list(tensor.shape)} has no memory: its storage was resized to nothing")
    return found


@constant_when_compiled
def not_built(source: Path) -> str:
    """Why a library could not be built; empty, if it could.

    A warning says so too, once per process, unless it is to be expected: there is no compiler, or
    ``EQUIVARIANT_ATTENTION_COMPILE=0`` forbids to build.
    """
    return _not_built(source)


@cache
def _not_built(source: Path) -> str:
    try:
        compiler.library(source)
    except compiler.BuildFailedError as error:
        _warn_once(str(error))
        return str(error)
    except compiler.BuildError as error:
        return str(error)
    return ""


def _warn_once(reason: str) -> None:
    if not WARNED:
        WARNED.append(reason)
        slower = "layers run in PyTorch, which takes several times as long as C++"
        warnings.warn(f"{slower}: {reason}\n{compiler.SWITCH}=0 says that this is meant", SlowerWarning, stacklevel=3)


@cache
def _openmp() -> int | None:
    """The function that starts PyTorch's own threads, if they are OpenMP's, by its name in GCC's library; or None."""
    start = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return start and ctypes.cast(start, ctypes.c_void_p).value
