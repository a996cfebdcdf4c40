"""The program that every experiment is: a configuration, the folder of a run, training, a report."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from equivariant_attention.checkpoints import check_weights, made_for
from utils import checkpoints, distributed, runs
from utils.capture import CudaGraphs
from utils.checkpoints import Weights
from utils.cli import UsageError, blame, reason
from utils.config import Config
from utils.files import write_json
from utils.flags import C, CommandLine, free_fields
from utils.flat_parameters import FlatParameters
from utils.graphs import cast, choose_graph, complete
from utils.loaders import EpochLoader
from utils.profiling import profile_steps
from utils.soap import SOAP
from utils.trackers import Tracker, WandB, tensorboard
from utils.training import LAST, BatchLoss, Probe, Trainer, cosine_schedule, make_fabric

Loaders = dict[str, EpochLoader]
HEADS = dict.fromkeys(("n_heads", "num_heads"), "--head")  # as layers call them


@dataclass(frozen=True)
class Experiment(Generic[C]):
    """What one experiment has of its own; :meth:`main` is its command line.

    Where a flag asks for what cannot be done, these functions raise a :class:`UsageError` that begins with the flag.

    Args:
        command_line: gives the configuration.
        model: the dataclass, among the bases of the configuration, of what the model is made of.
        load: makes the datasets: ``'train'``, ``'test'``, and ``'valid'`` where weights are chosen by it.
        collate: makes a batch of samples, as of :class:`EpochLoader`, with graphs of class ``'own'`` or ``'dgl'``.
        make_model: makes the untrained model.
        make_loss: makes what is minimised, the ``batch_loss`` of :class:`Trainer`, for the training data.
        report: evaluates the best weights after a training, on whole datasets, and draws into the run's folder; returns
            what metrics.json holds beside the model's size and the training's length, and lines to print before those.
        probe: see :class:`Trainer`.
        pad: makes the sizes of a batch some of few, for --cuda_graphs; where they are so already, leaves it as it is.
        fit_model: sets what depends on the training data in an untrained model, such as means of the targets.
        adapt: makes weights for an untrained model of those that --restore names, and of what is known of their flags.
        adapts: flags of the model that may be others where these weights were trained.
        unit: what samples are, in the plural.
    """

    command_line: CommandLine[C]
    model: type
    load: Callable[[C], dict[str, Dataset]]
    collate: Callable[[Any, str], Any]
    make_model: Callable[[C], nn.Module]
    make_loss: Callable[[C, Dataset], BatchLoss]
    report: Callable[[C, Trainer, Loaders, Path], tuple[dict[str, Any], list[str]]]
    probe: Probe = lambda model: {}
    pad: Callable[[Any], Any] = lambda batch: batch
    fit_model: Callable[[nn.Module, Dataset], None] = lambda model, dataset: None
    adapt: Callable[[C, nn.Module, Weights, Mapping[str, Any]], Weights] = lambda config, model, weights, flags: weights
    adapts: frozenset[str] = frozenset()
    unit: str = "samples"

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
        folder, config = self._agree(arguments)
        with folder:
            try:
                trainer, datasets, loaders = self._prepare(config, folder)
            except Exception:
                folder.discard_if_new()
                raise
            with _unlost(folder.path):
                folder.write_config(_lasting(config))  # a resumed run that could not start stays as it was
                if config.profile:
                    batch = next(iter(loaders["train"]))
                    print(profile_steps(lambda: trainer.take_step(batch), folder.path / "profile"))
                    print(f"stopped after profiling; trace and table are in {folder.path / 'profile'}")
                    return {}
                return self._train_and_report(config, trainer, datasets, loaders)

    def _train_and_report(
        self, config: C, trainer: Trainer, datasets: dict[str, Dataset], loaders: Loaders
    ) -> dict[str, Any]:
        if not config.forward:
            print(f"run folder: {trainer.folder} (if interrupted, go on with --resume {trainer.folder})")
            intervals = config.log_interval, config.print_interval
            trainer.fit(loaders["train"], loaders.get("valid"), config.num_epochs, *intervals, self.unit)
        for tracker in trainer.trackers:
            tracker.finalize("success")
        trainer.use_best()
        if not distributed.is_leader():
            return {}
        whole = {split: self.make_loader(config, trainer.fabric, data) for split, data in datasets.items()}
        metrics, lines = self.report(config, trainer, whole, trainer.folder)
        metrics |= _summary(trainer)
        write_json(trainer.folder / "metrics.json", metrics)
        print("\n".join(["", *lines, *_summary_lines(metrics, trainer.folder)]))
        return metrics

    def _agree(self, arguments: Sequence[str] | None) -> tuple[runs.Run, C]:
        """The run's folder and configuration, in all processes those of the leader."""
        opened = []

        def open_run() -> tuple[Path, dict[str, Any], C]:
            opened.extend(self._open_run(*self.command_line.parse(arguments)))
            return opened[0].path, opened[0].config, opened[1]

        path, stored, config = distributed.from_leader(open_run)
        return (opened[0] if opened else runs.Follower(path, stored)), config

    def _open_run(self, config: C, given: dict[str, Any]) -> tuple[runs.Run, C]:
        """The run's folder, new or resumed, and the configuration that holds in it."""
        if config.resume is None:
            refuse_idle(config, given)
            name = config.preset if config.name is None else config.name
            return runs.create(_lasting(config), config.output, config.save_dir, name), config
        folder = runs.reopen(config.resume)
        try:
            stored = folder.config["flags"]
            merged = runs.reconcile(asdict(config), given, stored, free_fields(type(config)), config.before())
            with blame(f"--resume: {folder.path / runs.CONFIG}"):
                config = self.command_line.read(merged)
            refuse_idle(config, given)
        except UsageError:
            folder.close()
            raise
        return folder, config

    def _prepare(self, config: C, folder: runs.Run) -> tuple[Trainer, dict[str, Dataset], Loaders]:
        """The training, the datasets, and the batches of this process."""
        with blame("--device", device="--device"):
            fabric = make_fabric(config.device, config.precision)
        _check_machine(config, fabric)
        with distributed.leader_first():
            datasets = self.load(config)
        share = {"rank": fabric.global_rank, "processes": fabric.world_size}
        with blame("torchrun", processes="--nproc_per_node"):
            loaders = {
                split: self.make_loader(config, fabric, datasets[split], training=split == "train", **share)
                for split in ("train", "valid")
                if split in datasets
            }
        trainer = self._make_trainer(config, fabric, folder.path, loaders["train"])
        if distributed.is_leader():
            trainer.trackers = _trackers(config, folder, trainer.step)
        return trainer, datasets, loaders

    def make_loader(
        self, config: C, fabric: Fabric, dataset: Dataset, training: bool = False, **options: Any
    ) -> EpochLoader:
        """Batches of a dataset.

        Args:
            config: of the run.
            fabric: device and precision.
            dataset: one of what ``load`` makes.
            training: whether they are to learn from, and so shuffled; else all samples come in their order.
            options: other arguments of :class:`EpochLoader`.
        """
        dtype = torch.float64 if config.precision == "64-true" else torch.float32
        on_gpu = fabric.device.type == "cuda"
        last = [*([self.pad] if training and config.cuda_graphs else []), *([complete] if on_gpu else [])]
        batch = partial(_batch, self.collate, choose_graph(config.graph, fabric.device), dtype, last)
        options |= {"shuffle": training, "num_workers": config.num_workers, "pin_memory": on_gpu}
        return EpochLoader(dataset, config.batch_size, batch, seed=config.seed, **options)

    def _make_trainer(self, config: C, fabric: Fabric, folder: Path, train: EpochLoader) -> Trainer:
        """The training in the state its folder holds, if any, else at its beginning."""
        fabric.seed_everything(config.seed, verbose=False)
        made_of = [field.name for field in fields(self.model)]
        with blame(f"--{made_of[0]}", **{name: f"--{name}" for name in made_of}, **HEADS):
            model = self._make_model(config, folder / LAST)
            self.fit_model(model, train.dataset)
        steps = config.num_epochs * len(train)
        schedule = partial(cosine_schedule, steps=steps, warmup=config.warmup, final=config.lr_final)
        options = {"clip_norm": config.clip_norm, "ema": config.ema, "probe": self.probe, "flags": _lasting(config)}
        recorder = CudaGraphs(fabric.device) if config.cuda_graphs else None
        loss = self.make_loss(config, train.dataset)
        optimizer = partial(_make_optimizer, config, fabric)
        trainer = Trainer(fabric, model, optimizer, schedule, loss, folder, recorder=recorder, **options)
        if trainer.checkpoint.exists():
            with blame("--resume"):
                trainer.resume()
        elif config.restore is not None:
            with blame("--restore"):
                told = {*made_of} - config.idle().keys() - self.adapts
                flags = {name: getattr(config, name) for name in sorted(told)}
                checkpoints.restore(model, config.restore, flags, partial(self.adapt, config, model))
        elif config.forward:
            raise UsageError("--forward: expected trained weights, from --restore or --resume")
        if trainer.epoch > config.num_epochs:
            raise UsageError(
                f"--num_epochs {config.num_epochs}: the resumed run has done {trainer.epoch} epochs already"
            )
        return trainer

    def _make_model(self, config: C, checkpoint: Path) -> nn.Module:
        """The untrained model, no larger than the weights that a resumed run has for it."""
        if not checkpoint.exists():
            return self.make_model(config)
        with blame("--resume"):
            weights = checkpoints.load(checkpoint, checkpoints.STATE).get("model")
            if weights is None:  # the trainer says what is missing
                return self.make_model(config)
            check_weights(weights, checkpoint)
            return made_for(lambda: self.make_model(config), weights)


def _make_optimizer(config: Config, fabric: Fabric, flat: FlatParameters) -> Optimizer:
    """What changes the weights; AdamW without decay is Adam."""
    options: dict[str, Any] = {
        "lr": config.lr,
        "betas": (0.9, config.beta2),
        "weight_decay": config.weight_decay or 0.0,
    }
    if config.optimizer == "soap":
        return SOAP(flat.groups, **options)
    if fabric.device.type == "cuda":
        options["capturable"] = True
    return torch.optim.AdamW(flat.whole, fused=True, **options)


@contextmanager
def _unlost(folder: Path) -> Iterator[None]:
    """Turn an OSError of a training, as of a full disk, into a UsageError that says how to go on."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{reason(error)}. What was in {folder} before is whole; when this is mended, go on with --resume {folder}"
        ) from error


def _batch(
    collate: Callable[[Any, str], Any],
    graph: str,
    dtype: torch.dtype,
    last: Sequence[Callable[[Any], Any]],
    samples: Any,
) -> Any:
    """A batch of samples, and what is done to it last."""
    batch = cast(collate(samples, graph), dtype)
    for function in last:
        batch = function(batch)
    return batch


def _check_machine(config: Config, fabric: Fabric) -> None:
    for flag in ("profile", "cuda_graphs"):
        if getattr(config, flag) and fabric.world_size > 1:
            raise UsageError(f"--{flag}: expected one process, got {fabric.world_size}")
    if not config.cuda_graphs:
        return
    if config.optimizer == "soap":
        raise UsageError("--cuda_graphs: expected --optimizer adamw, got soap, whose steps are not all alike")
    if fabric.device.type != "cuda":
        raise UsageError(f"--cuda_graphs: expected a GPU, got --device {fabric.device} (--no-cuda_graphs for a CPU)")
    if config.graph == "dgl":
        raise UsageError("--cuda_graphs: expected the library's own graphs, got --graph dgl")


def refuse_idle(config: Config, given: Mapping[str, Any]) -> None:
    """Refuse flags that others leave without effect.

    Args:
        config: of all flags.
        given: those on the command line.

    Raises:
        UsageError: one of them has none.
    """
    idle = config.idle()
    for name in sorted(idle.keys() & given.keys()):
        raise UsageError(f"--{name} has no effect {idle[name]}")


def _lasting(config: Config) -> dict[str, Any]:
    """A configuration as config.json holds it: what only says how to start is unset."""
    return asdict(replace(config, resume=None, forward=False, profile=False))


def _trackers(config: Config, folder: runs.Run, step: int) -> list[Tracker]:
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(tensorboard(folder.path, step))
    if config.wandb:
        trackers.append(WandB(folder.path, folder.config))
    return trackers


def equivariance_line(errors: dict[str, float]) -> str:
    """What a report says of equivariance.

    Args:
        errors: by symmetry, of :func:`equivariant_attention.testing.equivariance_error`.
    """
    return f"equivariance error  {max(errors.values()):.1e} (relative; largest of {', '.join(errors)})"


def _summary(trainer: Trainer) -> dict[str, Any]:
    """Size and length of a training; None stands for what no epoch has told yet."""
    seconds = [row["seconds"] for row in trainer.epochs]
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "epochs": trainer.epoch,
        "best_epoch": trainer.best.get("epoch"),
        "seconds_per_epoch": statistics.median(seconds) if seconds else None,
    }


def _summary_lines(metrics: dict[str, Any], folder: Path) -> list[str]:
    lines = [equivariance_line(metrics["equivariance_error"])] if "equivariance_error" in metrics else []
    lines.append(f"parameters          {metrics['parameters']}")
    if metrics["epochs"]:
        lines.append(f"seconds per epoch   {metrics['seconds_per_epoch']:.2f}")
        lines.append(f"best epoch          {metrics['best_epoch']} of {metrics['epochs']}")
    return [*lines, f"everything is in    {folder}"]
