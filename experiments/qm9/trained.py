"""A trained model from its checkpoint, ready for molecules."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace

from experiments.qm9.data import MoleculeDataset
from experiments.qm9.models import make_model
from experiments.qm9.run import EXPERIMENT
from utils import checkpoints
from utils.cli import UsageError, blame
from utils.flags import add_machine_flags
from utils.loaders import EpochLoader
from utils.training import make_fabric


class Trained:
    """The model of a checkpoint, on its device and in its precision.

    Args:
        given: ``checkpoint``, and flags that take the place of those the model was trained with.

    Attributes:
        flags: those of the training, with those given now.
        fabric: device and precision.
        model: the best weights, for evaluation.

    Raises:
        UsageError: the checkpoint is none of ``run.py``, or the device is not there.
    """

    def __init__(self, given: Namespace) -> None:
        content = checkpoints.load(given.checkpoint, checkpoints.WEIGHTS)
        if not isinstance(content.get("flags"), dict) or "task" not in content["flags"]:
            raise UsageError(f"--checkpoint: {given.checkpoint}: expected best.pt of a run of experiments/qm9/run.py")
        self.flags = Namespace(**{**content["flags"], **vars(given)})
        with blame("--device", device="--device"):
            self.fabric = make_fabric(self.flags.device, self.flags.precision)
        with blame("--checkpoint"):
            model = make_model(self.flags)
            checkpoints.restore(model, given.checkpoint)
        self.fabric.setup_module(model)  # in place: to the device, in the precision
        self.model = model.eval()

    def loader(self, dataset: MoleculeDataset) -> EpochLoader:
        """Batches of molecules, in their order.

        Args:
            dataset: with the model's task and neighbours.
        """
        return EXPERIMENT.make_loader(self.flags, self.fabric, dataset)


def make_parser(description: str) -> ArgumentParser:
    """A parser with --checkpoint and the flags of the machine, which are those of the training unless given.

    Args:
        description: first lines of the help.
    """
    parser = ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="best.pt of a run")
    add_machine_flags(parser)
    return parser
