"""Tensors in files: written whole, read without running code, given to models strictly; errors name the file."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from .basis_signs import with_our_signs
from .files import atomic_write
from .torch_files import load_torch

LONGEST_LINE, MOST_LINES = 400, 8

LARGER = "a model that is much larger than the weights in the file"
FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.full}
MANY, SMALL = 2_000, 1 << 24  # parameters, and numbers in all of them, of a model that may be made for any weights

M = TypeVar("M", bound=nn.Module)


def write_tensors(path: str | os.PathLike[str], content: Any) -> None:
    """``torch.save``, atomically.

    Args:
        path: file to write; missing parent folders are made.
        content: what :func:`torch.save` takes.

    Raises:
        OSError: from the file system; IsADirectoryError where ``path`` is a folder.
    """
    buffer = io.BytesIO()  # not straight to the file: PyTorch's archive writer hides why a write has failed
    torch.save(content, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote: tensors, on the CPU, arrays and plain values. No code of the file is run.

    Args:
        path: file to read.

    Returns:
        the same.

    Raises:
        OSError: it cannot be read: FileNotFoundError where there is none, IsADirectoryError where it is a folder.
        ValueError: it is truncated or damaged, would run code, or is no such file.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path}: expected a file, got a folder")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        try:
            return load_torch(file)
        except Exception as error:  # damaged and foreign files raise almost anything
            reason = in_few_lines(error, 1) or "it is truncated, or another file"
            raise ValueError(f"{path}: expected a whole checkpoint of tensors and plain values: {reason}") from error


def load_weights(
    model: nn.Module, weights: Any, path: str | os.PathLike[str], assign: bool = False, ours: bool = False
) -> None:
    """Give a model the weights of a file, strictly.

    Args:
        model: gets the weights.
        weights: ``{name: tensor}``.
        path: of the file, for messages.
        assign: the tensors become the model's own, with their dtype, in place of being copied.
        ours: whether they are known to have this library's signs of the basis; others warn, if they do not say so.

    Raises:
        ValueError: these are no weights; one is missing, unexpected or of another shape; or they are not all numbers of
            one floating-point dtype.
    """
    check_weights(weights, path)
    _check_alike({name: weights[name] for name, _ in model.named_parameters() if name in weights}, path)
    try:
        model.load_state_dict(with_our_signs(weights) if ours else weights, assign=assign)
    except RuntimeError as error:
        raise ValueError(f"{path}: the weights do not fit the model: {in_few_lines(error)}") from error


def _check_alike(weights: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    first = next(iter(weights), "")
    for name, value in weights.items():
        if value.dtype != weights[first].dtype:
            got = f"{first!r} in {weights[first].dtype}, {name!r} in {value.dtype}"
            raise ValueError(f"{path}: expected weights of one dtype, got {got}")
        if not value.is_floating_point() or value.layout != torch.strided or value.is_meta:
            got = f"{name!r} of {value.dtype}, {value.layout}, on {value.device}"
            raise ValueError(f"{path}: expected weights that are dense tensors of floating-point numbers, got {got}")


def made_for(make: Callable[[], M], weights: Mapping[str, Tensor]) -> M:
    """A model that a file describes, given up as soon as it is much larger than the weights in the file.

    Args:
        make: makes it.
        weights: ``{name: tensor}``.

    Returns:
        the model, without these weights.

    Raises:
        ValueError: it is larger. And what ``make`` raises.
    """
    numbers = sum(weight.numel() for weight in weights.values())
    # Twice as many as there are, since a module may replace a parameter that it has made.
    thread, left = threading.get_ident(), [max(MANY, 2 * len(weights)), max(SMALL, 2 * numbers)]

    def count(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        if threading.get_ident() == thread:
            left[:] = left[0] - 1, left[1] - parameter.numel()
            if min(left) < 0:
                raise ValueError(LARGER)

    hook = register_module_parameter_registration_hook(count)
    try:
        with _Small(left[1]):
            return make()
    finally:
        hook.remove()


class _Small(TorchFunctionMode):
    """A context in which this thread is refused any tensor of more numbers than a limit.

    Args:
        most: the limit.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in FACTORIES:
            size = kwargs.get("size", args[0] if args and isinstance(args[0], tuple | list) else args)
            if prod(size) > self.most:
                raise ValueError(LARGER)
        return function(*args, **kwargs)


def check_weights(weights: Any, path: str | os.PathLike[str]) -> None:
    """Refuse what is no ``{name: tensor}``.

    Args:
        weights: of a file.
        path: of the file, for messages.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise ValueError(f"{path}: expected weights (a dict of tensors), got {described(weights)}")


def in_few_lines(error: object, most: int = MOST_LINES) -> str:
    """What an error says, cut short: where weights do not fit, PyTorch lists every one of them.

    Args:
        error: or its text.
        most: how many lines, each of at most 400 characters.

    Returns:
        the text.
    """
    lines = str(error).splitlines()
    shown = [shorten(line, LONGEST_LINE, placeholder=" ...") for line in lines[:most]]
    return "\n  ".join(shown + [f"... ({len(lines) - most} lines more)"] * (len(lines) > most > 1))


def described(content: Any) -> str:
    """What a file holds, in a few words, where it is not what was expected.

    Args:
        content: of the file.

    Returns:
        the words.
    """
    if not isinstance(content, dict):
        return type(content).__name__
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return f"weights alone (a state dict of {len(content)} tensors)"
    return f"a dict of {sorted(map(str, content))[:5]}"
