"""Trained models, from their checkpoints or by their name, ready for molecules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from equivariant_attention.checkpoints import check_weights, load_weights, made_for
from experiments.qm9.config import Config, Model
from experiments.qm9.data import MoleculeDataset
from experiments.qm9.evaluation import FEW, Predictions, predict, relative_equivariance_error
from experiments.qm9.models import make_model, neighbours_of
from experiments.qm9.molecules import Molecules
from experiments.qm9.run import EXPERIMENT
from utils import checkpoints
from utils.cli import UsageError, blame
from utils.history import Row
from utils.loaders import EpochLoader
from utils.training import make_fabric

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Shipped(NamedTuple):
    """Weights of the project.

    Attributes:
        folder: in ``benchmarks/results``, whose card tells how good they are.
        elements: that they were trained on.
        files: with the weights; of several models the mean counts.
    """

    folder: str
    elements: frozenset[str]
    files: tuple[str, ...] = ("best.pt",)

    @property
    def checkpoints(self) -> list[str]:
        """The files with the weights."""
        return [str(RESULTS / self.folder / name) for name in self.files]


SHIPPED = {  # where two have a target, the better one first
    "qm9-homo": Shipped("qm9_homo", frozenset("HCNOF"), ("best.pt", "second.pt")),
    "qm9-dipole": Shipped("qm9_dipole", frozenset("HCNO")),
    "qm9-multitask": Shipped("qm9_multitask", frozenset("HCNOF")),
}


class Trained:
    """The model of a checkpoint, on its device and in its precision.

    Args:
        checkpoint: ``best.pt`` of a run.
        given: values of flags that take the place of those the model was trained with.

    Attributes:
        config: of the training, with what is given now.
        fabric: device and precision.
        model: the best weights, for evaluation.

    Raises:
        UsageError: the checkpoint is none of ``run.py``, or the device is not there.
    """

    def __init__(self, checkpoint: str, given: Mapping[str, Any]) -> None:
        with blame("--checkpoint"):
            content = checkpoints.load(checkpoint, checkpoints.WEIGHTS)
            self.config = replace(_config_of_training(content, checkpoint), **given)
        with blame("--device", device="--device"):
            self.fabric = make_fabric(self.config.device, self.config.precision)
        with blame("--checkpoint"):
            check_weights(content.get("model"), checkpoint)
            model = made_for(lambda: make_model(self.config), content["model"])
            load_weights(model, content["model"], checkpoint, ours=True)
        self.fabric.setup_module(model)  # in place: to the device, in the precision
        self.model = model.eval()

    def predict(self, molecules: Molecules) -> Predictions:
        """What the model says of molecules.

        Args:
            molecules: any, of which the target need not be known.
        """
        return predict(self.fabric, self.model, self._loader(molecules), self.config.task)

    def equivariance_error(self, molecules: Molecules) -> Row:
        """How far the first molecules are from turning as they should.

        Args:
            molecules: any.
        """
        few = molecules.take(np.arange(min(FEW, len(molecules))))
        return relative_equivariance_error(self.fabric, self.model, self._loader(few), self.config.task)

    def _loader(self, molecules: Molecules) -> EpochLoader:
        """Batches of molecules, in their order."""
        dataset = MoleculeDataset(molecules, self.config.task, neighbours_of(self.config))
        return EXPERIMENT.make_loader(self.config, self.fabric, dataset)


class Ensemble:
    r"""Several trained models of the same targets, of which the mean counts: their errors differ, and cancel in part.

    .. math:: y = \frac{1}{n} \sum_k y_k

    Args:
        members: at least one.

    Attributes:
        config: of the first.

    Raises:
        UsageError: they are of other targets.
    """

    def __init__(self, members: Sequence[Trained]) -> None:
        self.members, self.config = members, members[0].config
        if len(tasks := {member.config.task for member in members}) > 1:
            raise UsageError(f"--checkpoint: expected models of the same targets, got {' and '.join(sorted(tasks))}")

    def predict(self, molecules: Molecules) -> Predictions:
        """The mean of what the models say of molecules.

        Args:
            molecules: any, of which the targets need not be known.
        """
        first, *others = (member.predict(molecules) for member in self.members)
        return first.with_others(others)

    def equivariance_error(self, molecules: Molecules) -> Row:
        """The largest error of a model.

        Args:
            molecules: any.
        """
        each = [member.equivariance_error(molecules) for member in self.members]
        return {symmetry: max(errors[symmetry] for errors in each) for symmetry in each[0]}


def from_pretrained(name: str, *others: str, **given: Any) -> Trained | Ensemble:
    """A trained model by its name, or from its checkpoint, or the mean of several; names are known in the repository,
    whose weights an sdist has not.

    >>> [ethanol] = structures.read(["CCO"])
    >>> from_pretrained("qm9-homo").predict(ethanol.molecule).predicted  # [[-7.0]] eV, about

    Args:
        name, others: of ``SHIPPED``, or files ``best.pt`` of runs.
        given: values of flags that take the place of those it was trained with, such as ``device``.

    Raises:
        UsageError: as of :class:`Trained` and :class:`Ensemble`.
    """
    files = [file for one in (name, *others) for file in (SHIPPED[one].checkpoints if one in SHIPPED else [one])]
    members = [Trained(file, given) for file in files]
    return Ensemble(members) if len(members) > 1 else members[0]


def _config_of_training(content: dict[str, Any], path: str) -> Config:
    """The configuration of the training of a checkpoint, that of the model at least from the checkpoint itself."""
    stored = content.get("flags")
    if not isinstance(stored, dict) or "task" not in stored:
        raise UsageError(f"{path}: expected best.pt of a run of experiments/qm9/run.py")
    defaults = asdict(EXPERIMENT.command_line.parse([])[0])
    stored = {"nonlinearity": "norm", **Config.before(), **stored}
    made_of = {*(field.name for field in fields(Model)), "task"}
    if other := (made_of - stored.keys()) | (stored.keys() - defaults.keys()):
        raise UsageError(f"{path}: of another version, it differs in the flags {sorted(map(str, other))}")
    # Text is None where it was left out, as a path on another machine is.
    kept = {name: value for name, value in stored.items() if value is not None or not isinstance(defaults[name], str)}
    with blame(path):
        return EXPERIMENT.command_line.read({**defaults, **kept})
