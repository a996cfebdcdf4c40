"""Calls of C++ libraries: checks of tensors before, errors after, and whether there is a library."""

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

from ..compiling import constant_when_compiled
from ..native import compiler
from ..native.private import holds_numbers, is_profiled, is_recorded

DTYPES = {torch.float32: "float32", torch.float64: "float64"}
ERRORS: dict[int, tuple[type[Exception], str]] = {  # by the status that a C++ function returns
    1: (MemoryError, "not enough memory"),
    2: (IndexError, "an edge leads to a node that the graph does not have"),
    3: (IndexError, "the plan has an edge that the graph does not have"),
}
PROCESS = os.getpid()
WARNED: list[str] = []  # the reason that a SlowerWarning of this process gave


class SlowerWarning(UserWarning):
    """There is a compiler, but the C++ could not be built: PyTorch runs instead, several times slower."""


class Threads(ctypes.Structure):
    """How many threads to use, and how to start PyTorch's own; ``threads.hpp`` explains the fields."""

    _fields_ = (("count", ctypes.c_int64), ("openmp", ctypes.c_void_p))

    def __init__(self) -> None:
        # A forked process has none of its parent's OpenMP threads, and would wait for them forever.
        super().__init__(torch.get_num_threads(), _openmp() if os.getpid() == PROCESS else None)


def contiguous(tensors: Iterable[Any]) -> list[Any]:
    """The same tensors, contiguous, with pending negations carried out; None stays None."""
    return [None if v is None else (v.resolve_neg() if v.is_neg() else v).contiguous() for v in tensors]


def check_read(tensor: Tensor, name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
    """Refuse a tensor that C++ would misread.

    Hooks (``saved_tensors_hooks``) may have put another tensor in its place between two passes.

    Raises:
        TypeError, ValueError: it is not dense on a CPU, or of another dtype or shape.
    """
    if not (tensor.dtype is dtype and tensor.is_cpu and holds_numbers(tensor)):
        got = f"{tensor.dtype} on {tensor.device}, {type(tensor).__name__}"
        raise TypeError(f"{name} must be a dense tensor of {dtype} on cpu, got {got}")
    if tensor.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")


def missing(source: str, tensors: Iterable[Tensor], dtype: torch.dtype) -> str:
    """Why a C++ file cannot compute with these tensors in a dtype, or ``''`` if it can. The first call builds it.

    Its name is text, as a ``Path`` is no constant to the ``torch.compile`` of PyTorch 2.11.
    """
    recorded = is_recorded()
    for tensor in tensors:
        if tensor.device.type != "cpu":
            return f"it needs tensors on a CPU, got tensors on {tensor.device}"
        if not recorded and not holds_numbers(tensor):
            return f"it needs tensors that hold numbers, got {type(tensor).__name__}"
    if dtype not in DTYPES:
        return f"it needs parameters in float32 or float64, got {dtype}"
    return not_built(source)


def call(source: str, function: str, dtype: torch.dtype, arguments: ctypes.Structure) -> None:
    """Run a function of a C++ file that has been built.

    Raises:
        MemoryError: there is not enough memory.
        IndexError: an edge leads to a node that the graph does not have.
    """
    run = _function(source, f"{function}_{DTYPES[dtype]}")
    # Recording an event takes as long as a short call, so it is done only while a profiler runs.
    with torch.profiler.record_function(f"{Path(source).stem}::{function}") if is_profiled() else nullcontext():
        status = run(ctypes.byref(arguments))
    if status:
        error, reason = ERRORS[status]
        raise error(f"{Path(source).name}: {reason}")


@cache  # by text: to make a path and look a library up by it takes a while, and a step has dozens of calls
def _function(source: str, name: str) -> Any:
    return getattr(compiler.library(Path(source)), name)


def address(tensor: Tensor | None) -> int | None:
    """The address of a tensor's first element; None for None.

    Raises:
        ValueError: it has elements but no memory for them, as after ``untyped_storage().resize_(0)``.
    """
    if tensor is None:
        return None
    found = tensor.data_ptr()
    if not found and tensor.numel():
        raise ValueError(f"a tensor of shape {list(tensor.shape)} has no memory: its storage was resized to nothing")
    return found


def addresses(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    """An array of pointers to tensors, null for None."""
    return array(ctypes.c_void_p, len(tensors))(*map(address, tensors))


@cache
def array(kind: type[Any], length: int) -> type[ctypes.Array[Any]]:
    """The class of C arrays of a kind and length. It is kept, as to make it takes longer than to fill an array."""
    return kind * length


@constant_when_compiled
def not_built(source: str) -> str:
    """Why a library could not be built, or ``''`` if it could.

    The first failure in a process is also reported by a :class:`SlowerWarning`, unless it was to be expected: there is
    no compiler, or ``EQUIVARIANT_ATTENTION_COMPILE=0`` forbids building.
    """
    return _not_built(source)


@cache
def _not_built(source: str) -> str:
    try:
        compiler.library(Path(source))
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
    """The address of ``GOMP_parallel``, which starts the OpenMP threads that PyTorch uses; None if it has no such."""
    start = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    return start and ctypes.cast(start, ctypes.c_void_p).value
