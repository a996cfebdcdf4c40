"""The training loop: epochs of steps, validation, checkpoints that an interrupted run goes on from exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm import tqdm

from equivariant_attention.checkpoints import in_few_lines, write_tensors
from utils import checkpoints, distributed
from utils.capture import Captured, Recorder
from utils.cli import reason
from utils.delayed_reads import Later, one_behind
from utils.flat_parameters import FlatParameters
from utils.history import Mean, Row, write_csv
from utils.loaders import EpochLoader
from utils.moving_average import MovingAverage
from utils.trackers import Tracker

# (model, batch) -> (means over the batch, one of them 'loss', each a tensor of one number; how many they are means of)
BatchLoss = Callable[[Callable[[Any], Tensor], Any], tuple[dict[str, Tensor], int]]
Probe = Callable[[nn.Module], dict[str, Tensor]]  # what of a model is recorded after each backward pass

LAST = Path("checkpoints") / "last.pt"  # in the folder of a run
NORM = "gradient_norm"  # in the rows of steps, before clipping
OF_DEVICE = ("capturable",)  # what in an optimizer is another on another device
PROGRESS = ("epoch", "step", "epochs", "steps", "best")  # attributes of a Trainer that its checkpoint holds


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is NaN or infinite."""


def checked_device(device: str) -> torch.device:
    """The device of this name.

    Args:
        device: ``'auto'`` (a GPU where there is one), ``'cpu'``, ``'cuda'`` or ``'cuda:N'``.

    Raises:
        ValueError: another, or one that is not there.
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {device} is not there, PyTorch sees {torch.cuda.device_count()} CUDA devices")
    return torch.device(kind, int(index)) if index else torch.device(kind)


def make_fabric(device: str, precision: str) -> Fabric:
    """What moves model and batches, and sets the precision.

    Args:
        device: as of :func:`checked_device`.
        precision: ``'32-true'``, ``'tf32'`` (float32 whose products a GPU may round to TF32), ``'bf16-mixed'`` or
            ``'64-true'``.

    Raises:
        ValueError: another device, or one that is not there; or one of several, for several processes.
    """
    checked = checked_device(device)
    kind, index = checked.type, checked.index
    processes, machines = distributed.local_processes()
    if index is not None and processes * machines > 1:
        raise ValueError(f"device: expected {kind}, of which each of several processes takes its own, got {device}")
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    fabric = Fabric(
        accelerator=kind,
        devices=processes if index is None else [index],
        num_nodes=machines,
        strategy="ddp" if processes * machines > 1 else "auto",
        precision="32-true" if precision == "tf32" else precision,
    )
    fabric.launch()
    return fabric


def cosine_schedule(optimizer: Optimizer, steps: int, warmup: int = 0, final: float = 0.1) -> LambdaLR:
    """A schedule, stepped once per batch, that raises the learning rate linearly, then lowers it along a cosine.

    Args:
        optimizer: its learning rate is where the cosine starts.
        steps: when it ends.
        warmup: steps before the cosine starts.
        final: where it ends, as a fraction of the start.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(steps - warmup, 1)
        return final + (1 - final) * (1 + math.cos(math.pi * min(done, 1))) / 2

    return LambdaLR(optimizer, factor)


class Numbers:
    """What a step or a batch of an evaluation came to, while the device may still be at it.

    Args:
        batch: what it was computed of.
        size: how many samples the means are over, an integer, or a tensor of one.
        means: by name, each a tensor of one number.
    """

    def __init__(self, batch: Any, size: int | Tensor, means: dict[str, Tensor]) -> None:
        self.batch, self._names = batch, list(means)
        first = next(iter(means.values()))
        size = size if isinstance(size, Tensor) else torch.full_like(first, size, dtype=torch.float64)
        self._values = Later([size, *means.values()])

    def read(self) -> tuple[int, Row]:
        """The size, and the means; the host waits for them."""
        size, *means = self._values.read()
        return int(size), dict(zip(self._names, means, strict=True))


def evaluate(
    fabric: Fabric,
    model: Callable[[Any], Tensor],
    batch_loss: BatchLoss,
    loader: EpochLoader,
    prefix: str = "",
    check: Callable[[Row, Any], None] = lambda row, batch: None,
) -> Row:
    """The means of metrics over all batches, those of other processes included, without gradients.

    Args:
        fabric: moves the batches.
        model: first argument of ``batch_loss``.
        batch_loss: gives the metrics of a batch.
        loader: gives the batches.
        prefix: put before the name of every metric.
        check: gets the metrics of each batch, and the batch.
    """

    def computed() -> Iterator[Numbers]:
        for batch in loader:
            batch = fabric.to_device(batch)
            metrics, size = batch_loss(model, batch)
            yield Numbers(batch, size, metrics)

    mean = Mean()
    with torch.no_grad():
        for numbers in one_behind(computed()):
            size, row = numbers.read()
            check(row, numbers.batch)
            mean.add(row, size)
    if loader.processes > 1:
        mean = mean.summed(lambda sums: fabric.all_reduce(sums, reduce_op="sum"))
    return mean.result(prefix)


class Step(Numbers):
    """A step of a training.

    Args:
        batch, size, means: as of :class:`Numbers`; the norm of the gradient before clipping among the means.
        number: of the step, from 1.
        learning_rate: that it was taken with.
        weights: before it, see :meth:`~utils.flat_parameters.FlatParameters.copied`.
    """

    def __init__(
        self,
        batch: Any,
        size: int | Tensor,
        means: dict[str, Tensor],
        number: int,
        learning_rate: float,
        weights: list[Tensor],
    ) -> None:
        super().__init__(batch, size, means)
        self.number, self.learning_rate, self.weights = number, learning_rate, weights


class Trainer:
    """A model in training, with everything needed to go on.

    Where several processes train, each takes its share of every batch, all do the same steps, and the first one writes.

    The state after each epoch is one file, FOLDER/checkpoints/last.pt. The other files (checkpoints/best.pt,
    metrics.csv with a row per epoch, steps.csv) only repeat parts of it.

    Args:
        fabric: device and precision; see :func:`make_fabric`.
        model: moved to the device; its parameters become views, see :class:`~utils.flat_parameters.FlatParameters`.
        make_optimizer: makes an optimizer of all that is trained.
        make_schedule: makes a schedule of the optimizer, stepped once per batch.
        batch_loss: what is minimised (``'loss'``), and what else is recorded.
        folder: of the run.
        clip_norm: gradients of a larger norm are scaled down to it; None to leave them.
        ema: decay per step of a moving average of the weights, which then is what is evaluated and kept as the best;
            None for the weights themselves.
        flags: what the model is made of, for checkpoints, which then need no other file.
        probe: gives numbers to record with a batch's metrics, of the model after the backward pass.
        recorder: what records steps, see :class:`~utils.capture.Captured`; None to take each anew.

    Attributes:
        model: the model itself, on the device.
        epoch, step: how many are done.
        epochs, steps: rows recorded so far.
        trackers: get every row as well; none unless set.
        best: epoch, validation loss and weights of the best epoch so far (the last epoch, without validation data).
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        make_optimizer: Callable[[FlatParameters], Optimizer],
        make_schedule: Callable[[Optimizer], LRScheduler],
        batch_loss: BatchLoss,
        folder: Path,
        *,
        clip_norm: float | None = None,
        ema: float | None = None,
        flags: dict[str, Any] | None = None,
        probe: Probe = lambda model: {},
        recorder: Recorder | None = None,
    ) -> None:
        self.fabric, self.model, self._model = fabric, model, fabric.setup_module(model)
        self.flat = FlatParameters(model)
        self.optimizer = make_optimizer(self.flat)
        self.schedule, self._optimizer = make_schedule(self.optimizer), fabric.setup_optimizers(self.optimizer)
        self.average = None if ema is None else MovingAverage(self.flat.whole, ema)
        self.batch_loss, self.probe, self.folder, self.flags = batch_loss, probe, folder, flags or {}
        self.trackers: Sequence[Tracker] = ()
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self._step_on_device = self._captured(recorder) if recorder else self._on_device
        self.epoch, self.step = 0, 0
        self.epochs: list[Row] = []
        self.steps: list[Row] = []
        self.best: dict[str, Any] = {}

    def fit(
        self,
        train: EpochLoader,
        valid: EpochLoader | None,
        epochs: int,
        log_interval: int,
        print_interval: int,
        unit: str = "samples",
    ) -> None:
        """Train until enough epochs are done, those before a resumption included.

        Args:
            train: its ``set_epoch`` is called before each epoch.
            valid: chooses the best weights; the same batches in each epoch.
            epochs: how many in all.
            log_interval: steps from one row of steps.csv to the next.
            print_interval: steps from one refreshing of the progress bar to the next.
            unit: what the progress bar counts the samples as.

        Raises:
            NonFiniteError: a loss, validation's included, or a gradient is NaN or infinite. The batch and the weights
                are in nonfinite.pt in the run's folder.
        """
        samples, hidden = train.num_samples, None if self.fabric.is_global_zero else True
        with tqdm(total=epochs * samples, initial=self.epoch * samples, unit=f" {unit}", disable=hidden) as bar:
            while self.epoch < epochs:
                bar.set_description(f"epoch {self.epoch + 1}/{epochs}")
                started = time.perf_counter()
                row = {"epoch": self.epoch + 1, **self._train_epoch(train, bar, log_interval, print_interval)}
                if valid is not None:
                    row |= self.evaluate(valid, "valid_")
                row["seconds"] = time.perf_counter() - started
                self._end_epoch(row)
                if self.fabric.is_global_zero:
                    bar.write("  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step"))

    def take_step(self, batch: Any) -> Step:
        """Change the weights once. The host waits for nothing that the device computes.

        Args:
            batch: to learn from.

        Returns:
            what there is to read of it, later.
        """
        rate, weights = self.schedule.get_last_lr()[0], self.flat.copied()
        means, size = self._step_on_device(batch)
        self.step += 1
        self.flat.written()
        if self.average is not None:
            self.average.n_averaged += 1
        self.schedule.step()
        return Step(batch, size, means, self.step, rate, weights)

    def _change_weights(self, batch: Any) -> tuple[dict[str, Tensor], int | Tensor]:
        """All of a step that is done on the device, where the batch is; its means, and how many they are of."""
        self.flat.zero_grad()
        metrics, size = self.batch_loss(self._model, batch)
        means, whole_size = self._over_processes(metrics, size)
        # The mean of gradients over the processes then is that of the whole batch, if it is one over the size.
        self.fabric.backward(metrics["loss"] * (size * self.fabric.world_size / whole_size))
        self.flat.join_gradients()
        means[NORM] = nn.utils.clip_grad_norm_(self.flat.whole, self.clip_norm)
        means |= self.probe(self.model)
        self._optimizer.step()
        if self.average is not None:
            self.average.follow(self.flat.whole)
        return means, whole_size

    def _on_device(self, batch: Any) -> tuple[dict[str, Tensor], int | Tensor]:
        """The same for a batch anywhere."""
        return self._change_weights(self.fabric.to_device(batch))

    def _captured(self, recorder: Recorder) -> Callable[[Any], Any]:
        """The same as a function of a batch, whose repetitions are recorded."""
        groups = self.optimizer.param_groups
        rates = [torch.zeros((), device=self.fabric.device) for _ in groups]
        captured = Captured(self._change_weights, self.fabric.to_device, recorder)

        def step(batch: Any) -> Any:
            own = [group["lr"] for group in groups]
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate.fill_(group["lr"])  # where a recorded step finds what it is now
            try:
                return captured(batch)
            finally:
                for group, rate in zip(groups, own, strict=True):
                    group["lr"] = rate

        return step

    def evaluate(self, loader: EpochLoader, prefix: str = "") -> Row:
        """The means of the metrics over all batches, without gradients, of the weights that would be kept as the best.

        Args:
            loader: gives the batches.
            prefix: put before the name of every metric.

        Raises:
            NonFiniteError: as in :meth:`fit`.
        """

        def check(row: Row, batch: Any) -> None:
            if not math.isfinite(row["loss"]):
                self._stop(f"{prefix}loss", row["loss"], batch, self.step)

        self.model.eval()
        # Not through DDP, which waits for the other processes, whose batches may be fewer.
        with self._averaged(), self.fabric.autocast():
            return evaluate(self.fabric, self.model, self.batch_loss, loader, prefix, check)

    def use_best(self) -> None:
        """Give the model its best weights, where there was an epoch to find them; it is not to be trained on then."""
        if self.best:
            self.model.load_state_dict(self.best["model"])
            self.average = None

    @property
    def checkpoint(self) -> Path:
        """Where the state after the last finished epoch is, if there is one."""
        return self.folder / LAST

    def resume(self) -> None:
        """Go back to the state in :attr:`checkpoint`.

        Raises:
            CheckpointError: it is damaged, incomplete or of another model.
        """
        state = checkpoints.load(self.checkpoint, checkpoints.STATE)
        if missing := {*PROGRESS, *self._parts, "rng"} - state.keys():
            raise checkpoints.CheckpointError(f"{self.checkpoint}: incomplete, without {sorted(missing)}")
        try:
            self._check(state)  # all of it before any of it is used
            for found, own in zip(state["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True):
                found |= {name: own[name] for name in OF_DEVICE if name in own}
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            checkpoints.set_rng_state(state["rng"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise checkpoints.CheckpointError(
                f"{self.checkpoint}: of another model: {in_few_lines(error, 1)}"
            ) from error
        for name in PROGRESS:
            setattr(self, name, state[name])
        self._write_views()

    def _check(self, state: dict[str, Any]) -> None:
        """Refuse a state that this training cannot have written: an optimizer reads memory by its parameters' shapes.

        Raises:
            ValueError, TypeError, KeyError: a part of it is another.
        """
        for name in ("epoch", "step"):
            checkpoints.check_like(name, state[name], 0)
        for name in self._parts.keys() - {"optimizer"}:
            checkpoints.check_like(name, state[name], self._parts[name].state_dict())
        check_optimizer_state(state["optimizer"], self.optimizer, state["step"])
        of_step = {
            "base_lrs": self.schedule.state_dict()["base_lrs"],
            "last_epoch": state["step"],
            "_last_lr": [group["lr"] for group in state["optimizer"]["param_groups"]],
        }
        if other := [name for name, value in of_step.items() if state["schedule"][name] != value]:
            raise ValueError(f"schedule: expected that of step {state['step']}, it differs in {other[0]}")
        check_rows("epochs", state["epochs"], {"epoch", "step", "learning_rate", "train_loss", "seconds"})
        check_rows("steps", state["steps"], {"epoch", "step", "learning_rate", NORM})
        last = state["epochs"][-1]["step"] if state["epochs"] else 0
        if (len(state["epochs"]), last) != (state["epoch"], state["step"]):
            raise ValueError(f"epochs: expected rows of {state['epoch']} epochs, to step {state['step']}, got others")
        self._check_best(state["best"], state["epochs"])
        checkpoints.check_rng_state(state["rng"])

    def _check_best(self, best: Any, epochs: list[Row]) -> None:
        """Refuse what cannot be the best of these epochs."""
        if not epochs:
            checkpoints.check_like("best", best, {})
            return
        checkpoints.check_like("best", best, {"epoch": 0, "loss": best.get("loss"), "model": self.model.state_dict()})
        if not 1 <= best["epoch"] <= len(epochs) or best["loss"] != epochs[best["epoch"] - 1].get("valid_loss"):
            raise ValueError(f"best: expected one of {len(epochs)} epochs and its loss, got {best['epoch']}")

    @property
    def _parts(self) -> dict[str, Any]:
        """What has a state_dict of its own in the checkpoint."""
        parts = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts if self.average is None else {**parts, "average": self.average}

    def _over_processes(self, means: dict[str, Tensor], size: int) -> tuple[dict[str, Tensor], int | Tensor]:
        """The means of a whole batch, from those of the parts that the processes have; and its size."""
        means = {name: value.detach().double() for name, value in means.items()}
        if self.fabric.world_size == 1:
            return means, size
        sums = torch.stack([torch.ones_like(means["loss"]), *means.values()]) * size
        total, *sums = self.fabric.all_reduce(sums, reduce_op="sum").unbind()
        return {name: value / total for name, value in zip(means, sums, strict=True)}, total

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if any."""
        self._exchange_weights()
        try:
            yield
        finally:
            self._exchange_weights()

    @torch.no_grad()
    def _exchange_weights(self) -> None:
        if self.average is None or not self.average.n_averaged:
            return
        for own, averaged in zip(self.flat.whole, self.average.module, strict=True):
            kept = own.clone()
            own.copy_(averaged)
            averaged.copy_(kept)
        self.flat.written()

    def _train_epoch(self, train: EpochLoader, bar: tqdm, log_interval: int, print_interval: int) -> Row:
        train.set_epoch(self.epoch)
        self._model.train()
        mean, first_step, row = Mean(), self.step, dict[str, Any]()
        for step in one_behind(self.take_step(batch) for batch in train):
            size, values = self._checked(step)
            norm = values.pop(NORM)
            mean.add(values, size)
            row = {"step": step.number, "learning_rate": step.learning_rate}
            if step.number % log_interval == 0:
                of_step = {f"step_{name}": value for name, value in values.items()}
                self._record(self.steps, {"epoch": self.epoch + 1, **row, **of_step, NORM: norm})
            if step.number % print_interval == 0:
                bar.set_postfix(loss=f"{values['loss']:.4g}", refresh=False)
                done = min((step.number - first_step) * train.batch_size * train.processes, train.num_samples)
                bar.update(self.epoch * train.num_samples + done - bar.n)
        bar.update((self.epoch + 1) * train.num_samples - bar.n)
        return {**row, **mean.result("train_")}

    def _checked(self, step: Step) -> tuple[int, Row]:
        """The numbers of a step, which must be finite: else the model gets the weights back that it began with."""
        size, values = step.read()
        for what, value in (("loss", values["loss"]), ("norm of the gradient", values[NORM])):
            if not math.isfinite(value):
                self.flat.restore(step.weights)
                self._stop(what, value, step.batch, step.number)
        return size, values

    def _end_epoch(self, row: Row) -> None:
        self.epoch += 1
        self._record(self.epochs, row)
        loss = row.get("valid_loss")
        if not self.best or loss is None or loss < self.best["loss"]:
            with self._averaged():
                weights = self.model.state_dict()  # keeps its metadata, which say whose signs the weights have
                weights.update({name: value.detach().cpu().clone() for name, value in weights.items()})
            self.best = {"epoch": self.epoch, "loss": loss, "model": weights}
        state = {name: getattr(self, name) for name in PROGRESS}
        state |= {name: part.state_dict() for name, part in self._parts.items()}
        if self.fabric.is_global_zero:
            state |= {"rng": checkpoints.rng_state(), "flags": self.flags}
            checkpoints.save(self.checkpoint, checkpoints.STATE, state)
        self._write_views()

    def _write_views(self) -> None:
        if not self.fabric.is_global_zero:
            return
        # After the state: a kill in between leaves them one epoch behind, which resuming mends.
        best = {**self.best, "flags": self.flags}
        checkpoints.save(self.checkpoint.with_name("best.pt"), checkpoints.WEIGHTS, best)
        write_csv(self.folder / "metrics.csv", self.epochs)
        write_csv(self.folder / "steps.csv", self.steps)

    def _record(self, rows: list[Row], row: Row) -> None:
        if rows and rows[-1].keys() != row.keys():
            other = sorted(rows[-1].keys() ^ row.keys())
            raise checkpoints.CheckpointError(
                f"{self.checkpoint}: of another training, it differs in the columns {other}"
            )
        rows.append(row)
        for tracker in self.trackers:
            tracker.log_metrics({name: value for name, value in row.items() if name != "step"}, row["step"])

    def _stop(self, what: str, value: float, batch: Any, step: int) -> NoReturn:
        """Keep batch and weights, and raise the error that says where a number is not finite."""
        rank = self.fabric.global_rank
        path = self.folder / (f"nonfinite-{rank}.pt" if rank else "nonfinite.pt")
        content = {"batch": batch, "model": self.model.state_dict(), "epoch": self.epoch + 1, "step": step}
        try:
            write_tensors(path, content)
            kept = f"batch and weights are in {path} (torch.load with weights_only=False)"
        except OSError as error:
            kept = f"batch and weights could not be kept: {reason(error)}"
        raise NonFiniteError(f"the {what} is {value} in epoch {self.epoch + 1}, step {step}; {kept}")


def check_optimizer_state(state: Any, optimizer: Optimizer, steps: int) -> None:
    """Refuse the state of an optimizer that is not one of these parameters after so many steps.

    Args:
        state: of a file.
        optimizer: new.
        steps: how many it has taken.

    Raises:
        ValueError, TypeError, KeyError: a part of it is another.
    """
    like = {**optimizer.state_dict(), "state": {}}
    checkpoints.check_like("optimizer", {**state, "state": {}}, like)
    for found, ours in zip(state["param_groups"], like["param_groups"], strict=True):
        if other := [name for name in ours if name not in ("lr", *OF_DEVICE) and found[name] != ours[name]]:
            raise ValueError(f"optimizer: expected {other[0]} {ours[other[0]]}, got {found[other[0]]}")
    stepped = _state_after_a_step(optimizer)
    checkpoints.check_like("optimizer['state']", state["state"], {key: stepped.get(key) for key in state["state"]})
    for key, entries in state["state"].items():
        if not 1 <= entries.get("step", 1) <= steps or any(
            (entries[name] < 0).any() for name in entries if "_sq" in name
        ):
            raise ValueError(
                f"optimizer['state'][{key}]: expected at most {steps} steps, and squares above 0, got others"
            )


def _state_after_a_step(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """Found out on an optimizer like it, whose parameters and gradients are zero."""
    groups = []
    for group in optimizer.param_groups:
        zeros = [nn.Parameter(torch.zeros_like(parameter)) for parameter in group["params"]]
        for zero in zeros:
            zero.grad = torch.zeros_like(zero)
        groups.append({**group, "params": zeros})
    like = type(optimizer)(groups)
    like.step()
    return like.state_dict()["state"]


def check_rows(name: str, rows: Any, columns: set[str]) -> None:
    """Refuse what are no rows of numbers, all of the same columns.

    Args:
        name: of the rows, for the error.
        rows: of a file.
        columns: that they have at least, of finite numbers.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= columns for row in rows):
        raise ValueError(f"{name}: expected rows with the columns {sorted(columns)}")
    for row in rows:
        if row.keys() != rows[0].keys() or not all(type(value) in (int, float) for value in row.values()):
            raise ValueError(f"{name}: expected numbers in the columns of the first row")
        if not all(math.isfinite(row[column]) for column in columns):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
