"""A trained model, from its checkpoint or by its name, ready for molecules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from equivariant_attention.checkpoints import check_weights, load_weights, made_for
from experiments.qm9.config import Config, Model
from experiments.qm9.data import MoleculeDataset
from experiments.qm9.evaluation import Predictions, predict
from experiments.qm9.models import make_model, neighbours_of
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
    """

    folder: str
    elements: frozenset[str]

    @property
    def checkpoint(self) -> str:
        """The file with the weights."""
        return str(RESULTS / self.folder / "best.pt")


SHIPPED = {  # where two have a target, the better one first
    "qm9-homo": Shipped("qm9_homo", frozenset("HCNOF")),
    "qm9-dipole": Shipped("qm9_dipole", frozenset("HCNO")),
    "qm9-multitask": Shipped("qm9_multitask", frozenset("HCNOF")),
}
# Flags that older checkpoints do not have, with the values that they were trained with.
BEFORE = {"edge_features": "published", "nonlinearity": "norm", "readouts": "shared"}


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


def from_pretrained(name: str, **given: Any) -> Trained:
    """A trained model by its name, or from its checkpoint; names are known in the repository, whose weights an sdist
    has not.

    >>> [ethanol] = structures.read(["CCO"])
    >>> from_pretrained("qm9-homo").predict(ethanol.molecule).predicted  # [[-7.0]] eV, about

    Args:
        name: one of ``SHIPPED``, or the file ``best.pt`` of a run.
        given: values of flags that take the place of those it was trained with, such as ``device``.

    Raises:
        UsageError: as of :class:`Trained`.
    """
    return Trained(SHIPPED[name].checkpoint if name in SHIPPED else name, given)


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
