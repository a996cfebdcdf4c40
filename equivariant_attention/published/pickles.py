"""Arrays in pickles of strangers, read as data alone: no name in a file is ever looked up, nothing in it is called."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any, BinaryIO, ClassVar

import numpy as np

_FLOATS = ("f2", "f4", "f8")
_STORAGES = {"torch.HalfStorage": "f2", "torch.FloatStorage": "f4", "torch.DoubleStorage": "f8"}
MOST_DIMENSIONS = 8
_NUMPY_CORE = ("numpy.core", "numpy._core")  # before NumPy 2, and since


class Call:
    """What a pickle would call: a name, what with, and the state it would set."""

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None

    def __call__(self, *args: Any) -> Call:
        return Call(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Pairs(list[tuple[Any, Any]]):
    """A dict in a pickle, as pairs of key and value. To hash thousands of nested tuples overflows the stack."""

    def __setitem__(self, key: Any, value: Any) -> None:
        self.append((key, value))


class _Unpickler(pickle._Unpickler):  # the one in Python: that in C makes room for as many objects as a file claims
    def find_class(self, module: str, name: str) -> Call:
        return Call(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Call:
        return Call("storage", pid)

    def _empty_dict(self) -> None:
        self.append(Pairs())  # type: ignore[attr-defined]

    def _dict(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append(Pairs(zip(items[::2], items[1::2], strict=True)))  # type: ignore[attr-defined]

    def _frozenset(self) -> None:
        items = self.pop_mark()  # type: ignore[attr-defined]
        self.append(Call("builtins.frozenset", items))  # type: ignore[attr-defined]

    def _bytearray(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.EMPTY_DICT[0]: _empty_dict,
        pickle.DICT[0]: _dict,
        pickle.FROZENSET[0]: _frozenset,
        pickle.BYTEARRAY8[0]: _bytearray,  # without room for as many bytes as the file claims
    }
    for _hashing in (pickle.EMPTY_SET, pickle.ADDITEMS):
        del dispatch[_hashing[0]]


def parsed(file: BinaryIO) -> Any:
    """The next pickle in a file: plain values as they are, dicts as :class:`Pairs`, all else a :class:`Call`.

    Raises:
        Exception: of almost any kind, where it is damaged.
    """
    return _Unpickler(file, encoding="latin1").load()


def as_array(value: Any) -> np.ndarray:
    """The array that a parsed pickle describes: a NumPy array or a tensor of floats, in float64.

    Raises:
        Exception: of almost any kind, ValueError with a reason among them, where it describes none.
    """
    if not isinstance(value, Call):
        raise ValueError(f"expected an array, got {type(value).__name__}")
    if value.name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        storage, offset, shape, stride = value.args[:4]
        return _strided(_storage(storage), int(offset), _checked_shape(shape), stride)
    if value.name in (f"{core}.multiarray._reconstruct" for core in _NUMPY_CORE):
        _, shape, dtype, is_fortran, data = value.state
        return _shaped(_bytes(data), _dtype(dtype), _checked_shape(shape), "F" if is_fortran else "C")
    if value.name in (f"{core}.numeric._frombuffer" for core in _NUMPY_CORE):
        data, dtype, shape, order = value.args
        return _shaped(_bytes(data), _dtype(dtype), _checked_shape(shape), order)
    raise ValueError(f"expected a NumPy array or a tensor, got {value.name[:80]}, which is refused")


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not tuple or len(shape) > MOST_DIMENSIONS or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError("expected an array with a shape of whole numbers")
    return shape


def _shaped(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    values = np.frombuffer(data, dtype).astype(np.float64)
    if order not in ("C", "F") or math.prod(shape) != len(values):
        raise ValueError(f"expected an array of shape {shape}, got {len(values)} numbers")
    return values.reshape(shape, order=order)


def _strided(values: np.ndarray, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    if math.prod(shape) > len(values):
        raise ValueError(f"expected a tensor of shape {shape}, got {len(values)} numbers")
    place = np.full(shape, offset, np.int64)
    for dimension, (size, step) in enumerate(zip(shape, stride, strict=True)):
        place += (np.arange(size) * int(step)).reshape(-1, *(1,) * (len(shape) - dimension - 1))
    if not 0 <= place.min() <= place.max() < len(values):
        raise ValueError("expected a tensor within its storage")
    return values[place]


def _storage(value: Any) -> np.ndarray:
    """The numbers in what ``torch.save`` writes of a storage alone: five pickles, how many numbers, and these."""
    if not isinstance(value, Call) or value.name != "torch.storage._load_from_bytes":
        raise ValueError("expected the storage of a tensor")
    file = io.BytesIO(_bytes(*value.args))
    _magic, _protocol, _system, storage, _keys = (parsed(file) for _ in range(5))
    kind = storage.args[1].name
    if storage.name != "storage" or kind not in _STORAGES:
        raise ValueError(f"expected a storage of floats, got {kind[:80]}")
    count = int.from_bytes(file.read(8), "little")
    values = np.frombuffer(file.read(), f"<{_STORAGES[kind]}").astype(np.float64)
    if count != len(values):
        raise ValueError(f"expected {count} numbers in a storage, got {len(values)}")
    return values


def _dtype(value: Any) -> np.dtype:
    if not isinstance(value, Call) or value.name != "numpy.dtype":
        raise ValueError("expected an array of floats")
    code, order = value.args[0], value.state[1] if value.state else "="
    if code not in _FLOATS or order not in ("<", ">", "="):
        raise ValueError("expected an array of floats")
    return np.dtype(order + code)


def _bytes(value: Any) -> bytes:
    if isinstance(value, Call) and value.name == "_codecs.encode":  # how Python 3 writes bytes into older pickles
        value = value.args[0]
    if isinstance(value, str):
        return value.encode("latin1")
    if not isinstance(value, bytes | bytearray):
        raise ValueError("expected an array of plain numbers")
    return bytes(value)
