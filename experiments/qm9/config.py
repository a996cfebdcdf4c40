"""The configuration of QM9's programs, and its presets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from experiments.qm9.targets import TARGETS, check_task, check_weights, names_of
from utils import config
from utils.config import RULES, Count, CountOrZero, File, Folder, Free, Positive


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    """What predicts, and of which edges."""

    # What other modules have by these names imports PyTorch, which a help page need not wait for.
    model: Literal["SE3Transformer", "TFN", "SE3TransformerPooled"] = "SE3Transformer"
    num_layers: Count = 7
    """layers in the middle"""
    num_degrees: Count = 4
    """degrees 0 to NUM_DEGREES - 1 in the middle"""
    num_channels: Count = 32
    """channels per degree"""
    nonlinearity: Literal["norm", "gate"] = "norm"
    """between layers: as published, or smooth"""
    num_nlayers: CountOrZero = 0
    """linear layers in each norm nonlinearity (TFN)"""
    div: Positive = 2
    """what channels are divided by for keys and values (not TFN)"""
    head: Count = 8
    """attention heads (not TFN)"""
    pooling: Literal["avg", "max"] = "max"
    """over the atoms (not TFN, which takes the largest)"""
    per_atom: bool = False
    """predict N times what is pooled, for targets that grow with N"""
    readouts: Literal["shared", "own"] = "shared"
    """of numbers: one small network after the pooling for all, or sums over the atoms for targets that grow with N, the
    length of a vector for mu, and that network for the others (SE3Transformer)"""
    fully_connected: bool = False
    """edges between all atoms, not the bonded ones alone"""
    cutoff: Positive | None = None
    """edges between atoms within so many Å instead"""
    envelope: Count | None = None
    """let these end smoothly: the p of DimeNet's envelope (None: they just end)"""
    edge_features: Literal["published", "extended"] = "published"
    """what radial networks see of an edge besides its length: the type of the bond, or also the two elements and
    Gaussians of the length; --restore takes weights of the first for the second"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Source:
    """Where molecules come from."""

    source: Literal["auto", "embedded", "qm9pack", "download", "published", "arrays"] = "qm9pack"
    """the project's own few molecules; QM9, of the package qm9pack, or downloaded to a folder; the published
    QM9_data.pt; an .npz of ragged arrays (auto, also where DATA_ADDRESS alone is given: what that looks like; a
    folder has QM9 already)"""
    data_address: Annotated[str, "PATH"] | None = "data/qm9"
    """of that file or folder (None: embedded)"""
    cache: Free[Folder] = "data/qm9/bonds"
    """where qm9pack, once read, and bonds perceived of arrays are kept"""
    test_ids: File | None = None
    """an .npz of numbers in QM9, whose molecules alone are the test split (None: that of SOURCE)"""

    def resolved_source(self) -> str:
        """What ``source`` means, where it is 'auto' by what the address looks like."""
        if self.source != "auto":
            return self.source
        if self.data_address is None:
            return "embedded"
        return {".pt": "published", ".npz": "arrays"}.get(Path(self.data_address).suffix, "download")


@dataclass(frozen=True, kw_only=True, config=RULES)
class Data:
    """What is predicted, and of how many molecules it is learnt."""

    task: Annotated[str, AfterValidator(check_task), f"{{{','.join(TARGETS)}}},..."] = "homo"
    """what is predicted; several numbers, with commas between them, are learnt together: 'mae' then is the error of the
    first, the mean of all in standard deviations chooses the epoch, and --restore takes all but the last small network
    of weights of one target"""
    task_weights: Annotated[str, AfterValidator(check_weights), "W,..."] | None = None
    """how much each of several targets counts in what is minimised (None: all alike)"""
    num_train: Count | None = None
    """molecules to train on, drawn once for all (None: all)"""
    num_valid: CountOrZero | None = None
    """molecules that choose the best weights, drawn likewise (None: all; 0: the last win)"""
    num_test: Free[CountOrZero | None] = None
    """molecules of the test split, drawn likewise (None: all; 0: none, errors are those of the validation split)"""
    epoch_size: Count | None = None
    """molecules between validations and checkpoints (None: all)"""
    rotate: bool = False
    """turn training molecules at random, of which models here learn nothing: they are equivariant"""
    mirror: bool = False
    """train on mirror images as well, which have the same energies, but another output of models of SO(3)"""


@dataclass(frozen=True, kw_only=True, config=RULES)
class Config(config.Config, Data, Source, Model):
    """All there is to say of a run."""

    recipe: str | None = None
    """how to train, in place of the preset's way"""

    @staticmethod
    def before() -> dict[str, Any]:
        """Flags that runs of earlier versions lack, and what was done without them."""
        own = {"edge_features": "published", "readouts": "shared", "task_weights": None}
        return {**config.Config.before(), **own}

    @staticmethod
    def implied(given: dict[str, Any]) -> dict[str, Any]:
        """What flags say of others that are not given: an address alone tells the source.

        Args:
            given: flags on the command line.
        """
        return {"source": "auto"} if "data_address" in given and "source" not in given else {}

    @property
    def tasks(self) -> tuple[str, ...]:
        """The targets that are predicted."""
        return names_of(self.task)

    @property
    def has_own_readouts(self) -> bool:
        """Whether each target is read out as what it is."""
        return self.readouts == "own" and "readouts" not in self.idle()

    def idle(self) -> dict[str, str]:
        """The fields that have no effect, and why."""
        idle = {}
        first = TARGETS[self.tasks[0]]
        if first.kind != "number" or self.model != "SE3Transformer":
            idle["readouts"] = "unless --task names numbers, of --model SE3Transformer"
        if len(self.tasks) == 1:
            idle["task_weights"] = "unless --task names several targets"
        if self.model == "TFN":
            idle |= dict.fromkeys(("div", "head", "pooling"), "with --model TFN")
        else:
            idle["num_nlayers"] = f"with --model {self.model}"
        if self.nonlinearity == "gate":
            idle["num_nlayers"] = "with --nonlinearity gate"
        own = self.readouts == "own" and "readouts" not in idle
        if first.kind != "number":
            idle["pooling"] = f"with --task {self.task}"
        of_kind = "several targets" if len(self.tasks) > 1 else "--readouts own" if own else ""
        if of_kind and self.model == "SE3Transformer":
            idle["pooling"] = f"with {of_kind}, for which there is the maximum beside the sum"
        if of_kind or first.kind == "tensor":
            linear = "of which the part that is linear in the atoms is known"
            idle["per_atom"] = f"with {of_kind or f'--task {self.task}'}, {linear}"
        elif not first.grows:
            idle["per_atom"] = f"with --task {self.task}, which does not grow with the molecule"
        source = self.resolved_source()
        if source in ("embedded", "qm9pack"):
            idle["data_address"] = f"with --source {source}"
        if source not in ("arrays", "qm9pack"):
            idle["cache"] = "unless bonds are perceived, with --source arrays or qm9pack"
        return idle


PAPER = Config(num_epochs=100, batch_size=32, save_dir="runs/qm9", log_interval=25, print_interval=25)
MODERN = {"ema": 0.999, "warmup": 500, "clip_norm": 1.0, "weight_decay": 1e-5}
MODERN_PAPER = replace(PAPER, **MODERN)
SMALL = replace(
    MODERN_PAPER,
    num_layers=4, num_degrees=3, num_channels=16, nonlinearity="gate",
    num_epochs=20, lr=2e-3, epoch_size=10_000, num_valid=2_000,
)  # fmt: skip
PRESETS = {
    "quick": replace(
        MODERN_PAPER,
        num_layers=3, num_degrees=3, num_channels=8, nonlinearity="gate", head=2, pooling="avg", per_atom=True,
        num_epochs=60, batch_size=16, lr=3e-3, ema=0.99, warmup=50,
        task="atomisation", source="auto", data_address=None,
    ),
    "small": SMALL,
    "homo": replace(  # nearly as many molecules as the paper's
        SMALL, num_epochs=900, lr_final=0.02, mirror=True, optimizer="soap", edge_features="extended"
    ),
    "paper": PAPER,
    "nvidia": replace(PAPER, model="SE3TransformerPooled", batch_size=240, lr=2e-3, precision="bf16-mixed"),
}  # fmt: skip
RECIPES = {"paper": {name: getattr(PAPER, name) for name in MODERN}, "modern": MODERN}
