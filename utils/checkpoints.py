"""Training states and weights on disk: written whole or not at all, read without running code."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from equivariant_attention.checkpoints import (
    check_weights,
    described,
    in_few_lines,
    load_weights,
    read_tensors,
    write_tensors,
)
from utils.cli import UsageError, reason

Weights = dict[str, Tensor]

STATE, WEIGHTS = "training state 2", "weights 1"  # raise the number when the content changes


class CheckpointError(UsageError):
    """A file is not the checkpoint it should be."""


def save(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Args:
        path: file to write.
        kind: ``STATE`` or ``WEIGHTS``.
        content: tensors, numbers, strings, lists and dicts.
    """
    write_tensors(path, {"kind": kind, **content})


def load(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """The content of a checkpoint, tensors on the CPU.

    Args:
        path: file to read.
        kind: ``STATE`` or ``WEIGHTS``.

    Returns:
        what :func:`save` got, and the kind under ``'kind'``.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint of that kind.
    """
    content = _read(path)
    if not isinstance(content, dict) or content.get("kind") != kind:
        of_kind = isinstance(content, dict) and isinstance(content.get("kind"), str)
        got = in_few_lines(repr(content["kind"]), 1) if of_kind else described(content)
        raise CheckpointError(f"{path}: expected a checkpoint of kind {kind!r}, got {got}")
    return content


def restore(
    model: nn.Module,
    path: str | os.PathLike[str],
    made_of: Mapping[str, Any] | None = None,
    adapt: Callable[[Weights, Mapping[str, Any]], Weights] = lambda weights, flags: weights,
) -> None:
    """Load weights into a model, strictly.

    Args:
        model: gets the weights.
        path: a checkpoint of either kind, or a bare state dict as the published code saves it.
        made_of: flags of the model. A checkpoint that says it was trained with others is refused: weights may fit where
            the model is another, as with another number of heads.
        adapt: makes the weights of the model from those of the file, and of the flags that they were trained with, if
            it says so.

    Raises:
        CheckpointError: the file is none of these, or does not fit the model.
    """
    content = _read(path)
    of_run = isinstance(content, dict) and "kind" in content
    flags = content.get("flags") if of_run else None
    trained_with = flags if isinstance(flags, dict) else {}
    now = made_of or {}
    if other := [name for name in now if name in trained_with and not _same(trained_with[name], now[name])]:
        theirs, ours = (" ".join(f"--{name} {values[name]}" for name in other) for values in (trained_with, now))
        message = f"expected weights of a model with {ours}, got those of one with {theirs}"
        raise CheckpointError(f"{path}: {in_few_lines(message, 1)}")
    weights = content.get("model") if of_run else content
    try:
        check_weights(weights, path)
        load_weights(model, adapt(weights, trained_with), path, ours=of_run)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _same(stored: Any, value: Any) -> bool:
    """Whether a value of a file, which may be anything, is that of a flag."""
    return isinstance(stored, bool | int | float | str | None) and stored == value


def _read(path: str | os.PathLike[str]) -> Any:
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(reason(error)) from error


def check_like(name: str, found: Any, like: Any) -> None:
    """Refuse a value of a file that is not built as one made here: its types, keys, lengths and shapes, finite numbers.

    Args:
        name: of the value, for the error.
        found: the value.
        like: one made here: tensors, numbers, strings, None, and lists, tuples and dicts of them.

    Raises:
        ValueError: it is another, or a whole number is not one of 32 bits, which no counter here exceeds.
    """
    kind = dict if isinstance(like, dict) else Tensor if isinstance(like, Tensor) else type(like)
    if not isinstance(found, kind) or isinstance(found, bool) != isinstance(like, bool):
        raise ValueError(f"{name}: expected a {kind.__name__}, got a {type(found).__name__}")
    if isinstance(like, Tensor):
        if (found.shape, found.dtype) != (like.shape, like.dtype):
            expected, got = (f"{value.dtype} of shape {list(value.shape)}" for value in (like, found))
            raise ValueError(f"{name}: size mismatch, expected {expected}, got {got}")
        if not found.isfinite().all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    elif isinstance(like, dict):
        if other := sorted(map(str, found.keys() ^ like.keys())):
            raise ValueError(f"{name}: expected {len(like)} entries, it differs in {other[:3]}")
        for key in like:
            check_like(f"{name}[{key!r}]", found[key], like[key])
    elif isinstance(like, list | tuple):
        if len(found) != len(like):
            raise ValueError(f"{name}: expected {len(like)} entries, got {len(found)}")
        for place, value in enumerate(like):
            check_like(f"{name}[{place}]", found[place], value)
    elif isinstance(like, float) and not math.isfinite(found):
        raise ValueError(f"{name}: expected a finite number, got {found}")
    elif isinstance(like, int) and not 0 <= found < 2**32:
        raise ValueError(f"{name}: expected a number of 32 bits, got {'a negative one' if found < 0 else 'more'}")


def rng_state() -> dict[str, Any]:
    """The states of the global random generators: torch's, of every GPU, NumPy's, Python's."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (used or not by datasets, it must come back)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": numpy_state,
        "python": random.getstate(),
    }


def check_rng_state(state: Any) -> None:
    """Refuse what :func:`rng_state` has not returned, on this machine or another.

    Args:
        state: of a file.

    Raises:
        ValueError, TypeError, KeyError: it is something else.
    """
    like = {**rng_state(), "cuda": []}
    check_like("rng", {**state, "cuda": [], "python": ()}, {**like, "python": ()})
    *of_python, next_gauss = state["python"]  # which random.setstate takes whatever it is
    check_like("rng['python']", of_python, [*like["python"][:2]])
    if not isinstance(next_gauss, float | None):
        raise ValueError(f"rng['python']: expected a number or None at its end, got a {type(next_gauss).__name__}")
    if not all(isinstance(of_gpu, Tensor) for of_gpu in state["cuda"]):
        raise ValueError("rng['cuda']: expected a tensor for each GPU")
    if state["numpy"]["state"]["pos"] > len(like["numpy"]["state"]["key"]):
        raise ValueError(f"rng['numpy']: expected a place in the key, got {state['numpy']['state']['pos']}")


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global random generators back; the GPUs' only on as many GPUs.

    Args:
        state: what :func:`rng_state` returned.
    """
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    key = np.array(state["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state({**state["numpy"], "state": {**state["numpy"]["state"], "key": key}})  # noqa: NPY002
    random.setstate(state["python"])
