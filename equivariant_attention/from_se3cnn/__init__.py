"""Names that programs import from the published ``from_se3cnn``, on top of :mod:`equivariant_attention.so3`."""

from __future__ import annotations

from . import SO3, utils_steerable

__all__ = ["SO3", "utils_steerable"]
