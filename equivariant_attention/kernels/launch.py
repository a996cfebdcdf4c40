"""Launches Triton kernels, or records what would be launched, and says where they can run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor

from ..compiling import constant_when_compiled

SWITCH = "EQUIVARIANT_ATTENTION_TRITON"
OLDEST = Version("3.5")  # of Triton: the first whose tl.dot takes 8 columns; .ci/run compiles kernels with it
SUPPOSED = 90  # the compute capability that is assumed where there is no GPU
LEAST = 80  # the least compute capability: that of an A100, the oldest GPU that kernels were compiled for
FLOAT64 = Version("3.9")  # of Triton: the first whose tl.dot takes float64


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    Attributes:
        kernel: the kernel, as ``triton.jit`` returns it.
        grid: numbers of programs.
        arguments: the arguments of the kernel, by name.
        num_bytes: the size of all tensors that it reads or writes, each counted once.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_bytes: int

    @property
    def name(self) -> str:
        """The name of the kernel."""
        return self.kernel.__name__


class Record(list[Launch]):
    """The launches that were recorded, as for a GPU of some compute capability."""

    def __init__(self, capability: int) -> None:
        super().__init__()
        self.capability = capability


_record: ContextVar[Record | None] = ContextVar("record", default=None)
_for_all_sizes: dict[Any, Any] = {}


@contextmanager
def recorded(capability: int = SUPPOSED) -> Iterator[Record]:
    """Within this context launches are recorded instead of run, and layers on a CPU do what they would do on CUDA.

    So launches can be counted where there is no GPU. Tensors that the kernels would have written stay uninitialised.

    Args:
        capability: compute capability of the supposed GPU: 90 for sm_90.
    """
    record = Record(capability)
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


@constant_when_compiled
def is_gpu(device: torch.device) -> bool:
    """Whether kernels are launched on a device: it is CUDA, or launches are recorded."""
    return device.type == "cuda" or _record.get() is not None


def is_gpu_or_interpreted(device: torch.device) -> bool:
    """:func:`is_gpu`, or Triton's interpreter is to stand in for a GPU (``TRITON_INTERPRET``)."""
    return is_gpu(device) or "TRITON_INTERPRET" in os.environ


@constant_when_compiled
def missing(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Why kernels cannot run on a device in a dtype, or ``''`` if they can."""
    if dtype not in (torch.float32, torch.float64):
        return f"they need float32 or float64, got {dtype}"
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 forbids it"
    if _record.get() is not None:
        return ""
    if not is_gpu_or_interpreted(device):
        return (
            f"they need Triton {OLDEST} or later and tensors on CUDA, got tensors on {device} (on a CPU they run in "
            "Triton's interpreter, with TRITON_INTERPRET=1)"
        )
    try:
        import triton
    except ImportError:
        return "they need Triton, which is not installed: pip install triton"
    version = Version(triton.__version__)
    if version < (FLOAT64 if dtype == torch.float64 and device.type == "cuda" else OLDEST):
        return f"they need Triton {FLOAT64 if version >= OLDEST else OLDEST} or later for {dtype}, this is {version}"
    if device.type != "cuda":
        return "" if _is_interpreter() else "they run on a CPU in Triton's interpreter alone"
    if torch.version.hip is not None or capability(device) < LEAST:
        name = torch.cuda.get_device_name(device)
        return f"they need a GPU of NVIDIA's of capability {LEAST / 10} or more, this is {name}"
    return ""


@cache
def _is_interpreter() -> bool:
    """Whether Triton was imported with its interpreter switched on."""
    import triton

    return not isinstance(triton.jit(_is_interpreter), triton.JITFunction)


def capability(device: torch.device) -> int:
    """The compute capability of the GPU that kernels are for: 90 for sm_90, and where there is no GPU."""
    record = _record.get()
    if record is not None or device.type != "cuda":
        return SUPPOSED if record is None else record.capability
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def gpu_name(device: torch.device) -> str:
    """The name of the GPU where kernels run; '' where they are recorded, or run on none."""
    return "" if _record.get() is not None or device.type != "cuda" else torch.cuda.get_device_name(device)


def launch(kernel: Any, grid: Sequence[int], *arguments: Any, also: Iterable[Any] = (), **constants: Any) -> None:
    """Run a kernel on the GPU where its tensors are.

    Args:
        kernel: the kernel, as ``triton.jit`` returns it.
        grid: numbers of programs; nothing is launched if one of them is 0.
        arguments: the arguments of the kernel, in its order: tensors, numbers, tuples of these.
        also: tensors that it reads apart from these, by their addresses.
        constants: the ``tl.constexpr`` arguments of the kernel, and options of the compiler.
    """
    if 0 in grid:
        return
    tensors = [v for v in _flat(arguments) if isinstance(v, Tensor)]
    record = _record.get()
    if record is not None:
        names = dict(zip(kernel.arg_names, arguments, strict=False))
        read = num_bytes([*tensors, *(v for v in also if v is not None)])
        record.append(Launch(kernel, tuple(grid), {**names, **constants}, read))
        return
    if kernel not in _for_all_sizes:
        _for_all_sizes[kernel] = for_all_sizes(kernel, arguments)
    with torch.cuda.device_of(tensors[0]):
        # Unless told, Triton 3.9 warns and 3.10 multiplies and adds apart.
        _for_all_sizes[kernel][tuple(grid)](*arguments, enable_fp_fusion=True, **constants)


def for_all_sizes(kernel: Any, arguments: Sequence[Any]) -> Any:
    """A kernel that is compiled once for its constants, whatever the numbers of nodes and edges are.

    By default Triton specialises a kernel on whether each integer argument is 1, or a multiple of 16, and compiles it
    again, for seconds, for every combination: with batches of molecules, in one epoch after the other.

    Args:
        kernel: the kernel, as ``triton.jit`` returns it.
        arguments: the arguments of a launch, in the order of the kernel.

    Returns:
        the kernel, not specialised on integers.
    """
    import triton

    if not isinstance(kernel, triton.JITFunction):  # it is interpreted
        return kernel
    numbers = [name for name, v in zip(kernel.arg_names, arguments, strict=False) if isinstance(v, int)]
    return triton.jit(kernel.fn, do_not_specialize=numbers)


def num_bytes(tensors: Sequence[Tensor]) -> int:
    """The size of all tensors; one that occurs twice is counted once."""
    return sum({id(v): v.numel() * v.element_size() for v in tensors}.values())


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, tuple):
            yield from _flat(value)
        else:
            yield value


def addresses(tensors: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """The addresses of tensors as an int64 tensor on a device, 0 for None; cached for the same addresses."""
    if _record.get() is not None:
        return torch.empty(len(tensors), dtype=torch.int64, device=device)
    return _addresses(tuple(0 if v is None else v.data_ptr() for v in tensors), device)


@lru_cache(maxsize=1024)
def _addresses(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64, device=device)


def power_of_two(size: int, smallest: int = 1) -> int:
    """The smallest power of two that is at least ``size`` and ``smallest``."""
    return max(smallest, 1 << (size - 1).bit_length())
