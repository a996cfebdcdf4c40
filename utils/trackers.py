"""Optional live views of a run, beside its CSV files: TensorBoard and Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from lightning_fabric.loggers import TensorBoardLogger

from utils.cli import UsageError
from utils.history import Row


class Tracker(Protocol):
    """Where points of curves are sent: what of Fabric's loggers a training needs."""

    def log_metrics(self, metrics: Row, step: int) -> None: ...

    def finalize(self, status: str) -> None: ...


def tensorboard(folder: Path, step: int) -> Tracker:
    """Event files in FOLDER/tensorboard.

    Args:
        folder: of the run.
        step: steps done before; points of later ones, from before an interruption, are hidden.

    Raises:
        UsageError: tensorboard is not installed.
    """
    try:
        return TensorBoardLogger(folder, name="", version="tensorboard", purge_step=step + 1)
    except ModuleNotFoundError as error:
        raise UsageError("--tensorboard: needs `pip install tensorboard`") from error


class WandB:
    """A run at Weights & Biases, of the folder's name; a resumed run goes on there too.

    Args:
        folder: of the run.
        config: of the run, with its ``'id'``.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError("--wandb: needs `pip install wandb`") from error
        self._run = wandb.init(
            project="equivariant-attention",
            id=config["id"],
            resume="allow",
            name=folder.name,
            dir=str(folder),
            config=config,
        )

    def log_metrics(self, metrics: Row, step: int) -> None:
        """Add a point to the curve of every value.

        Args:
            metrics: numbers by name.
            step: training steps done.
        """
        self._run.log(metrics, step=step)

    def finalize(self, status: str) -> None:
        """End the run there.

        Args:
            status: how it ended, which Weights & Biases finds out by itself.
        """
        self._run.finish()
