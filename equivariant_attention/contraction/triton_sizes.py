"""How many rows and channels a program of ``kernels/mixing.py`` takes: by a rule, unless a measurement was kept.

The rule is: as many as registers hold, as the compiler reports for these sizes (``benchmarks/machine_code.py``). They
follow from the channels, the capability of the GPU and the precision; never from how many edges there are. So a kernel
is compiled once for a layer of some size, and Triton's cache on disk keeps it for later processes.

Nothing is tuned as a model runs. ``python -m benchmarks.tune`` times the candidates on a GPU, and keeps the fastest for
each :class:`Key` in a file beside the libraries of ``native/compiler.py``, which a process reads once. Sizes that are
not among the candidates are not taken: what the file holds may make a launch slower, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from ..files import atomic_write
from ..native.compiler import BuildError, cache_folder

ROWS = 64  # of edges, in a program; for sums over rows 32 or 16 at a time
CHANNELS = 32  # of features that a program takes at a time; in float64 half as many
FILE = "tiles.json"

Sizes = Mapping[str, Any]  # integers: constants of a kernel, and options of the compiler


class Key(NamedTuple):
    """What sizes depend on: all that a kernel is compiled for, and what the degrees come to, but no number of rows.

    Attributes:
        kernel: its name.
        capability: of the GPU, 90 for sm_90.
        precision: 'float64', or as ``torch.set_float32_matmul_precision`` takes it.
        edges: D, of a row.
        channels_in, channels_out: of the features and messages.
        degrees: how many matrices of radial weights, and slots of messages, have m = 0, and how many m > 0.
        has_bias: whether biases are added.
    """

    kernel: str
    capability: int
    precision: str
    edges: int
    channels_in: int
    channels_out: int
    degrees: tuple[int, ...]
    has_bias: bool = False


class Room(NamedTuple):
    """What registers there are for a product.

    Attributes:
        is_roomy: whether products read shared memory, as those of float32 on sm_90, and leave registers to others.
        registers: how many a product takes, next to one in TF32.
    """

    is_roomy: bool
    registers: int

    @classmethod
    def of(cls, key: Key) -> Room:
        """By the rule: three products in TF32 take twice as many registers as one, as float64 does.

        Factors rounded to bfloat16 take registers where others are read from shared memory.
        """
        is_roomy = key.capability // 10 == 9 and key.precision != "float64"
        is_rounded = is_roomy and (key.precision, key.kernel) == ("medium", "messages")
        return cls(is_roomy, 2 if is_rounded or key.precision in ("highest", "float64") else 1)


def candidates(key: Key) -> list[Sizes]:
    """Sizes that a kernel may have, each once: first by the rule, then as it would be with other room."""
    rooms = [Room.of(key), *(Room(*room) for room in product((True, False), (1, 2)))]
    found = [_SIZES[key.kernel](key, room, min(key.channels_in, _channels(key))) for room in rooms]
    return [sizes for i, sizes in enumerate(found) if sizes not in found[:i]]


@cache
def chosen(key: Key, gpu: str) -> Sizes:
    """The candidate that was kept for a GPU of this name, or the first; '' is no GPU."""
    among, kept = candidates(key), _kept().get(_name(key, gpu)) if gpu else None
    return next((sizes for sizes in among if sizes == kept), among[0])


def keep(found: Mapping[Key, Sizes], gpu: str) -> str:
    """Keep sizes for a GPU of this name, beside what was kept before. Returns the path of the file.

    Raises:
        OSError, BuildError: it cannot be written.
    """
    path = cache_folder() / FILE
    kept = _kept() | {_name(key, gpu): dict(sizes) for key, sizes in found.items()}
    with atomic_write(path, "w") as file:
        json.dump(kept, file, indent=1)
    for read in (_kept, chosen):
        read.cache_clear()
    return str(path)


@cache
def _kept() -> dict[str, Any]:
    """What the file holds; nothing if it is damaged, or if others may write to it."""
    with suppress(OSError, ValueError, RecursionError, BuildError):
        kept = json.loads((cache_folder() / FILE).read_text(encoding="utf-8"))
        return kept if isinstance(kept, dict) else {}
    return {}


def _name(key: Key, gpu: str) -> str:
    import triton

    return ", ".join([gpu, f"Triton {triton.__version__}", *(f"{n} {v}" for n, v in key._asdict().items())])


def _channels(key: Key) -> int:
    return CHANNELS // 2 if key.precision == "float64" else CHANNELS


def _messages(key: Key, room: Room, CT: int) -> Sizes:
    (PT0, PD0), (PT, PD) = (_tiles(key, room, CT, AB) for AB in (1, 2))
    stages = 3 if room.is_roomy else 1
    return {"PT0": PT0, "PD0": PD0, "PT": PT, "PD": PD, "CT": CT, "ROWS": ROWS, "num_warps": 4, "num_stages": stages}


def _tiles(key: Key, room: Room, CT: int, AB: int) -> tuple[int, int]:
    """Channels out of a program, for each of which a product makes AB tiles; and how many of them one makes."""
    orders = max(AB, (key.edges + 1) // 2)  # 2 where a row has two orders of two edges each, or as many numbers
    most, columns = (8 if orders == 1 or CT < 32 else 4, 64) if room.is_roomy else (4 // orders, 64 * orders)
    PT = min(key.channels_out, most // room.registers)
    return PT, max(1, min(PT, columns // (AB * CT)))


def _by_hidden(key: Key, room: Room, CT: int) -> Sizes:
    PT = min(key.channels_out, (64 if room.is_roomy else 64 // room.registers) // CT)
    return {"PT": PT, "CT": CT, "ROWS": ROWS, "num_warps": 4, "num_stages": 1}


def _by_weights(key: Key, room: Room, CT: int) -> Sizes:
    P, PD = key.channels_out, min(key.channels_out, 64 // CT)
    PT0 = min(P, 4 * PD // (1 if room.is_roomy else room.registers))
    PT = min(P, 2 * PD // room.registers)
    rows = ROWS // 2 if room.is_roomy else ROWS // (2 * room.registers)
    return {"PT0": PT0, "PT": PT, "PD": PD, "CT": CT, "ROWS": rows, "num_warps": 4, "num_stages": 1}


_SIZES = {"messages": _messages, "by_hidden": _by_hidden, "by_weights": _by_weights}
