"""A trained model from its checkpoint, ready for molecules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from equivariant_attention.checkpoints import check_weights, load_weights, made_for
from experiments.qm9.config import Config, Model
from experiments.qm9.data import MoleculeDataset
from experiments.qm9.models import make_model
from experiments.qm9.run import EXPERIMENT
from utils import checkpoints
from utils.cli import UsageError, blame
from utils.loaders import EpochLoader
from utils.training import make_fabric

# Flags that older checkpoints do not have, with the values that they were trained with.
BEFORE = {"nonlinearity": "norm"}


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
