"""Optional live views of a run, beside its CSV files: TensorBoard and Weights & Biases."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from utils.cli import UsageError
from utils.history import Row


class Tracker(Protocol):
    """Where points of curves are sent."""

    def log(self, values: Row, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in FOLDER/tensorboard.

    Args:
        folder: of the run.
        first_step: points of later steps, from before an interruption, are hidden.

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("--tensorboard: needs `pip install tensorboard`") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(self, values: Row, step: int) -> None:
        """Add a point to the curve of every value.

        Args:
            values: numbers by name.
            step: training steps done.
        """
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not yet written."""
        self._writer.close()


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

    def log(self, values: Row, step: int) -> None:
        """Add a point to the curve of every value.

        Args:
            values: numbers by name.
            step: training steps done.
        """
        self._run.log(values, step=step)

    def close(self) -> None:
        """End the run there."""
        self._run.finish()
