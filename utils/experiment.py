"""The program that every experiment is: flags, the folder of a run, training, a report."""

from __future__ import annotations

import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import Dataset

from equivariant_attention.checkpoints import check_weights, made_for
from utils import checkpoints, distributed, runs
from utils.cli import Presets, UsageError, blame, check, names_in_group, parse, reason
from utils.flags import FREE, experiment_parser
from utils.graphs import cast, choose_graph
from utils.loaders import EpochLoader
from utils.profiling import profile_steps
from utils.trackers import TensorBoard, Tracker, WandB
from utils.training import LAST, BatchLoss, Probe, Trainer, cosine_schedule, make_fabric

Loaders = dict[str, EpochLoader]


@dataclass(frozen=True)
class Experiment:
    """What one experiment has of its own; :meth:`main` is its command line.

    Args:
        description: first lines of the help.
        presets: a default of every flag, for every preset; the first one is the default.
        add_flags: adds the flags of model, training and data to a parser, those of the model in a group 'model'.
        load: makes the datasets of flags: ``'train'``, ``'test'``, and ``'valid'`` where weights are chosen by it.
        collate: makes a batch of samples, as of :class:`EpochLoader`, with graphs of class ``'own'`` or ``'dgl'``.
        make_model: makes the untrained model of flags.
        batch_loss: what is minimised; see :class:`Trainer`.
        report: evaluates the best weights after a training, writes and prints what there is to say; returns what
            metrics.json holds.
        free: names of the experiment's flags that may differ when a run is resumed.
        idle: of given flags, the names of those that have no effect, and why.
        probe: see :class:`Trainer`.
        fit_model: sets what in an untrained model, such as means of the targets, depends on the training data.
        recipes: other defaults of flags of the training, for --recipe; see :func:`make_parser`.
        unit: what samples are, in the plural.
    """

    description: str
    presets: Presets
    add_flags: Callable[[ArgumentParser], None]
    load: Callable[[Namespace], dict[str, Dataset]]
    collate: Callable[[Any, str], Any]
    make_model: Callable[[Namespace], nn.Module]
    batch_loss: BatchLoss
    report: Callable[[Namespace, Trainer, Loaders, Path], dict[str, Any]]
    free: Collection[str] = ()
    idle: Callable[[Namespace], dict[str, str]] = lambda flags: {}
    probe: Probe = lambda model: {}
    fit_model: Callable[[nn.Module, Dataset], None] = lambda model, dataset: None
    recipes: Presets = field(default_factory=dict)
    unit: str = "samples"

    def build_parser(self) -> ArgumentParser:
        """The parser of the command line."""
        return experiment_parser(self.description, self.presets, self.add_flags, self.recipes)

    def model_flags(self) -> set[str]:
        """The names of the flags that the model is made of, which are those in the group 'model'."""
        return names_in_group(self.build_parser(), "model")

    def main(self, arguments: Sequence[str] | None = None) -> dict[str, Any]:
        """Run the command line.

        Args:
            arguments: words of the command line; None for those of this process.

        Returns:
            what metrics.json holds; nothing after --profile.

        Raises:
            UsageError: flags ask for what cannot be done.
            NonFiniteError: the training diverged.
        """
        with distributed.processes():
            return self._run(arguments)

    def _run(self, arguments: Sequence[str] | None) -> dict[str, Any]:
        folder, flags = self._agree(arguments)
        with folder:
            try:
                trainer, datasets, loaders = self._prepare(flags, folder)
            except Exception:
                folder.discard_if_new()
                raise
            with unlost(folder.path):
                folder.write_config(lasting(flags))  # a resumed run that could not start stays as it was
                if flags.profile:
                    batch = next(iter(loaders["train"]))
                    print(profile_steps(lambda: trainer.take_step(batch), folder.path / "profile"))
                    print(f"stopped after profiling; trace and table are in {folder.path / 'profile'}")
                    return {}
                return self._train_and_report(flags, trainer, datasets, loaders)

    def _train_and_report(
        self, flags: Namespace, trainer: Trainer, datasets: dict[str, Dataset], loaders: Loaders
    ) -> dict[str, Any]:
        if not flags.forward:
            print(f"run folder: {trainer.folder} (if interrupted, go on with --resume {trainer.folder})")
            intervals = flags.log_interval, flags.print_interval
            trainer.fit(loaders["train"], loaders.get("valid"), flags.num_epochs, *intervals, self.unit)
        for tracker in trainer.trackers:
            tracker.close()
        trainer.use_best()
        if not distributed.is_leader():
            return {}
        whole = {split: self.make_loader(flags, trainer.fabric, data) for split, data in datasets.items()}
        return self.report(flags, trainer, whole, trainer.folder)

    def _agree(self, arguments: Sequence[str] | None) -> tuple[runs.Run, Namespace]:
        """The run's folder and flags, in all processes those of the leader."""
        opened = []

        def open_run() -> tuple[Path, dict[str, Any], Namespace]:
            opened.extend(self._open_run(*parse(self.build_parser(), self.presets, arguments, self.recipes)))
            return opened[0].path, opened[0].config, opened[1]

        path, config, flags = distributed.from_leader(open_run)
        return (opened[0] if opened else runs.Follower(path, config)), flags

    def _open_run(self, flags: Namespace, given: dict[str, Any]) -> tuple[runs.Run, Namespace]:
        """The run's folder, new or resumed, and the flags that hold in it."""
        if flags.resume is None:
            self._refuse_idle(flags, given)
            name = flags.preset if flags.name is None else flags.name
            return runs.create(lasting(flags), flags.output, flags.save_dir, name), flags
        folder = runs.reopen(flags.resume)
        try:
            stored = folder.config["flags"]
            merged = Namespace(**runs.reconcile(vars(flags), given, stored, {*FREE, *self.free}))
            with blame(f"--resume: {folder.path / runs.CONFIG}"):
                check(self.build_parser(), self.presets, stored, self.recipes)
            self._refuse_idle(merged, given)
        except UsageError:
            folder.close()
            raise
        return folder, merged

    def _refuse_idle(self, flags: Namespace, given: dict[str, Any]) -> None:
        idle = self.idle(flags)
        for name in sorted(idle.keys() & given.keys()):
            raise UsageError(f"--{name} has no effect {idle[name]}")

    def _prepare(self, flags: Namespace, folder: runs.Run) -> tuple[Trainer, dict[str, Dataset], Loaders]:
        """The training, the datasets, and the batches of this process."""
        with blame("--device", device="--device"):
            fabric = make_fabric(flags.device, flags.precision)
        if flags.profile and fabric.world_size > 1:
            raise UsageError(f"--profile: expected one process, got {fabric.world_size}")
        with distributed.leader_first():
            datasets = self.load(flags)
        share = {"rank": fabric.global_rank, "processes": fabric.world_size}
        with blame("torchrun", processes="--nproc_per_node"):
            loaders = {
                split: self.make_loader(flags, fabric, datasets[split], shuffle=split == "train", **share)
                for split in ("train", "valid")
                if split in datasets
            }
        trainer = self._make_trainer(flags, fabric, folder.path, loaders["train"])
        if distributed.is_leader():
            trainer.trackers = make_trackers(flags, folder, trainer.step)
        return trainer, datasets, loaders

    def make_loader(self, flags: Namespace, fabric: Fabric, dataset: Dataset, **options: Any) -> EpochLoader:
        """Batches of a dataset.

        Args:
            flags: with those of the machine, ``batch_size`` and ``seed``.
            fabric: device and precision.
            dataset: one of what ``load`` makes.
            options: other arguments of :class:`EpochLoader`; by default all samples in their order.
        """
        dtype = torch.float64 if flags.precision == "64-true" else torch.float32
        batch = partial(_batch, self.collate, choose_graph(flags.graph, fabric.device), dtype)
        options |= {"num_workers": flags.num_workers, "pin_memory": fabric.device.type == "cuda"}
        return EpochLoader(dataset, flags.batch_size, batch, seed=flags.seed, **options)

    def _make_trainer(self, flags: Namespace, fabric: Fabric, folder: Path, train: EpochLoader) -> Trainer:
        """The training in the state its folder holds, if any, else at its beginning."""
        fabric.seed_everything(flags.seed, verbose=False)
        with blame("--model"):
            model = self._make_model(flags, folder / LAST)
            self.fit_model(model, train.dataset)
        # Without decay this is Adam.
        decay = flags.weight_decay or 0.0
        adam = partial(torch.optim.AdamW, lr=flags.lr, betas=(0.9, flags.beta2), weight_decay=decay, fused=True)
        if fabric.device.type == "cuda":
            adam = partial(adam, capturable=True)
        steps = flags.num_epochs * len(train)
        schedule = partial(cosine_schedule, steps=steps, warmup=flags.warmup, final=flags.lr_final)
        options = {"clip_norm": flags.clip_norm, "ema": flags.ema, "probe": self.probe, "flags": lasting(flags)}
        trainer = Trainer(fabric, model, adam, schedule, self.batch_loss, folder, **options)
        if trainer.checkpoint.exists():
            with blame("--resume"):
                trainer.resume()
        elif flags.restore is not None:
            with blame("--restore"):
                made_of = self.model_flags() - self.idle(flags).keys()
                checkpoints.restore(model, flags.restore, {name: getattr(flags, name) for name in sorted(made_of)})
        elif flags.forward:
            raise UsageError("--forward: expected trained weights, from --restore or --resume")
        if trainer.epoch > flags.num_epochs:
            raise UsageError(
                f"--num_epochs {flags.num_epochs}: the resumed run has done {trainer.epoch} epochs already"
            )
        return trainer

    def _make_model(self, flags: Namespace, checkpoint: Path) -> nn.Module:
        """The untrained model, no larger than the weights that a resumed run has for it."""
        if not checkpoint.exists():
            return self.make_model(flags)
        with blame("--resume"):
            weights = checkpoints.load(checkpoint, checkpoints.STATE).get("model")
            if weights is None:  # the trainer says what is missing
                return self.make_model(flags)
            check_weights(weights, checkpoint)
            return made_for(lambda: self.make_model(flags), weights)


@contextmanager
def unlost(folder: Path) -> Iterator[None]:
    """Turn an OSError of a training, as of a full disk, into a UsageError that says how to go on.

    Args:
        folder: of the run.

    Raises:
        UsageError: the block raised one.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{reason(error)}. What was in {folder} before is whole; when this is mended, go on with --resume {folder}"
        ) from error


def _batch(collate: Callable[[Any, str], Any], graph: str, dtype: torch.dtype, samples: Any) -> Any:
    return cast(collate(samples, graph), dtype)


def lasting(flags: Namespace) -> dict[str, Any]:
    """The flags of a run as its config.json holds them: those that only say how to start are unset.

    Args:
        flags: every flag.
    """
    return {**vars(flags), "resume": None, "forward": False, "profile": False}


def make_trackers(flags: Namespace, folder: runs.Run, first_step: int) -> list[Tracker]:
    """The trackers asked for.

    Args:
        flags: every flag.
        folder: of the run.
        first_step: steps done before.

    Raises:
        UsageError: one is not installed.
    """
    trackers: list[Tracker] = []
    if flags.tensorboard:
        trackers.append(TensorBoard(folder.path, first_step))
    if flags.wandb:
        trackers.append(WandB(folder.path, folder.config))
    return trackers


def equivariance_line(errors: dict[str, float]) -> str:
    """What a report says of equivariance.

    Args:
        errors: by symmetry, of :func:`equivariant_attention.testing.equivariance_error`.
    """
    return f"equivariance error  {max(errors.values()):.1e} (relative; largest of {', '.join(errors)})"


def summary(trainer: Trainer) -> dict[str, Any]:
    """Size and length of a training, for metrics.json; None stands for what no epoch has told yet.

    Args:
        trainer: after the training.
    """
    seconds = [row["seconds"] for row in trainer.epochs]
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "epochs": trainer.epoch,
        "best_epoch": trainer.best.get("epoch"),
        "seconds_per_epoch": statistics.median(seconds) if seconds else None,
    }


def summary_lines(metrics: dict[str, Any], folder: Path) -> str:
    """The lines with which every report ends.

    Args:
        metrics: with what :func:`summary` gave.
        folder: of the run.
    """
    lines = [f"parameters          {metrics['parameters']}"]
    if metrics["epochs"]:
        lines.append(f"seconds per epoch   {metrics['seconds_per_epoch']:.2f}")
        lines.append(f"best epoch          {metrics['best_epoch']} of {metrics['epochs']}")
    return "\n".join([*lines, f"everything is in    {folder}"])
