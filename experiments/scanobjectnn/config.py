"""The configuration of the experiment on scanned objects, and its presets."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from utils import config
from utils.config import MOST, RULES, Count, Folder, Positive


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    """What tells the class."""

    model: Literal["SE3Transformer", "TFN", "PointNet", "HeightSet"] = "SE3Transformer"
    """two equivariant ones; one that sees coordinates; one that sees heights alone"""
    height: bool = True
    """tell an equivariant one heights ('+z'): then it is equivariant to rotations about z alone"""
    num_layers: Count = 2
    """attention layers, convolutions, or linear layers for each point"""
    num_degrees: Count = 2
    """degrees 0 to NUM_DEGREES - 1"""
    num_channels: Annotated[int, Field(ge=2, le=MOST)] = 8
    """channels per degree, or width"""
    div: Positive = 2
    """what channels are divided by for keys and values"""
    head: Count = 2
    """attention heads"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Data:
    """Scanned objects."""

    data: Folder | None = None
    """a split of ScanObjectNN, such as main_split_nobg (None: scans of solids, made on the spot)"""
    up: Literal["x", "y", "z"] = "y"
    """which axis of its files points up"""
    background: bool = True
    """keep points that are marked as floor and wall"""
    num_train: Count = 1200
    """scans made for training"""
    num_valid: Count = 240
    """for validation; of ScanObjectNN, drawn from the training file"""
    num_test: Count = 600
    """for the test"""
    num_points: Annotated[int, Field(ge=2, le=MOST)] = 128
    """points of a scan, drawn anew in each epoch"""
    neighbors: Count = 10
    """edges to each point, from the nearest"""
    rotations: Literal["none", "z", "so3"] = "none"
    """by which objects are turned in training and validation, anew in each epoch"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Config(config.Config, Data, Model):
    """All there is to say of a run."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        if self.data is None:
            idle = {"up": "without --data"}
        else:
            idle = dict.fromkeys(("num_train", "num_test"), "with --data")
        if self.model != "SE3Transformer":
            idle |= dict.fromkeys(("div", "head"), f"with --model {self.model}")
        if self.model in ("PointNet", "HeightSet"):
            idle |= dict.fromkeys(("height", "num_degrees"), f"with --model {self.model}")
        return idle


QUICK = Config(num_epochs=15, batch_size=32, lr=5e-3, warmup=20, clip_norm=1.0, ema=0.98, save_dir="runs/scanobjectnn")
PRESETS = {
    "quick": QUICK,
    # Layers, points and the size of a batch are the paper's; it does not say all the rest where we could read it.
    "paper": replace(
        QUICK, num_layers=4, num_degrees=4, num_channels=8, neighbors=40, num_train=2000, num_valid=300,
        num_epochs=300, batch_size=10, lr=1e-3, ema=0.999,
    ),
}  # fmt: skip
