"""The configuration of the toy protein optimisation, and its presets."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import AliasChoices, Field
from pydantic.dataclasses import dataclass

from utils import config
from utils.config import MOST, RULES, Count, Free, Positive

AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    """What moves the points."""

    model: Literal["SE3TransformerIterative", "SE3TransformerRelaxation"] = "SE3TransformerIterative"
    """as published (with --num_iter 1, an SE(3)-Transformer of one pass), or one that sees the force on each point"""
    num_layers: Count = 1
    """attention layers in each block"""
    num_degrees: AtLeastTwo = 2
    """degrees 0 to NUM_DEGREES - 1"""
    num_channels: Count = 4
    """channels per degree"""
    num_iter: Count = 3
    """blocks: how often the points move"""
    div: Positive = 2
    """what channels are divided by for keys and values"""
    head: Count = 1
    """attention heads"""
    simid: Literal["1x1", "att"] = "1x1"
    """self-interaction of the middle layers"""
    siend: Literal["1x1", "att"] = "att"
    """self-interaction of the last layer"""
    xij: Literal["add", "cat", "none"] = "add"
    """what becomes of relative positions"""
    basis_gradients: bool = True
    """let gradients flow through the equivariant basis"""
    k_neighbors: Count | None = None
    """edges of largest potential that a point attends to (None: all)"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Data:
    """Points that are joined by random springs."""

    n_points: AtLeastTwo = 10
    """points of a graph"""
    epoch_size: Annotated[Count, Field(validation_alias=AliasChoices("epoch_size", "epoch_length"))] = 2000
    """graphs in an epoch; every epoch has new ones"""
    num_valid: Count = 500
    """graphs that choose the best weights, always the same"""
    num_test: Free[Count] = 1000
    """graphs to test on, always the same"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Loss:
    """What is minimised, beside the mean energy after the last step."""

    step_loss: Positive | None = None
    """weight of the mean energy after the steps before (None: it does not count)"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Evaluation:
    """What the model is compared with, and what is recorded of it."""

    gd_stepsize: Free[Positive] = 0.02
    """step size of gradient descent"""
    gd_tolerance: Free[Positive] = 0.01
    """it ends when no point goes as far as this times the step size"""
    gd_post_process: Free[bool] = True
    """also let it go on from where the model ends"""
    num_runs: Free[Count] = 1
    """independent test sets to take means over"""
    log_steps: bool = True
    """record the gradients that flow into every step"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Config(config.Config, Evaluation, Loss, Data, Model):
    """All there is to say of a run."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        idle = {}
        if self.model == "SE3TransformerRelaxation":
            idle |= dict.fromkeys(("simid", "siend", "k_neighbors"), "with --model SE3TransformerRelaxation")
        if self.num_iter == 1:
            idle |= dict.fromkeys(("step_loss", "log_steps"), "with --num_iter 1")
        return idle


QUICK = Config(
    num_epochs=10, batch_size=32, lr=1e-2, warmup=20, clip_norm=1.0, seed=54, save_dir="runs/toy_optimisation"
)
ITERATIVE = replace(
    QUICK,
    num_layers=4, num_degrees=3,
    num_epochs=120, epoch_size=1000, batch_size=16, lr=2e-3, warmup=200, clip_norm=0.3,
    ema=0.99, seed=8, num_valid=200,
)  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "iterative": ITERATIVE,
    "no-basis-gradients": replace(ITERATIVE, basis_gradients=False),
    "single-pass": replace(ITERATIVE, num_iter=1),
    "relaxation": replace(
        ITERATIVE,
        model="SE3TransformerRelaxation", num_iter=10, num_layers=1, num_degrees=2, num_channels=16, head=4,
        num_epochs=100, lr=1.5e-3, lr_final=0.02, weight_decay=0.01, ema=0.995, step_loss=0.1,
    ),
    "published": replace(  # the published recipe: 500,000 graphs
        ITERATIVE,
        div=1, num_epochs=100, epoch_size=5000, batch_size=128, lr=1e-3, warmup=0, clip_norm=1.0, ema=None,
    ),
}  # fmt: skip
