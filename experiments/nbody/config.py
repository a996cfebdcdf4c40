"""The configuration of the n-body experiment, and its presets."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from utils import config
from utils.config import MOST, RULES, Count, CountOrZero, File, Folder, Free, Positive


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    """What predicts."""

    model: Literal["SE3Transformer", "TFN", "SE3Integrator"] = "SE3Transformer"
    num_layers: Count = 2
    """layers (SE3Transformer: in the middle)"""
    num_degrees: Count = 3
    """degrees 0 to NUM_DEGREES - 1 in the middle"""
    num_channels: Count = 8
    """channels per degree"""
    div: Positive = 2
    """what channels are divided by for keys and values (SE3Transformer)"""
    head: Count = 2
    """attention heads (SE3Transformer)"""
    simid: Literal["1x1", "att"] = "1x1"
    """self-interaction of the middle layers (SE3Transformer)"""
    siend: Literal["1x1", "att"] = "att"
    """self-interaction of the last layer (SE3Transformer)"""
    xij: Literal["add", "cat", "none"] = "add"
    """what becomes of relative positions (SE3Transformer)"""
    num_steps: Count = 4
    """steps to the horizon, each with layers of its own (SE3Integrator)"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Data:
    """Trajectories, simulated or of files, and what of them is predicted."""

    ri_data_type: Literal["charged", "springs"] = "charged"
    """what is simulated"""
    n_balls: Annotated[int, Field(ge=2, le=MOST)] = 5
    """particles of a simulated system"""
    walls: bool = True
    """simulate in a box"""
    stream: Literal["own", "egnn"] = "own"
    """random numbers of the simulation: own, or those of EGNN's data"""
    data_seed: CountOrZero | None = None
    """seed of the simulation (None: as --seed)"""
    num_train: Count = 2000
    """simulated trajectories to train on"""
    num_valid: Count = 300
    """simulated trajectories that choose the best weights"""
    num_test: Count = 500
    """simulated trajectories to test on"""
    ri_delta_t: Count = 5
    """frames between input and target"""
    ri_burn_in: CountOrZero = 0
    """frames at the beginning never to start from"""
    ri_start_at: Literal["zero", "all"] = "all"
    """start from the first frame, or from any"""
    sample_freq: Count | None = None
    """simulation steps between frames (None: 100, or what the files say)"""
    targets: Literal["both", "positions"] = "both"
    """learn positions and velocities, or positions alone"""
    mirror: bool = False
    """train on mirror images as well"""
    ri_data: Folder | None = None
    """read ds_{train,valid,test}_NAME.pkl from there instead of simulating"""
    data_str: Annotated[str, "NAME"] | None = None
    """of these files (None: as in charged5)"""
    data: Free[Folder] = "data/nbody"
    """where simulated data are kept"""
    evaluate: Free[File | None] = None
    """also evaluate on the trajectories in this .npz or .pkl (none: no longer)"""
    evaluate_delta_t: Free[Count] = 1
    """frames of that file between input and target"""
    evaluate_sample_freq: Free[Count | None] = None
    """simulation steps between its frames (None: what it says)"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Config(config.Config, Data, Model):
    """All there is to say of a run."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        idle = {}
        if self.ri_data is None:
            idle["data_str"] = "without --ri_data"
        else:
            simulated = ("walls", "stream", "data_seed", "num_train", "num_valid", "num_test", "data")
            idle |= dict.fromkeys(simulated, "with --ri_data")
            if self.data_str is not None:  # else these two are in the names of the files
                idle |= dict.fromkeys(("ri_data_type", "n_balls"), "with --data_str")
        if self.model != "SE3Transformer":
            idle |= dict.fromkeys(("div", "head", "simid", "siend", "xij"), f"with --model {self.model}")
        if self.model != "SE3Integrator":
            idle["num_steps"] = f"with --model {self.model}"
        if self.evaluate is None:
            idle |= dict.fromkeys(("evaluate_delta_t", "evaluate_sample_freq"), "without --evaluate")
        return idle


QUICK = Config(num_epochs=30, batch_size=64, lr=3e-3, clip_norm=1.0, save_dir="runs/nbody")
PAPER = replace(
    QUICK,
    num_layers=4, num_degrees=4, num_channels=8, div=4, head=2,
    num_epochs=300, batch_size=128, lr=1e-3, clip_norm=None,
    num_train=3000, num_valid=2000, num_test=2000,
    ri_delta_t=10, ri_start_at="zero",
)  # fmt: skip
INTEGRATOR = replace(  # the task of "paper", another model
    PAPER,
    model="SE3Integrator", num_layers=1, num_degrees=2, num_channels=32, num_steps=4,
    num_epochs=30, batch_size=50, lr=5e-3, warmup=100, clip_norm=1.0, weight_decay=0.01, ema=0.99,
    mirror=True, data_seed=42,
)  # fmt: skip
EGNN = replace(  # the variant of EGNN (arXiv 2102.09844): frames 30 to 40 of a simulation without walls
    INTEGRATOR,
    num_channels=16, num_steps=8, num_epochs=25, lr=7e-3,
    walls=False, stream="egnn", data_seed=43, ri_burn_in=30, targets="positions",
)  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "paper": PAPER,  # 1000 steps of the simulation, as the published command and Table 1's figures say
    "paper-500": replace(PAPER, ri_delta_t=5),  # 500 steps, as the paper's text says
    "integrator": INTEGRATOR,
    "egnn": EGNN,
}
