"""The configuration of the chirality experiment, and its presets."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from utils import config
from utils.config import MOST, RULES, Count, File, Folder, Free, Positive


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    """An SE(3)-Transformer."""

    num_layers: Count = 3
    """attention layers"""
    num_degrees: Count = 2
    """degrees 0 to NUM_DEGREES - 1; 1: distances alone"""
    num_channels: Annotated[int, Field(ge=2, le=MOST)] = 16
    """channels per degree"""
    div: Positive = 2
    """what channels are divided by for keys and values"""
    head: Count = 4
    """attention heads"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Data:
    """Molecules with stereocentres, and their mirror images."""

    molecules: File | None = None
    """an .npz with N, Z, R and maybe validation (None: molecules that RDKit puts into space)"""
    num_molecules: Count | None = None
    """how many to look at (None: all)"""
    conformers: Count = 8
    """of each molecule that RDKit puts into space"""
    data: Free[Folder] = "data/chirality"
    """where labels are kept"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Config(config.Config, Data, Model):
    """All there is to say of a run."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        idle = {"cuda_graphs": "here: batches differ in their number of stereocentres"}
        return idle if self.molecules is None else {**idle, "conformers": "with --molecules"}


QUICK = Config(num_epochs=20, lr=5e-3, warmup=20, clip_norm=1.0, ema=0.98, save_dir="runs/chirality")
PRESETS = {
    "quick": QUICK,
    "distances": replace(QUICK, num_degrees=1),  # all that it knows of space
}
