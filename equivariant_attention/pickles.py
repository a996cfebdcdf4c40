"""Pickles of others, read as data: plain values and NumPy arrays, made without calling anything that a file names.

A pickle is a program for a small machine with a stack. The one here knows the instructions that make plain values and,
of names, those of a short list, each with a function of ours that checks what it is given. All else is refused. What is
made is of the order of the size of the file, although a pickle may name one thing again and again.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from math import prod
from typing import IO, Any, TypeAlias

import numpy as np

Names: TypeAlias = Mapping[tuple[str, str], Any]  # (module, name) -> what stands for it

SCALARS = (str, bytes, int, float, type(None))  # of keys
LARGEST_KEY = 2**60  # whole numbers that are larger can all be made to have one hash, and to fill a dict takes for ever
LONGEST_KEY, DEEPEST_KEY = 8, 2  # of tuples that are keys
CONTAINERS, DEEPEST_VALUE = (list, tuple, set, frozenset, dict), 100
COPIED = (str, bytes, bytearray, list, tuple, set, dict)
MOST_COPIES = 4  # of each byte; bytes that are written as text and then read as memory are copied twice
EMPTY: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
VALUES = {
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip
REMEMBER, RECALL = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


def load(stream: IO[bytes]) -> Any:
    """What a pickle of any protocol holds.

    Args:
        stream: open at its beginning; left at its end.

    Returns:
        numbers, strings, bytes, lists, tuples, dicts and sets of them, and NumPy arrays and scalars.

    Raises:
        ValueError: it holds anything else.
        Exception: almost any, where it is damaged.
    """
    return Machine(NUMPY).run(stream)


class Machine:
    """Runs one pickle.

    Args:
        names: what may be named, (module, name), and what stands for it: a :class:`Made` where it is called.
        storage: gives what a persistent id, as PyTorch has them, stands for.
    """

    def __init__(self, names: Names, storage: Callable[[Any], Any] | None = None) -> None:
        self.names, self.storage = names, storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.unfinished = self.given = self.position = 0

    def run(self, stream: IO[bytes]) -> Any:
        """The value that a pickle ends with.

        Args:
            stream: of the pickle, at whose end it is left.

        Returns:
            the value.
        """
        for instruction, argument, position in pickletools.genops(stream):
            name, self.position = instruction.name, position or 0
            if name in VALUES:
                self.stack.append(argument)
            elif name in EMPTY:
                self.stack.append(EMPTY[name]())
            elif name in REMEMBER:
                self._remember(int(argument or 0))
            elif name in RECALL:
                self.stack.append(self.memo[int(argument or 0)])
            elif name not in ("PROTO", "FRAME", "STOP"):
                step = getattr(self, f"_{name}", None)
                if step is None:
                    raise ValueError(f"the instruction {name} is refused")
                step(argument)
        if self.unfinished:
            raise ValueError("an array or a data type without its content")
        check_nesting(self.stack[-1])
        return self.stack.pop()

    def _remember(self, key: int) -> None:
        self.memo[key] = self.stack[-1]
        if isinstance(self.stack[-1], _Unfinished):
            self.stack[-1].keys.append(key)

    def _pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _MEMOIZE(self, _: None) -> None:
        self._remember(len(self.memo))

    def _MARK(self, _: None) -> None:
        self.marks.append(len(self.stack))

    def _POP(self, _: None) -> None:
        self.stack.pop()

    def _POP_MARK(self, _: None) -> None:
        self._pop_to_mark()

    def _LIST(self, _: None) -> None:
        self.stack.append(self._pop_to_mark())

    def _TUPLE(self, _: None) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _TUPLE1(self, _: None) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _TUPLE2(self, _: None) -> None:
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _TUPLE3(self, _: None) -> None:
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _DICT(self, _: None) -> None:
        self.stack.append(filled({}, self._pop_to_mark()))

    def _FROZENSET(self, _: None) -> None:
        self.stack.append(_as_set(frozenset, self._pop_to_mark()))

    def _APPEND(self, _: None) -> None:
        item = self.stack.pop()
        of_type(list, self.stack[-1]).append(item)

    def _APPENDS(self, _: None) -> None:
        items = self._pop_to_mark()
        of_type(list, self.stack[-1]).extend(items)

    def _SETITEM(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        filled(self.stack[-1], [key, value])

    def _SETITEMS(self, _: None) -> None:
        items = self._pop_to_mark()
        filled(self.stack[-1], items)

    def _ADDITEMS(self, _: None) -> None:
        items = self._pop_to_mark()
        of_type(set, self.stack[-1]).update(_as_set(set, items))

    def _GLOBAL(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        if (module, name) not in self.names:
            raise ValueError(f"Unsupported global: {module}.{name} is refused")
        self.stack.append(self.names[module, name])

    def _STACK_GLOBAL(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._GLOBAL(f"{of_type(str, module)} {of_type(str, name)}")

    def _REDUCE(self, _: None) -> None:
        arguments, function = of_type(tuple, self.stack.pop()), self.stack.pop()
        if not isinstance(function, Made):
            raise ValueError("a call of what makes no value is refused")
        self._count(arguments)
        self.stack.append(function.by(*arguments))
        self.unfinished += isinstance(self.stack[-1], _Unfinished)

    _NEWOBJ = _REDUCE

    def _count(self, given: Any) -> None:
        """Account for memory that is made from this value: a file may name one value again and again."""
        parts = given.values() if isinstance(given, dict) else given if isinstance(given, tuple) else ()
        self.given += sum(len(part) for part in parts if isinstance(part, COPIED))
        if self.given > MOST_COPIES * self.position:
            raise ValueError(f"content that is copied to more than {MOST_COPIES} times the file is refused")

    def _BUILD(self, _: None) -> None:
        state, made = self.stack.pop(), self.stack.pop()
        self._count(state)
        if isinstance(made, _Unfinished):
            made, keys = made.finished(state), made.keys
            self.memo.update(dict.fromkeys(keys, made))
            self.unfinished -= 1
        elif type(made) is OrderedDict:
            made._metadata = _versions(state)  # type: ignore[attr-defined]
        else:
            raise ValueError(f"a state of {type(made).__name__} is refused")
        self.stack.append(made)

    def _BINPERSID(self, _: None) -> None:
        if self.storage is None:
            raise ValueError("a reference to another file is refused")
        self.stack.append(self.storage(self.stack.pop()))


class Made:
    """Stands for a function or a class.

    Args:
        by: makes the value of what that would be given.
    """

    def __init__(self, by: Callable[..., Any]) -> None:
        self.by = by


class _Unfinished:
    """Stands for a value until its state comes.

    Args:
        finished: makes the value of the state.

    Attributes:
        keys: where the machine remembers it.
    """

    def __init__(self, finished: Callable[[Any], Any]) -> None:
        self.finished = finished
        self.keys: list[int] = []


def of_type(kind: type, value: Any) -> Any:
    """The value, if it is of a type and of no other.

    Args:
        kind: the type.
        value: any.

    Returns:
        the value.

    Raises:
        ValueError: it is of another.
    """
    if type(value) is not kind:
        raise ValueError(f"expected a {kind.__name__}, got a {type(value).__name__}")
    return value


def filled(table: Any, items: list[Any]) -> Any:
    """A dict, and in it more keys and values.

    Args:
        table: the dict.
        items: keys and values that follow each other.

    Returns:
        the dict.

    Raises:
        ValueError: it is none, or a key is no number, no string and no short tuple of them.
    """
    if type(table) not in (dict, OrderedDict):
        raise ValueError(f"expected a dict, got a {type(table).__name__}")
    table.update(zip(_as_keys(items[::2]), items[1::2], strict=True))
    return table


def check_nesting(value: Any) -> None:
    """Refuse containers in each other that are too deep to be printed, compared or copied, or without an end.

    Args:
        value: of a file.

    Raises:
        ValueError: they are more than 100 deep.
    """
    level = [value]
    for _ in range(DEEPEST_VALUE):
        parts = [part for each in level for part in _parts(each)]
        level = [*{id(part): part for part in parts if isinstance(part, (*CONTAINERS, np.ndarray))}.values()]
        if not level:
            return
    raise ValueError(f"values that are nested more than {DEEPEST_VALUE} deep are refused")


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return chain(value, value.values())
    if isinstance(value, np.ndarray):
        return value.flat if value.dtype.kind == "O" else ()
    return value if isinstance(value, CONTAINERS) else ()


def _versions(state: Any) -> OrderedDict[str, dict[str, int]]:
    """The versions of modules that a ``state_dict`` keeps as ``_metadata``, without all else that may be there."""
    found = state.get("_metadata") if type(state) is dict else None
    entries = found.items() if isinstance(found, dict) else ()
    return OrderedDict(
        (name, {"version": entry["version"]} if type(entry.get("version")) is int else {})
        for name, entry in entries
        if isinstance(name, str) and isinstance(entry, dict)
    )


def _as_set(kind: Callable[[list[Any]], Any], items: Any = ()) -> Any:
    return kind(_as_keys(list(items)))


def _as_keys(items: list[Any]) -> list[Any]:
    for item in items:
        if not _is_key(item, DEEPEST_KEY):
            raise ValueError(f"expected a number, a string or a few in a tuple as a key, got a {type(item).__name__}")
    return items


def _is_key(item: Any, depth: int) -> bool:
    """Whether hashing it is little work; to hash nested tuples takes a stack as deep as they are nested."""
    if type(item) is tuple:
        return depth > 0 and len(item) <= LONGEST_KEY and all(_is_key(part, depth - 1) for part in item)
    if isinstance(item, int):
        return -LARGEST_KEY < item < LARGEST_KEY
    return isinstance(item, (*SCALARS, frozenset))  # a frozenset knows its hash


def as_bytes(content: Any) -> Any:
    """The bytes of a ``content``, which is text where Python 2 wrote it; whatever else it is, as it is."""
    return content.encode("latin-1") if isinstance(content, str) else content


# ------------------------------------------------------------------------------------------------------- NumPy


PLAIN_TYPE = re.compile(r"[<>=|]?(\?|[bBhHiIlLqQefdg]|O[48]?|[iu][1248]|b1|f(2|4|8|12|16)|c(8|16)|[SU]\d{1,9})")


def _dtype(code: Any, *_: Any) -> _Unfinished:
    text = code.decode("ascii") if isinstance(code, bytes) else of_type(str, code)
    if not PLAIN_TYPE.fullmatch(text):
        raise ValueError(f"arrays of data type {text!r} are refused")

    def finished(state: Any) -> np.dtype[Any]:
        _, order, *more = of_type(tuple, state)
        if len(more) < 3 or any(part is not None for part in more[:3]) or order not in ("<", ">", "|", "="):
            raise ValueError("arrays of structures are refused")
        return np.dtype(text).newbyteorder(order)

    return _Unfinished(finished)


def _array(dtype: Any, shape: Any, content: Any, order: str = "C") -> np.ndarray[Any, Any]:
    """An array of exactly the numbers in ``content``."""
    if not isinstance(dtype, np.dtype) or not all(type(size) is int and size >= 0 for size in of_type(tuple, shape)):
        raise ValueError("expected a data type and a shape")
    content, count = as_bytes(content), prod(shape)
    if dtype.kind == "O":
        if len(of_type(list, content)) != count:
            raise ValueError(f"expected {count} objects, got {len(content)}")
        array = np.empty(count, dtype)
        for place, item in enumerate(content):  # in one go, NumPy would look into them
            array[place] = item
    else:
        if not isinstance(content, bytes | bytearray) or len(content) != count * dtype.itemsize or not dtype.itemsize:
            raise ValueError(f"expected the {count} numbers of an array of shape {list(shape)}, got another number")
        array = np.frombuffer(bytearray(content), dtype)
        check_values(array)
    return array.reshape(shape, order="F" if order == "F" else "C")


def check_values(array: np.ndarray[Any, Any]) -> None:
    """Refuse memory that is no value of its type, which NumPy takes on trust: bools other than 0 and 1, no characters.

    Args:
        array: of any type.

    Raises:
        ValueError: it holds such.
    """
    codes, largest = {"b": ("u1", 1), "U": ("u4", sys.maxunicode)}.get(array.dtype.kind, ("u1", 255))
    numbers = np.frombuffer(array.tobytes(), np.dtype(codes).newbyteorder(array.dtype.byteorder))
    if numbers.max(initial=0) > largest:
        raise ValueError(f"expected an array of {array.dtype}, got other memory")


def _reconstructed(*_: Any) -> _Unfinished:
    def finished(state: Any) -> np.ndarray[Any, Any]:
        _, shape, dtype, fortran, content = of_type(tuple, state)
        return _array(dtype, shape, content, "F" if fortran else "C")

    return _Unfinished(finished)


def _scalar(dtype: Any, content: Any) -> Any:
    if isinstance(dtype, np.dtype) and dtype.kind == "O":
        raise ValueError("objects as numbers are refused")
    return _array(dtype, (), content)[()]


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"the encoding {encoding!r} is refused")
    return of_type(str, text).encode("latin-1")


NUMPY: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): Made(_encoded),  # bytes, in protocols before 3
    ("numpy", "ndarray"): None,  # argument of _reconstruct, which makes nothing else here
    ("numpy", "dtype"): Made(_dtype),
}
for _builtins in ("builtins", "__builtin__"):
    NUMPY[_builtins, "set"] = Made(lambda items=(): _as_set(set, items))
    NUMPY[_builtins, "frozenset"] = Made(lambda items=(): _as_set(frozenset, items))
    NUMPY[_builtins, "bytes"] = Made(lambda: b"")
for _core in ("numpy.core", "numpy._core"):
    NUMPY[f"{_core}.multiarray", "_reconstruct"] = Made(_reconstructed)
    NUMPY[f"{_core}.multiarray", "scalar"] = Made(_scalar)
    NUMPY[f"{_core}.numeric", "_frombuffer"] = Made(
        lambda content, dtype, shape, order: _array(dtype, shape, content, order)
    )
