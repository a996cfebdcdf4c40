"""A trained model, from its checkpoint or by its name, or the mean of several, ready for molecules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from equivariant_attention.checkpoints import check_weights, load_weights, made_for
from experiments.qm9.config import Config, Model
from experiments.qm9.data import MoleculeDataset
from experiments.qm9.evaluation import Predictions, predict
from experiments.qm9.models import MeanOfModels, Scaled, make_model, neighbours_of
from experiments.qm9.molecules import Molecules
from experiments.qm9.run import EXPERIMENT
from utils import checkpoints
from utils.cli import UsageError, blame
from utils.loaders import EpochLoader
from utils.training import make_fabric

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Shipped(NamedTuple):
    """Weights of the project.

    Attributes:
        folder: in ``benchmarks/results``, whose card tells how good they are.
        elements: that they were trained on.
        files: in the folder; of several, the mean of the models counts.
    """

    folder: str
    elements: frozenset[str]
    files: tuple[str, ...] = ("best.pt",)

    @property
    def checkpoints(self) -> list[str]:
        """The files with the weights."""
        return [str(RESULTS / self.folder / name) for name in self.files]


SHIPPED = {  # where two have a target, the better one first
    "qm9-homo": Shipped("qm9_homo", frozenset("HCNOF")),
    "qm9-dipole": Shipped("qm9_dipole", frozenset("HCNO")),
    "qm9-multitask": Shipped("qm9_multitask", frozenset("HCNOF")),
}
# Flags that older checkpoints do not have, with the values that they were trained with.
BEFORE = {"nonlinearity": "norm", "readouts": "shared"}


class Trained:
    """The model of a checkpoint, or the mean of those of several, on one device and in one precision.

    Args:
        paths: ``best.pt`` of a run, or of several of the same targets and edges.
        given: values of flags that take the place of those the models were trained with.

    Attributes:
        config: of the training, the first if there are several, with what is given now.
        fabric: device and precision.
        model: the best weights, for evaluation.

    Raises:
        UsageError: a checkpoint is none of ``run.py``, they differ in targets or edges, or the device is not there.
    """

    def __init__(self, paths: Sequence[str], given: Mapping[str, Any]) -> None:
        with blame("--checkpoint"):
            contents = [checkpoints.load(path, checkpoints.WEIGHTS) for path in paths]
            both = zip(contents, paths, strict=True)
            configs = [replace(_config_of_training(content, path), **given) for content, path in both]
            self.config = configs[0]
            for path, other in zip(paths, configs, strict=True):
                if (other.task, neighbours_of(other)) != (self.config.task, neighbours_of(self.config)):
                    raise UsageError(f"{path}: expected a model of the targets and edges of {paths[0]}")
        with blame("--device", device="--device"):
            self.fabric = make_fabric(self.config.device, self.config.precision)
        with blame("--checkpoint"):
            models = [_filled(*one) for one in zip(contents, configs, paths, strict=True)]
        model = models[0] if len(models) == 1 else MeanOfModels(models)
        self.fabric.setup_module(model)  # in place: to the device, in the precision
        self.model = model.eval()

    def loader(self, dataset: MoleculeDataset) -> EpochLoader:
        """Batches of molecules, in their order.

        Args:
            dataset: with the model's task and neighbours.
        """
        return EXPERIMENT.make_loader(self.config, self.fabric, dataset)

    def predict(self, molecules: Molecules) -> Predictions:
        """What the model says of molecules.

        Args:
            molecules: any, of which the target need not be known.
        """
        dataset = MoleculeDataset(molecules, self.config.task, neighbours_of(self.config))
        return predict(self.fabric, self.model, self.loader(dataset), self.config.task)


def from_pretrained(name: str, *others: str, **given: Any) -> Trained:
    """A trained model by its name, or from its checkpoint; or the mean of several.

    Names are known in the repository, whose weights an sdist does not have.

    >>> [ethanol] = structures.read(["CCO"])
    >>> from_pretrained("qm9-homo").predict(ethanol.molecule).predicted  # [[-7.0]] eV, about

    Args:
        name, others: each one of ``SHIPPED``, or the file ``best.pt`` of a run.
        given: values of flags that take the place of those it was trained with, such as ``device``.

    Raises:
        UsageError: as of :class:`Trained`.
    """
    return Trained([path for one in (name, *others) for path in paths_of(one)], given)


def task_of(name: str) -> str:
    """The target of a trained model, or its targets; argument and errors as of :func:`from_pretrained`."""
    path = paths_of(name)[0]
    with blame("--checkpoint"):
        return _config_of_training(checkpoints.load(path, checkpoints.WEIGHTS), path).task


def paths_of(name: str) -> list[str]:
    """The checkpoints of a trained model; argument as of :func:`from_pretrained`."""
    return SHIPPED[name].checkpoints if name in SHIPPED else [name]


def _filled(content: dict[str, Any], config: Config, path: str) -> Scaled:
    """The model of a checkpoint, with its weights."""
    check_weights(content.get("model"), path)
    model = made_for(lambda: make_model(config), content["model"])
    load_weights(model, content["model"], path, ours=True)
    return model


def _config_of_training(content: dict[str, Any], path: str) -> Config:
    """The configuration of the training of a checkpoint, that of the model at least from the checkpoint itself."""
    stored = content.get("flags")
    if not isinstance(stored, dict) or "task" not in stored:
        raise UsageError(f"{path}: expected best.pt of a run of experiments/qm9/run.py")
    stored = {**BEFORE, **stored}
    defaults = asdict(EXPERIMENT.command_line.parse([])[0])
    made_of = {*(field.name for field in fields(Model)), "task"}
    if other := (made_of - stored.keys()) | (stored.keys() - defaults.keys()):
        raise UsageError(f"{path}: of another version, it differs in the flags {sorted(map(str, other))}")
    # Text is None where it was left out, as a path on another machine is.
    kept = {name: value for name, value in stored.items() if value is not None or not isinstance(defaults[name], str)}
    with blame(path):
        return EXPERIMENT.command_line.read({**defaults, **kept})
