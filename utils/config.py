"""Configurations: dataclasses whose values are checked by their annotations, on a command line and in a file alike.

Fields are flags (:mod:`utils.flags`), and what is written under one is its help.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")
RULES = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True)
MOST = 2**31 - 1  # of any integer
MOST_WORKERS = 256  # a configuration may come from a file of another, and each is a process

Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
File = Annotated[str, "FILE"]  # as the help calls it
Folder = Annotated[str, "FOLDER"]

FREE = "may differ when a run is resumed: it changes how, how long or how visibly, but not what is trained"
Free = Annotated[T, FREE]


@dataclass(frozen=True, kw_only=True, config=RULES)
class Training:
    """How weights are found."""

    num_epochs: Free[Count] = 100
    """passes over the training data"""
    batch_size: Count = 64
    """samples in a batch (of each process, where torchrun starts several)"""
    optimizer: Literal["adamw", "soap"] = "adamw"
    """Adam, or Adam in the eigenbases of the covariances of gradients, which takes fewer but longer steps"""
    lr: Positive = 1e-3
    """learning rate at the start, from where it falls along a cosine"""
    lr_final: Fraction = 0.1
    """where it ends, as a fraction of the start"""
    warmup: CountOrZero = 0
    """steps before that in which the learning rate rises linearly"""
    beta2: Fraction = 0.999
    """decay per step of Adam's average of squared gradients"""
    clip_norm: Positive | None = None
    """largest norm of a gradient (None: any)"""
    weight_decay: Positive | None = None
    """decoupled decay of the weights, as in AdamW (None: none)"""
    ema: Fraction | None = None
    """evaluate and keep a moving average of the weights, with this decay (None: none)"""
    seed: CountOrZero = 42
    """of data, initial weights and batches"""
    restore: File | None = None
    """weights to start from: a checkpoint, published ones included"""
    cuda_graphs: Free[bool] = False
    """pad batches to few sizes, and let a GPU repeat captured steps by itself"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Machine:
    """What is computed on, and in which precision."""

    device: Free[str] = "auto"
    """auto, cpu, cuda or cuda:N"""
    graph: Literal["auto", "dgl", "own"] = "auto"
    """graph class (auto: DGL on a CPU where it is installed)"""
    precision: Literal["32-true", "tf32", "bf16-mixed", "64-true"] = "32-true"
    """of weights and activations"""
    num_workers: Free[Annotated[int, Field(ge=0, le=MOST_WORKERS)]] = 0
    """processes that prepare batches"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Run:
    """Where a run is written, and what is done in it."""

    preset: str = ""
    """where the defaults come from, see the end of this page"""
    name: str | None = None
    """of the run (None: the preset's)"""
    save_dir: Folder = "runs"
    """a run's folder is SAVE_DIR/NAME, or SAVE_DIR/NAME-2, ... if it exists"""
    output: Folder | None = None
    """the run's folder itself, without a run in it so far"""
    resume: Free[Folder | None] = None
    """go on with the run in this folder, with its own flags"""
    forward: Free[bool] = False
    """evaluate without training: the weights of --restore, or the best ones of --resume"""
    profile: Free[bool] = False
    """write a profile of a few training steps, then stop without training"""
    log_interval: Free[Count] = 10
    """steps between rows of steps.csv"""
    print_interval: Free[Count] = 5
    """steps between refreshings of the progress bar"""
    tensorboard: Free[bool] = False
    """also log to TensorBoard"""
    wandb: Free[bool] = False
    """also log to Weights & Biases"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Config(Run, Machine, Training):
    """What every experiment's configuration has; each adds what its data and its model are made of."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        return {}

    @staticmethod
    def before() -> dict[str, Any]:
        """Flags that runs of earlier versions lack, and what was done without them."""
        return {"cuda_graphs": False, "optimizer": "adamw"}

    @staticmethod
    def implied(given: dict[str, Any]) -> dict[str, Any]:
        """What flags say of others that are not given.

        Args:
            given: flags on the command line.
        """
        return {}


def none_or_text(text: str) -> str | None:
    """None for 'none', and any other text as it is.

    Args:
        text: of a field that has 'none' among its values.
    """
    return None if text == "none" else text
