"""Models in files: one file with the weights, the arguments that the model was made with, and versions."""

from __future__ import annotations

import inspect
import os
from typing import Any, TypeVar

import torch
from packaging.version import InvalidVersion, Version
from torch import nn

from .. import __version__
from ..checkpoints import check_weights, described, load_weights, made_for, read_tensors, write_tensors
from ..fibers import Fiber

FORMAT = "equivariant_attention model"
FORMAT_VERSION = 1  # raise it when the content changes
CONTENT = {"format_version": int, "library_version": str, "class": str, "config": dict, "state_dict": dict}
PLAIN = (Fiber, int, float, str)  # values of arguments, beside None

M = TypeVar("M", bound="Saveable")


class Saveable(nn.Module):
    """A module that is saved with the arguments it was made with.

    Every argument of its constructor is an attribute of that name: a Fiber, a number, a string, a bool or None. A
    subclass whose arguments are not cannot be saved so.
    """

    @property
    def config(self) -> dict[str, Any]:
        """What the constructor was given, in plain values; a Fiber is ``{degree: channels}``.

        Raises:
            TypeError: an argument of the constructor is not an attribute of that name, or not such a value.
        """
        values = self._plain_arguments()
        for name in inspect.signature(type(self)).parameters:
            if name not in values:
                got = type(getattr(self, name)).__name__ if hasattr(self, name) else "none"
                raise TypeError(
                    f"{type(self).__name__} must keep its argument {name!r} as an attribute of that name, a Fiber, a "
                    f"number, a string, a bool or None, got {got}; its state_dict can be saved without"
                )
        return values

    def _plain_arguments(self) -> dict[str, Any]:
        """Those arguments of the constructor that are attributes of plain values."""
        values = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters if hasattr(self, name)}
        plain = {name: value for name, value in values.items() if value is None or isinstance(value, PLAIN)}
        return {name: dict(value.dict) if isinstance(value, Fiber) else value for name, value in plain.items()}

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one file, which is there in whole or not at all.

        ``torch.load(path, weights_only=True)`` reads it: a dict of ``'format'``, ``'format_version'``,
        ``'library_version'``, ``'class'``, ``'config'`` and ``'state_dict'``.

        Args:
            path: file to write; missing parent folders are made.

        Raises:
            OSError: from the file system; IsADirectoryError where ``path`` is a folder.
            TypeError: the model is of a subclass whose :attr:`config` is not known.
        """
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "library_version": __version__,
            "class": type(self).__name__,
            "config": self.config,
            "state_dict": self.state_dict(),
        }
        write_tensors(path, content)

    @classmethod
    def from_pretrained(cls: type[M], path: str | os.PathLike[str], device: torch.device | str = "cpu") -> M:
        """The model in a file of :meth:`save_pretrained`, in the dtype it was saved in. No code of the file is run.

        A class that others are made of, such as :class:`AtomicEnergies`, takes the files of each of these.

        Args:
            path: the file. Names of models on a hub are none: nothing is downloaded.
            device: where the model is to be.

        Raises:
            OSError: the file cannot be read: FileNotFoundError where there is none, IsADirectoryError for a folder.
            ValueError: it is damaged, no such file, of a newer version or of another class, or its weights do not fit.
        """
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path}: there is no such file, and nothing is downloaded")
        content = _checked(read_tensors(path), path)
        kinds = {kind.__name__: kind for kind in (*cls.__subclasses__(), cls)}
        if content["class"] not in kinds:
            raise ValueError(f"{path}: expected a {cls.__name__}, got a {content['class']}")
        check_weights(content["state_dict"], path)
        try:
            with torch.random.fork_rng(devices=[]):  # the weights drawn here are not to be seen
                model = made_for(lambda: kinds[content["class"]](**content["config"]), content["state_dict"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected the arguments of a {content['class']}, got others: {error}") from error
        load_weights(model, content["state_dict"], path, assign=True, ours=True)
        return model.to(device)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._plain_arguments().items())


def _checked(content: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :meth:`Saveable.save_pretrained` wrote, in this version or an older one."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: expected a file of save_pretrained, with the arguments of the model (weights alone are for "
            f"load_state_dict), got {described(content)}"
        )
    if wrong := [name for name, kind in CONTENT.items() if not isinstance(content.get(name), kind)]:
        raise ValueError(f"{path}: expected a file of save_pretrained, got one without a valid {wrong[0]!r}")
    for name, ours in (("format_version", str(FORMAT_VERSION)), ("library_version", __version__)):
        if _version(str(content[name]), path) > Version(ours):
            raise ValueError(
                f"{path}: expected {name} {ours} or older, got {content[name]}: "
                "it was saved by a newer equivariant_attention, which is needed to load it"
            )
    return content


def _version(text: str, path: str | os.PathLike[str]) -> Version:
    try:
        return Version(text)
    except InvalidVersion as error:
        raise ValueError(f"{path}: expected a version, got {text!r}") from error
