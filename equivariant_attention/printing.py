"""Modules that are printed on one line: those of a layer's many small networks would fill screens."""

from __future__ import annotations

from torch import nn


class OneLine(nn.Module):
    """A module that is printed on one line: its ``extra_repr``, and how many parameters it has.

    Its parts can still be listed by ``named_modules``.
    """

    def __repr__(self) -> str:
        count = sum(parameter.numel() for parameter in self.parameters())
        return f"{self._get_name()}({', '.join(filter(None, [self.extra_repr(), f'parameters={count:,}']))})"
