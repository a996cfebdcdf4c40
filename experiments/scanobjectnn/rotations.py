"""Rotations by which objects are turned: about the vertical, or any."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

Rotations = Literal["none", "z", "so3"]


def draw_rotation(rotations: Rotations, rng: np.random.Generator) -> np.ndarray:
    """A rotation, uniformly distributed, ``[3, 3]``.

    Args:
        rotations: ``'none'``, about ``'z'``, or any, ``'so3'``.
        rng: draws it.
    """
    if rotations == "so3":
        return Rotation.from_quat(rng.normal(size=4)).as_matrix()
    angle = rng.uniform(0, 2 * np.pi) if rotations == "z" else 0.0
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
