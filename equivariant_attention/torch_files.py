"""Files of ``torch.save``, read as data: none of their code runs, and nothing that is made is larger than the file."""

from __future__ import annotations

import io
import sys
import zipfile
from collections import OrderedDict
from math import prod
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from .files import check_archive
from .pickles import NUMPY, Machine, Made, Names, as_bytes, filled, load, of_type

NUMBERS = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
)  # fmt: skip
STORAGES = {
    "Bool": torch.bool, "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
    "Long": torch.int64, "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32,
    "Double": torch.float64, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
}  # fmt: skip
MAGIC = 0x1950A86A20F9469CFC6C  # what files of torch.save began with until version 1.6


def load_torch(file: IO[bytes]) -> Any:
    """What a file of ``torch.save`` holds, of today's format or of that before PyTorch 1.6.

    Args:
        file: open at its beginning, seekable.

    Returns:
        what :func:`~equivariant_attention.pickles.load` returns, and tensors on the CPU; those that shared their memory
        still do.

    Raises:
        ValueError: it holds anything else, such as a tensor with more numbers than the file.
        Exception: almost any, where it is damaged.
    """
    check_archive(file)
    return _load_archive(file) if zipfile.is_zipfile(file) else _load_legacy(file)


def load_pickle(stream: IO[bytes]) -> Any:
    """What a pickle holds that was written without ``torch.save``, but may contain tensors.

    Args:
        stream: open at its beginning; left at its end.

    Returns:
        what :func:`~equivariant_attention.pickles.load` returns, and tensors on the CPU.

    Raises:
        ValueError: it holds anything else.
        Exception: almost any, where it is damaged.
    """
    return Machine(PICKLED).run(stream)


def _load_archive(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        (root,) = (name.removesuffix("data.pkl") for name in archive.namelist() if name.endswith("/data.pkl"))
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder").decode() != sys.byteorder:
            raise ValueError("it is of a machine with another order of bytes")
        storages: dict[str, Tensor] = {}

        def storage(persistent_id: Any) -> _Storage:
            _, dtype, key, _, numel = of_type(tuple, persistent_id)
            if key not in storages:
                content = archive.read(f"{root}data/{of_type(str, key)}")
                storages[key] = torch.empty(len(content), dtype=torch.uint8)
                storages[key].numpy()[:] = np.frombuffer(content, np.uint8)
            return _Storage(storages[key], dtype, numel)

        with archive.open(f"{root}data.pkl") as stream:
            return Machine(TORCH, storage).run(stream)


def _load_legacy(file: IO[bytes]) -> Any:
    left = file.seek(0, 2)  # bytes of the file that can be memory of tensors
    file.seek(0)
    if load(file) != MAGIC:
        raise ValueError("it is no file of torch.save")
    load(file)  # version of the format
    if load(file).get("little_endian") is not (sys.byteorder == "little"):
        raise ValueError("it is of a machine with another order of bytes")
    storages: dict[str, _Storage] = {}

    def storage(persistent_id: Any) -> _Storage:
        nonlocal left
        _, dtype, key, _, numel, view = of_type(tuple, persistent_id)
        if view is not None:
            raise ValueError("views of storages are refused")
        if key not in storages:
            if not 0 <= numel * dtype.itemsize <= left:
                raise ValueError("a tensor has more numbers than the file")
            left -= numel * dtype.itemsize
            storages[key] = _Storage(torch.zeros(numel * dtype.itemsize, dtype=torch.uint8), dtype, numel)
        return storages[key]

    content = Machine(LEGACY, storage).run(file)
    for key in load(file):
        if int.from_bytes(file.read(8), sys.byteorder) != storages[key].numel:
            raise ValueError("a tensor has another number of numbers than the file")
        memory = storages[key].memory
        memory.numpy()[:] = np.frombuffer(file.read(memory.numel()), np.uint8)
        _check_bools(memory, storages[key].dtype)
    return content


class _Storage:
    """The memory behind tensors.

    Args:
        memory: bytes, uint8 ``[bytes]``.
        dtype: of the numbers there.
        numel: how many there should be.

    Raises:
        ValueError: there are others.
    """

    def __init__(self, memory: Tensor, dtype: Any, numel: Any) -> None:
        if not isinstance(dtype, torch.dtype) or memory.numel() != of_type(int, numel) * dtype.itemsize:
            raise ValueError(f"expected a storage of {numel} numbers, got {memory.numel()} bytes")
        self.memory, self.dtype, self.numel = memory, dtype, numel


def _check_bools(memory: Tensor, dtype: torch.dtype) -> None:
    if dtype is torch.bool and memory.numel() and memory.max() > 1:
        raise ValueError("expected a tensor of bools, got other memory")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any = None, *metadata: Any) -> Tensor:
    if hooks or any(metadata):
        raise ValueError("tensors with hooks, and negated or conjugate ones, are refused")
    _check_bools(of_type(_Storage, storage).memory, storage.dtype)
    for places in (size, stride):
        if len(of_type(tuple, places)) != len(size) or not all(type(place) is int and place >= 0 for place in places):
            raise ValueError(f"expected the shape of a tensor, got {size} and {stride}")
    count, last = prod(size), of_type(int, offset) + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if not (offset >= 0 and count <= storage.numel and (last < storage.numel or not count)):
        raise ValueError(f"a tensor of shape {list(size)} has more numbers than the file")
    numbers = storage.memory.view(storage.dtype).as_strided(size, stride, offset if count else 0)
    return numbers.requires_grad_(grad is True)


def _tensor_of_bytes(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *metadata: Any
) -> Tensor:
    if dtype not in NUMBERS:
        raise ValueError(f"tensors of {dtype} are refused")
    memory = of_type(_Storage, storage).memory
    typed = _Storage(memory, dtype, memory.numel() // dtype.itemsize)
    return _tensor(typed, offset, size, stride, grad, hooks, *metadata)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return filled(OrderedDict(), [part for key, value in items for part in (key, value)])


def _parameter(value: Any, requires_grad: Any, *_: Any) -> nn.Parameter:
    return nn.Parameter(of_type(Tensor, value), requires_grad is True)


TORCH: Names = {
    **NUMPY,
    ("collections", "OrderedDict"): Made(_ordered),
    ("torch._utils", "_rebuild_tensor"): Made(
        lambda storage, offset, size, stride: _tensor(storage, offset, size, stride, False)
    ),
    ("torch._utils", "_rebuild_tensor_v2"): Made(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Made(_tensor_of_bytes),
    ("torch._utils", "_rebuild_parameter"): Made(_parameter),
    ("torch", "Size"): Made(lambda sizes=(): torch.Size(sizes)),
    ("torch.storage", "UntypedStorage"): torch.uint8,
    **{("torch", f"{name}Storage"): dtype for name, dtype in STORAGES.items()},
    **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in NUMBERS},
}
LEGACY: Names = {name: made for name, made in TORCH.items() if name[1] not in ("UntypedStorage", "_rebuild_tensor_v3")}
# A pickle alone has the memory of a tensor in it, as torch.save would write that.
PICKLED: Names = {
    **TORCH,
    ("torch.storage", "_load_from_bytes"): Made(lambda content: _load_legacy(io.BytesIO(as_bytes(content)))),
}
