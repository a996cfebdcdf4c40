"""Whether tensors still hold what they held: by their values where the host has these, else by version counters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .native.private import is_watched


class Snapshot:
    """A tensor as it is now.

    Args:
        tensor: which; None for a field that is not there.
        values: what it holds, in memory that nobody writes to; None copies them.
    """

    def __init__(self, tensor: Tensor | None, values: Tensor | None = None) -> None:
        self.tensor, self.version = tensor, version(tensor)
        self.values = tensor.detach().clone() if values is None and tensor is not None else values

    def equals(self, given: Tensor | None) -> bool:
        """Whether ``given`` holds the same values, in any shape and dtype. The host waits for them."""
        if given is None or self.values is None:
            return given is self.values
        if given.shape != self.values.shape:
            if given.numel() != self.values.numel():
                return False
            given = given.reshape(self.values.shape)
        if given.dtype != self.values.dtype:
            return bool((given == self.values).all())
        return torch.equal(given, self.values)

    def is_untouched(self, given: Tensor | None) -> bool:
        """Whether ``given`` is this tensor, and was not written to since in a way that PyTorch counts.

        What is written in inference mode, through ``.data`` or through memory of NumPy is not counted; nor is anything
        in code that is compiled.
        """
        versions = self.version, version(given)
        return given is self.tensor and (versions[0] == versions[1] or -1 in versions)


def assert_equal(snapshots: Iterable[tuple[Snapshot, Tensor | None]], message: str) -> None:
    """Refuse tensors that do not hold what their snapshots do, as soon as the host waits for values.

    Args:
        snapshots: each with the tensor in question; None for a field that is not there.
        message: of the error.

    Raises:
        RuntimeError: one does not.
    """
    pairs = [(seen.values, given) for seen, given in snapshots if seen.values is not None and given is not None]
    fits = [torch.eq(values, given.reshape(values.shape)).all() for values, given in pairs]
    torch._assert_async(torch.stack(fits).all(), message)


def can_look_at(tensor: Tensor) -> bool:
    """Whether the values of ``tensor`` may decide what runs: the host has them, and PyTorch records no program."""
    return tensor.device.type == "cpu" and not is_watched()


def version(tensor: Tensor | None) -> int:
    """How often ``tensor`` has been written to, where PyTorch counts that; -1 in code that is compiled."""
    if torch.compiler.is_compiling():
        return -1
    return 0 if tensor is None or tensor.is_inference() else tensor._version
