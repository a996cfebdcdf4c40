"""How good predictions are beside simple baselines, and whether they turn with the molecule."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from equivariant_attention.graphs import as_graph
from equivariant_attention.plan import Plan
from equivariant_attention.so3 import symmetric_tensor_to_features
from equivariant_attention.testing import equivariance_error
from experiments.qm9.data import Batch, MoleculeDataset
from experiments.qm9.molecules import Molecules
from experiments.qm9.polarizability import isotropic_and_anisotropy, nearest
from experiments.qm9.scaling import Scaled, ScaledTogether, linear_in_atoms
from experiments.qm9.targets import TARGETS, names_of
from utils.files import atomic_write
from utils.history import Row
from utils.loaders import EpochLoader
from utils.plots import parity

FEW = 32  # molecules whose equivariance is measured
PARTS = {"mae_norm": "of the length", "mae_isotropic": "isotropic part", "mae_anisotropy": "anisotropy"}
COLUMNS = {  # what a table has of one target, and where it is among a model's numbers
    "number": {"": 0},
    "vector": {" x": 0, " y": 1, " z": 2},
    "tensor": {" xx": 0, " xy": 1, " xz": 2, " yy": 4, " yz": 5, " zz": 8},
}
BASELINES = {"mean": "predicting the mean", "linear": "linear in the atoms"}  # what they are called where printed


def batch_loss(model: Scaled, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Mean absolute error, of vectors the length of the error.

    Args:
        model: gives predictions in the unit of the target.
        batch: from :func:`experiments.qm9.data.collate`.

    Returns:
        the error in that unit as ``'mae'`` and, in standard deviations of the training set, as ``'loss'``; and the
        number of molecules.
    """
    G, plan, target = batch
    predicted = model(G, plan=plan)[: len(target)]  # graphs of padding come last, see experiments.qm9.data.pad
    error = (predicted - target).norm(dim=1).mean()
    return {"loss": error / model.std, "mae": error}, len(target)


def loss_together(
    model: Scaled, batch: Batch, *, tasks: Sequence[str], weights: Sequence[float]
) -> tuple[dict[str, Tensor], int]:
    """Mean absolute errors of several targets, or of one.

    Args:
        model: gives predictions in the units of the targets.
        batch: from :func:`experiments.qm9.data.collate`.
        tasks: names of the targets.
        weights: of these.

    Returns:
        their errors in these units, of the first as ``'mae'``, of others as ``'mae_lumo'`` and the like, and as
        ``'loss'`` the weighted mean of all in standard deviations of what there is to learn; and the number of
        molecules.
    """
    G, plan, target = batch
    errors = (model(G, plan=plan)[: len(target)] - target).abs().mean(dim=0)
    of_others = {f"mae_{task}": error for task, error in zip(tasks[1:], errors[1:], strict=True)}
    shares = errors.new_tensor(weights) / sum(weights)
    return {"loss": (shares * errors / model.std).sum(), "mae": errors[0], **of_others}, len(target)


def loss_of_tensors(model: Scaled, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Errors of tensors, from the nearest of those that a molecule may have.

    Args:
        model: gives predictions in the unit of the target.
        batch: from :func:`experiments.qm9.data.collate`.

    Returns:
        in that unit the norm of the error as ``'mae'``, and the errors of the isotropic part and of the anisotropy as
        ``'mae_isotropic'`` and ``'mae_anisotropy'``; as ``'loss'`` the norms of the isotropic and of the traceless part
        of the error, in standard deviations of the training set: in one norm the larger would hide the smaller; and the
        number of molecules.
    """
    G, plan, possible = batch
    predicted = model(G, plan=plan)[: len(possible)]
    true = nearest(predicted, possible)
    isotropic, anisotropy = isotropic_and_anisotropy(predicted - true)
    parts = 3**0.5 * isotropic.abs() + (2 / 3) ** 0.5 * anisotropy
    errors = {"mae": (predicted - true).norm(dim=1), **_errors_of_parts(predicted, true)}
    return {"loss": (parts / model.std).mean(), **{name: error.mean() for name, error in errors.items()}}, len(possible)


def _errors_of_parts(predicted: Tensor, true: Tensor) -> dict[str, Tensor]:
    """How far apart isotropic parts and anisotropies are, each ``[molecules]``."""
    pairs = zip(isotropic_and_anisotropy(predicted), isotropic_and_anisotropy(true), strict=True)
    return {f"mae_{part}": (a - b).abs() for part, (a, b) in zip(("isotropic", "anisotropy"), pairs, strict=True)}


@dataclass(frozen=True)
class Predictions:
    """What a model says of molecules, in the units of its targets.

    Args:
        task: name of the target, or of several.
        names: of the molecules.
        true: ``[molecules, targets]`` or, of a vector, ``[molecules, 3]``; of a tensor the nearest of those that it may
            be, row by row, ``[molecules, 9]``; NaN where unknown.
        predicted: the same of the model.
        baselines: what predictions are compared to, by its name in ``BASELINES``, each like ``predicted``.
        possible: of tensors those that each may be, ``[molecules, 4, 3, 3]``.
    """

    task: str
    names: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    baselines: Mapping[str, np.ndarray] = field(default_factory=dict)
    possible: np.ndarray | None = None

    def with_others(self, others: Sequence[Predictions]) -> Predictions:
        """The mean of what several models say.

        Args:
            others: of the same molecules and targets.
        """
        predicted = np.mean([one.predicted for one in (self, *others)], axis=0)
        true = self.true if self.possible is None else _nearest(predicted, self.possible)
        return replace(self, predicted=predicted, true=true)

    @property
    def each(self) -> list[Predictions]:
        """Those of each target by itself."""
        tasks = names_of(self.task)
        if len(tasks) == 1:
            return [self]
        alone = []
        for number, task in enumerate(tasks):
            baselines = {name: values[:, [number]] for name, values in self.baselines.items()}
            alone.append(Predictions(task, self.names, self.true[:, [number]], self.predicted[:, [number]], baselines))
        return alone

    @property
    def unit(self) -> str:
        """The unit of reports, of several targets those with commas between them."""
        return ",".join(TARGETS[name].report_unit for name in names_of(self.task))

    @property
    def metrics(self) -> Row:
        """Errors in the unit of reports: mean absolute, root mean square, mean absolute of the baselines.

        Of vectors and tensors the norms of the errors count; ``'mae_norm'`` is the error of a vector's length,
        ``'mae_isotropic'`` and ``'mae_anisotropy'`` are those of a tensor's parts. Of several targets the errors are of
        the first, and ``'mae_lumo'`` and the like of others.
        """
        first, *others = self.each
        if others:
            return first.metrics | {f"mae_{one.task}": one.metrics["mae"] for one in others}
        factor = TARGETS[self.task].report_factor
        error = factor * np.linalg.norm(self.predicted - self.true, axis=1)
        row = {"mae": error.mean(), "rmse": np.sqrt(np.square(error).mean())}
        for name, values in self.baselines.items():
            row[f"mae_of_{name}"] = factor * np.linalg.norm(values - self.true, axis=1).mean()
        if TARGETS[self.task].kind == "vector":
            true, predicted = (np.linalg.norm(v, axis=1) for v in (self.true, self.predicted))
            row["mae_norm"] = factor * np.abs(predicted - true).mean()
        if TARGETS[self.task].kind == "tensor":
            errors = _errors_of_parts(torch.from_numpy(self.predicted), torch.from_numpy(self.true))
            row |= {name: factor * error.mean() for name, error in errors.items()}
        return {"molecules": len(error), **{name: float(value) for name, value in row.items()}}

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """What a table has of them, each ``[molecules]``: predicted numbers, and the true ones where all are known."""
        first, *others = self.each
        if others:
            return first.columns | {name: values for one in others for name, values in one.columns.items()}
        target = TARGETS[self.task]
        values = {"predicted": self.predicted, **({} if np.isnan(self.true).any() else {"true": self.true})}
        return {
            f"{kind} {self.task}{name} ({target.unit})": array[:, column]
            for kind, array in values.items()
            for name, column in COLUMNS[target.kind].items()
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw predicted against true values of one target.

        Args:
            path: PNG file to write.
        """
        parity(self.true.ravel(), self.predicted.ravel(), f"{self.task} ({TARGETS[self.task].unit})", path)

    def table(self) -> str:
        """The metrics as lines of text."""
        if len(self.each) > 1:
            return _side_by_side(self.each)
        target, metrics = TARGETS[self.task], self.metrics
        lines = [f"mean absolute error   {metrics['mae']:.4g} {target.report_unit}  ({self.task})"]
        for name, part in PARTS.items():
            if name in metrics:
                lines.append(f"  {part:20}{metrics[name]:.4g} {target.report_unit}")
        lines.append(f"root mean square      {metrics['rmse']:.4g} {target.report_unit}")
        for name in self.baselines:
            error, ratio = metrics[f"mae_of_{name}"], metrics[f"mae_of_{name}"] / metrics["mae"]
            lines.append(f"{BASELINES[name]:22}{error:.4g} {target.report_unit}, {ratio:.2f} times as much")
        return "\n".join(lines)


def _side_by_side(each: Sequence[Predictions]) -> str:
    """The metrics of several targets as lines of text."""
    columns = {"mean absolute error": "mae", "root mean square": "rmse", BASELINES["linear"]: "mae_of_linear"}
    lines = ["  ".join([" " * 18, *columns])]
    for one in each:
        metrics = one.metrics
        cells = (f"{metrics[name]:{len(title)}.4g}" for title, name in columns.items())
        lines.append("  ".join([f"{f'{one.task} ({one.unit})':18}", *cells]))
    return "\n".join(lines)


def predict(
    fabric: Fabric, model: Scaled, loader: EpochLoader, task: str, train: MoleculeDataset | None = None
) -> Predictions:
    """What a model predicts of all molecules of a dataset, in its order, and what it would without its network.

    Args:
        fabric: of the training.
        model: trained.
        loader: of a :class:`experiments.qm9.data.MoleculeDataset`, not shuffled.
        task: what it was trained for; of several targets, what the model knows without its network is their baseline.
        train: the training set, for a fit that is linear in the atoms; None for no such fit.
    """
    forward = as_trained(fabric, model)
    predicted = torch.cat([forward(*fabric.to_device((G, plan))).cpu() for G, plan, _ in loader]).double().numpy()
    dataset = loader.dataset
    counts = torch.from_numpy(dataset.molecules.element_counts).to(model.mean.device)
    without = model.without_network(counts).double().cpu().numpy()
    if isinstance(model, ScaledTogether):
        true, possible = dataset.targets, None
        if TARGETS[names_of(task)[0]].kind == "tensor":
            true, possible = _nearest(predicted, true), true
        return Predictions(task, dataset.molecules.names, true, predicted, {"linear": without}, possible)
    # Of vectors there is no mean but zero; of targets per atom, the mean per atom counts.
    baselines = {"mean": np.broadcast_to(without, predicted.shape)}
    if train is not None and TARGETS[task].kind == "number":
        baselines["linear"] = predicted_by_atoms(train.molecules, train.targets, dataset.molecules)
    return Predictions(task, dataset.molecules.names, dataset.targets, predicted, baselines)


def _nearest(predicted: np.ndarray, possible: np.ndarray) -> np.ndarray:
    return nearest(torch.from_numpy(predicted), torch.from_numpy(possible)).numpy()


def predicted_by_atoms(train: Molecules, targets: np.ndarray, molecules: Molecules) -> np.ndarray:
    """What :func:`~experiments.qm9.scaling.linear_in_atoms` predicts.

    Args:
        train: what they are fitted to.
        targets: of these, ``[molecules, 1]``.
        molecules: to predict.

    Returns:
        ``[molecules, 1]``.
    """
    fitted = linear_in_atoms(torch.from_numpy(train.element_counts), torch.from_numpy(targets)).numpy()
    return fitted[0] + molecules.element_counts @ fitted[1:]


def as_trained(fabric: Fabric, model: nn.Module) -> Callable[..., Tensor]:
    """A model as a function of G, and its plan if it is at hand, in the precision of the training, without gradients.

    Args:
        fabric: of the training.
        model: what was trained.
    """

    def forward(G: Any, plan: Plan | None = None) -> Tensor:
        with torch.no_grad(), fabric.autocast():
            return model(G, plan=plan).to(as_graph(G).edata["d"].dtype)

    return forward


def relative_equivariance_error(fabric: Fabric, model: Scaled, loader: EpochLoader, task: str) -> Row:
    """The errors of :func:`equivariance_error` on the first molecules, in the precision of the training.

    They are those of the network: a large mean of the target, added to its output, would hide them in its rounding.

    Args:
        fabric: of the training.
        model: trained.
        loader: of the molecules.
        task: what it was trained for.
    """
    G, _, _ = loader.first(FEW)
    kind = TARGETS[names_of(task)[0]].kind
    network = as_trained(fabric, model.net)

    def by_degrees(G: Any) -> dict[str, Tensor]:
        return symmetric_tensor_to_features(network(G).unflatten(1, (3, 3)))

    function = by_degrees if kind == "tensor" else network
    return equivariance_error(function, fabric.to_device(G), output_degree=int(kind == "vector"), output_on="graphs")


def write_csv(path: str | os.PathLike[str], *predictions: Predictions) -> None:
    """Write a row per molecule, in the units of the targets.

    Args:
        path: file to write.
        predictions: of the same molecules, each of another target.
    """
    columns = {name: values for one in predictions for name, values in one.columns.items()}
    with atomic_write(path, "w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", *columns])
        rows = np.stack([*columns.values()], axis=1).tolist()
        writer.writerows([name, *row] for name, row in zip(predictions[0].names, rows, strict=True))


def write(predictions: Predictions, folder: Path) -> None:
    """Write predictions.csv and the plot of predicted against true values, parity.png, or one for each target.

    Args:
        predictions: of molecules whose targets are known.
        folder: gets the files.
    """
    write_csv(folder / "predictions.csv", predictions)
    for one in predictions.each:
        one.draw(folder / ("parity.png" if one is predictions else f"parity_{one.task}.png"))
