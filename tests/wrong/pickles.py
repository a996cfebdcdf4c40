"""Pickles and torch files that a reader of data must refuse: made to run code, or to have memory read or taken."""

import gzip
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

RECONSTRUCT, ARGUMENTS, _ = np.zeros(1).__reduce__()
SCALAR, FROM_BUFFER = np.float64(0).__reduce__()[0], np.zeros(1).__reduce_ex__(5)[0]
SHAPE, BYTES = (2,), b"\x41" * 16  # the bytes would be addresses of objects


class Call:
    """Pickled as the call of a function, and what it made as given a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def state_of(dtype, shape=SHAPE, content=BYTES):
    return Call(RECONSTRUCT, ARGUMENTS, (1, shape, dtype, False, content))


def dtype_of(code, *state):
    return Call(np.dtype, (code, False, True), state or (3, "<", None, None, None, -1, -1, 0))


OBJECTS = dtype_of("O", 3, "|", None, None, None, -1, -1, 0)  # which does not say that it holds objects


def nested(depth):
    value = ()
    for _ in range(depth):
        value = (value,)
    return value


def raw(text):
    """A pickle in its own words."""
    return text.encode("latin-1")


def often(*parts):
    """Values that are all made of the same."""
    return [Call(*parts) for _ in range(1000)]


DEEP = b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns."  # {((((...)))): None}
PICKLES = {
    "code": Call(os.mkdir, ("owned",)),
    "code in an array": np.array([Call(os.mkdir, ("owned",))], dtype=object),
    "scalar of objects": Call(SCALAR, (OBJECTS, BYTES[:8])),
    "buffer of objects": Call(FROM_BUFFER, (BYTES, OBJECTS, SHAPE, "C")),
    "state of objects": state_of(OBJECTS),
    "array of objects of a buffer": Call(np.ndarray, (SHAPE, np.dtype("O"), BYTES)),
    "array without bytes": Call(np.ndarray, ((10**12,),)),
    "objects that are bytes": state_of(np.dtype("O")),
    "fewer objects": state_of(np.dtype("O"), (5,), [1]),
    "fewer bytes": state_of(np.dtype("f8"), (10**12,)),
    "more bytes": state_of(np.dtype("f8"), (1,)),
    "negative shape": state_of(np.dtype("f8"), (-1, -2)),
    "shape of text": state_of(np.dtype("f8"), ("2",)),
    "shape of 10^9 lists": Call(FROM_BUFFER, (b"ab", np.dtype("f2"), (10**9, [0]), "C")),
    "type of nested tuples": b"\x80\x02cnumpy\ndtype\n)" + b"\x85" * 100_000 + b"\x85R.",
    "one buffer of many arrays": often(FROM_BUFFER, (BYTES * 64, np.dtype("u1"), (1024,), "C")),
    "one state of many arrays": often(RECONSTRUCT, ARGUMENTS, (1, (1024,), np.dtype("u1"), False, BYTES * 64)),
    "one list of many sets": often(set, ([*range(1000)],)),
    "one text of many bytes": raw("c_codecs\nencode\np0\n(V" + "x" * 1000 + "\ntp1\n(" + "g0\ng1\nR" * 1000 + "t."),
    "scalar of few bytes": Call(SCALAR, (np.dtype("f8"), b"1")),
    "structures": np.zeros(2, dtype=[("a", "f8"), ("b", "O")]),
    "structure in a state": state_of(dtype_of("f8", 3, "<", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 0)),
    "metadata": state_of(dtype_of("V8")),
    "dates": np.zeros(2, dtype="M8[s]"),
    "no characters": state_of(np.dtype("U2"), SHAPE),
    "no bools": state_of(np.dtype("?"), (16,)),
    "text of no length": state_of(dtype_of("U0"), (10**9,), b""),
    "state of a function": raw("c_codecs\nencode\n(dVx\nNsb."),
    "attribute of a class": raw("cnumpy\ndtype\n}(Vnewbyteorder\nNub."),
    "set of a set's class": raw("cbuiltins\nset\ncbuiltins\nset\n\x85R."),
    "bytes of a number": raw("cbuiltins\nbytes\n(I1000000000000\ntR."),
    "bytearray of a number": raw("cbuiltins\nbytearray\n(I1000000000000\ntR."),
    "other encoding": raw("c_codecs\nencode\n(Vx\nVrot13\ntR."),
    "reference to another file": raw("Pother\n."),
    "instance": raw("(ios\nmkdir\n."),
    "extension": b"\x80\x02\x82\x01.",
    "key of nested tuples": DEEP,
    "nested lists": b"\x80\x02" + b"]" * 200 + b"a" * 199 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 200 + b".",
    "nested dicts": b"\x80\x04" + b"}K\x00" * 200 + b"N" + b"s" * 200 + b".",
    "nested sets": b"\x80\x04" + b"(" * 200 + b"\x91" * 200 + b".",
    "objects that are nested": state_of(np.dtype("O"), (1,), [nested(200)]),
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "keys of one hash": {n * (2**61 - 1): None for n in range(1000)},
    "complex keys of one hash": {np.complex128(complex(-1000003 * n, n)): None for n in range(1000)},
    "set of nested tuples": {(((1,),),)},
    "set of a long tuple": {(None,) * 9},
    "unfinished": Call(np.dtype, ("f8", False, True)),
    "nothing": b"",
    "far place in the memory": b"\x80\x02]r\xff\xff\xff\x7fh\x00.",
    "endless text": b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x.",
    "endless bytearray": b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"x.",
    "endless bytes": b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"x.",
    "stack is empty": b"\x80\x02" + b"0" * 9 + b".",
    "no mark": b"\x80\x02t.",
    "items of a dict that are none": b"\x80\x02}(K\x01K\x02e.",
    "call of a number": b"\x80\x02K\x01)R.",
    "state of a list": b"\x80\x02]}U\x01aK\x01sb.",
    "no end": b"\x80\x02K\x01",
    "no instruction": b"\xff",
    "append to a tuple": b"\x80\x02)Na.",
    "key of a list": b"\x80\x02]Ns.",
}  # fmt: skip


def pickled(content, protocol=4):
    """The bytes of one of ``PICKLES``, in a dict as a file has it, unless it is in bytes already."""
    if isinstance(content, bytes):
        return content
    file = io.BytesIO()
    pickle.Pickler(file, protocol).dump({"loc": content})
    return file.getvalue()


class Storage:
    """Pickled as a reference to memory beside the pickle."""

    def __init__(self, kind=torch.FloatStorage, key="0", numel=2, word="storage"):
        self.reference = (word, kind, key, "cpu", numel)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.reference if isinstance(value, Storage) else None


def tensor(storage=None, offset=0, size=(2,), stride=(1,), *more):
    parts = (Storage() if storage is None else storage, offset, size, stride, False, None, *more)
    return Call(torch._utils._rebuild_tensor_v2, parts)


TENSORS = {
    "more numbers than the file": tensor(size=(10**6, 10**6), stride=(10**6, 1)),
    "one number many times": tensor(size=(10**12,), stride=(0,)),
    "numbers after the end": tensor(size=(2,), stride=(10,)),
    "numbers before the beginning": tensor(stride=(-1,)),
    "negative place": tensor(offset=-4),
    "place after the end": tensor(offset=2**40),
    "strides that overflow": tensor(size=(2, 2), stride=(2**62, 2**62)),
    "tensor's shape of text": tensor(size=("2",)),
    "tensor's negative shape": tensor(size=(-2,)),
    "other number of strides": tensor(size=(2,), stride=(1, 1)),
    "other size of memory": tensor(Storage(numel=3)),
    "other type of memory": tensor(Storage(torch.DoubleStorage)),
    "memory that is not there": tensor(Storage(key="1")),
    "memory elsewhere": tensor(Storage(key="../data.pkl")),
    "no memory": tensor("storage"),
    "tensor of no bools": tensor(Storage(torch.BoolStorage, numel=8)),
    "conjugate": tensor(Storage(torch.ComplexFloatStorage, numel=1), 0, (1,), (1,), {"conj": True}),
    "large empty tensor": Call(torch.FloatTensor, (10**12,)),
    "large memory": Call(torch.storage.UntypedStorage, (10**12,)),
    "one list of many dicts": often(OrderedDict, ([(n, None) for n in range(1000)],)),
    "one metadata of many dicts": often(OrderedDict, (), {"_metadata": {str(n): {"version": 1} for n in range(1000)}}),
    "long pairs": Call(OrderedDict, ([(1, 2, 3, 4)],)),
    "parameter of a list": Call(torch._utils._rebuild_parameter, ([1.0], True, None)),
}  # fmt: skip


def archive(content, memory=b"\x41" * 8):
    """The bytes of a torch file with one of ``TENSORS`` or ``PICKLES``."""
    if not isinstance(content, bytes):
        file = io.BytesIO()
        _Pickler(file, 2).dump({"w": content})
        content = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as parts:
        for name, part in (("data.pkl", content), ("byteorder", sys.byteorder.encode()), ("data/0", memory)):
            parts.writestr(f"archive/{name}", part)
    return file.getvalue()


def read_index(file):
    """Read a file as that of a cache of the published code which says what is where."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "index.pkl").write_bytes(file.read())
        return read_signs(folder)


def read_coupling(file):
    """Read a file as one of the couplings in such a cache."""
    with TemporaryDirectory() as folder:
        (Path(folder) / "index.pkl").write_bytes(pickle.dumps({(2, 1, 1): "0.pkl.gz"}))
        (Path(folder) / "0.pkl.gz").write_bytes(gzip.compress(file.read(), 1))
        return read_signs(folder)


def main(reader, contents):
    """Have a reader read files; print what it reads or why it refuses."""
    for name, content in contents.items():
        try:
            said = f"read {reader(io.BytesIO(content))!r:.80}"
        except Exception as error:
            said = f"refused, {error}"
        print(f"{name}: {said}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    from equivariant_attention import pickles, torch_files
    from equivariant_attention.published import read_signs

    for reader in (pickles.load, read_index, read_coupling):
        main(reader, {name: pickled(content) for name, content in PICKLES.items()})
    main(torch_files.load_torch, {name: archive(content) for name, content in {**PICKLES, **TENSORS}.items()})
