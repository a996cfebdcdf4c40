"""The configurations of the forces experiment, on clusters and on structures of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from utils import config
from utils.cli import UsageError
from utils.config import MOST, RULES, Count, CountOrZero, File, Free, Positive

OWN_DATA = """Trains a potential on structures with energies and forces, and ends with a file for ASE's calculator.

python experiments/forces/run.py --data my.extxyz                      a tenth of the structures choose the weights
python experiments/forces/run.py --data my.extxyz --valid other.extxyz --test third.extxyz --cutoff 6
python experiments/forces/run.py --resume FOLDER                       goes on with an interrupted run
"""

AtLeastTwo = Annotated[int, Field(ge=2, le=MOST)]

# Why flags have no effect.
MADE = "here: graphs are made of positions, by the library"
UNPADDED = "here: batches differ in their numbers of edges, and are not padded"


def check_precision(precision: str) -> None:
    """Refuse a precision that is too low for forces.

    Args:
        precision: of the run.

    Raises:
        UsageError: it is too low.
    """
    if precision not in ("32-true", "64-true"):
        raise UsageError(f"--precision: forces are derivatives, expected 32-true or 64-true, got {precision}")


@dataclass(frozen=True, kw_only=True, config=RULES)
class ClusterModel:
    """An SE(3)-Transformer of an energy."""

    num_layers: Count = 2
    """attention layers"""
    num_degrees: Count = 3
    """degrees 0 to NUM_DEGREES - 1"""
    num_channels: Count = 8
    """channels per degree"""
    div: Positive = 2
    """what channels are divided by for keys and values"""
    head: Count = 2
    """attention heads"""
    xij: Literal["add", "cat", "none"] = "none"
    """what becomes of relative positions"""
    cutoff: Positive = 2.5
    """how far edges reach; they end smoothly"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class ClusterData:
    """Morse clusters, and how one of them moves after the training."""

    data: File | None = None
    """train on these structures instead; --data FILE --help lists the flags for that"""
    atoms: AtLeastTwo = 8
    """atoms in a cluster"""
    num_train: Count = 768
    """clusters to train on"""
    num_valid: Count = 64
    """clusters that choose the best weights"""
    num_test: Count = 128
    """clusters to test on"""
    md_steps: Free[Count] = 500
    """steps of molecular dynamics after the training"""
    md_timestep: Free[Positive] = 0.5
    """of the dynamics, in femtoseconds"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class ClusterConfig(config.Config, ClusterData, ClusterModel):
    """All there is to say of a run on clusters."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        return {"graph": MADE, "cuda_graphs": UNPADDED}


def _channels(text: str) -> str:
    if not all(part.isascii() and part.isdecimal() and int(part) >= 2 for part in text.split(",")):
        raise ValueError(f"expected channels of degrees 0, 1, ..., such as 16,8,4, got {text}")
    return text


@dataclass(frozen=True, kw_only=True, config=RULES)
class FrameModel:
    """A potential of atomic densities, and of attention layers upon them where there are some."""

    channels: Annotated[str, AfterValidator(_channels)] = "16,8,8"
    """of degrees 0, 1, ..., between the layers"""
    num_layers: CountOrZero = 0
    """attention layers upon the densities; with some, several times slower"""
    div: Positive = 4
    """what channels are divided by for keys and values"""
    head: Count = 1
    """attention heads"""
    xij: Literal["add", "cat", "none"] = "none"
    """what becomes of relative positions"""
    cutoff: Positive = 5.0
    """how far edges reach, in Å; they end smoothly"""
    # What the library has by these names imports PyTorch, which a help page need not wait for.
    radial_basis: Literal["bessel", "gaussian"] = "bessel"
    """what radial networks see beside the distance"""
    num_radial: AtLeastTwo = 8
    """functions in it"""
    activation: Literal["relu", "silu"] = "relu"
    """of the radial networks (silu: smooth, and many times slower)"""
    nonlinearity: Literal["norm", "gate"] = "gate"
    """between the layers"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class FrameData:
    """Structures with energies and forces, of any format that ASE reads, such as extxyz."""

    data: File | None = None
    """to train on"""
    valid: File | None = None
    """that choose the best weights (None: a tenth of DATA, drawn)"""
    test: File | None = None
    """to test on (None: those of --valid, which then are no test)"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Loss:
    """Weights of the squared errors, in eV and Å."""

    energy_weight: Positive = 10.0
    """of energies, per atom"""
    forces_weight: Positive = 1.0
    """of forces, per coordinate"""
    stress_weight: Positive = 10.0
    """of stresses times the volume, per atom and component"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class FrameConfig(config.Config, Loss, FrameData, FrameModel):
    """All there is to say of a run on structures of one's own."""

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        idle = {"graph": MADE, "cuda_graphs": UNPADDED}
        if not self.num_layers:
            of_layers = ("div", "head", "xij", "activation", "nonlinearity")
            idle |= dict.fromkeys(of_layers, "unless --num_layers is at least 1")
        return idle


CLUSTERS = {"quick": ClusterConfig(num_epochs=8, batch_size=16, lr=5e-3, clip_norm=1.0, save_dir="runs/forces")}
FRAMES = {
    "frames": FrameConfig(
        num_epochs=100, batch_size=5, lr=2e-2, warmup=20, clip_norm=5.0, ema=0.99, save_dir="runs/forces"
    )
}


def has_own_data(words: Sequence[str]) -> bool:
    """Whether a command line is for structures of one's own: it names them, or a run that does.

    Args:
        words: of the command line.
    """
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name, _, given = word.partition("=")
        if name == "--data":
            return True
        if name == "--resume":
            from utils.files import read_json  # and PyTorch with it
            from utils.runs import CONFIG

            try:
                return read_json(Path(given or value) / CONFIG)["flags"].get("data") is not None
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                return False  # what is wrong with it, says whoever resumes it
    return False
