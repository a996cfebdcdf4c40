"""Plots every experiment has. Drawn without pyplot, so that no display and no global state is involved.

Matplotlib is imported here alone, since it leaves files where it is first imported.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils.files import atomic_write
from utils.history import Row

# Matplotlib keeps a list of fonts among the user's files. Where it has none there, it gets a place for this process.
_caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
if "MPLCONFIGDIR" not in os.environ and not (_caches / "matplotlib").exists():
    _folder = tempfile.TemporaryDirectory(prefix="matplotlib-")
    os.environ["MPLCONFIGDIR"] = _folder.name

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from mpl_toolkits.mplot3d.art3d import Line3DCollection  # noqa: E402

__all__ = ["Figure", "FigureCanvasAgg", "Line3DCollection", "learning_curves", "parity", "save_figure"]


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, atomically.

    Args:
        figure: what to write.
        path: PNG file to write.
    """
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=120, bbox_inches="tight")


def learning_curves(
    rows: Sequence[Row],
    names: Sequence[str],
    path: str | os.PathLike[str],
    references: dict[str, Row] | None = None,
    *,
    over: str = "epoch",
    per_epoch: float = 1,
) -> None:
    """Draw metrics over the epochs, or what grows with them, for training and validation, one panel each.

    Args:
        rows: of metrics.csv, with ``'epoch'``, ``'train_NAME'`` and, where there was validation, ``'valid_NAME'``.
        names: metrics to draw, all above zero.
        path: PNG file to write.
        references: values of the metrics to draw as horizontal lines, by their label.
        over: what the metrics are drawn over.
        per_epoch: how much of that an epoch is.
    """
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    x = [per_epoch * row["epoch"] for row in rows]
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), number, title=name, xlabel=over, yscale="log")
        for split in ("train", "valid"):
            if f"{split}_{name}" in rows[0]:
                axes.plot(x, [row[f"{split}_{name}"] for row in rows], label=split)
        labels: dict[float, list[str]] = {}
        for label, values in (references or {}).items():
            labels.setdefault(values[name], []).append(label)
        for value, of_value in labels.items():
            axes.axhline(value, linestyle="--", color="grey")
            axes.annotate(", ".join(of_value), (x[0], value), fontsize="small", va="bottom")
        axes.legend()
    save_figure(figure, path)


def parity(true: np.ndarray, predicted: np.ndarray, label: str, path: str | os.PathLike[str]) -> None:
    """Draw predicted against true values, with the line on which they are equal.

    Args:
        true, predicted: ``[n]``.
        label: what they are, with the unit.
        path: PNG file to write.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel=f"true {label}", ylabel=f"predicted {label}", aspect="equal")
    axes.axline((true[0], true[0]), slope=1, color="grey", linewidth=1)
    axes.scatter(true, predicted, s=4, alpha=0.5, linewidths=0)
    save_figure(figure, path)
