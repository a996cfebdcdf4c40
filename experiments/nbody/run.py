"""Trains a model to predict where charged particles, or particles on springs, will be.

python experiments/nbody/run.py                     a small model, in minutes
python experiments/nbody/run.py --preset paper      Table 1 of the SE(3)-Transformers paper
python experiments/nbody/run.py --resume FOLDER     goes on with an interrupted run
"""

from __future__ import annotations

import functools
import statistics
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from experiments.nbody import models, plots
from experiments.nbody.data import NBodyDataset, collate, load_or_simulate, load_trajectories
from experiments.nbody.evaluation import METRICS, as_trained, batch_loss, compare, relative_equivariance_error, table
from experiments.nbody.simulation import Settings, Trajectories
from utils import checkpoints, runs
from utils.cli import UsageError, blame, check, count, make_parser, none_or_text, parse, positive, run
from utils.files import write_json
from utils.loaders import EpochLoader
from utils.plots import learning_curves
from utils.profiling import profile_steps
from utils.trackers import TensorBoard, Tracker, WandB
from utils.training import Trainer, cosine_schedule, make_fabric

# ------------------------------------------------------------------------------------------------------- presets

QUICK = {
    # model
    "model": "SE3Transformer", "num_layers": 2, "num_degrees": 3, "num_channels": 8, "div": 2, "head": 2,
    "simid": "1x1", "siend": "att", "xij": "add",
    # training
    "num_epochs": 30, "batch_size": 64, "lr": 3e-3, "clip_norm": 1.0, "seed": 42, "restore": None,
    # data
    "ri_data_type": "charged", "n_balls": 5, "num_train": 2000, "num_valid": 300, "num_test": 500,
    "ri_delta_t": 5, "ri_burn_in": 0, "ri_start_at": "all", "sample_freq": None,
    "ri_data": None, "data_str": None, "data": "data/nbody",
    "evaluate": None, "evaluate_delta_t": 1, "evaluate_sample_freq": None,
    # machine
    "device": "auto", "graph": "auto", "precision": "32-true", "num_workers": 0,
    # run
    "name": None, "save_dir": "runs/nbody", "output": None, "resume": None, "profile": False,
    "log_interval": 10, "print_interval": 5, "tensorboard": False, "wandb": False,
}  # fmt: skip
PAPER = {
    **QUICK,
    "num_layers": 4, "num_degrees": 4, "num_channels": 8, "div": 4, "head": 2,
    "num_epochs": 300, "batch_size": 128, "lr": 1e-3, "clip_norm": None,
    "num_train": 3000, "num_valid": 2000, "num_test": 2000,
    "ri_delta_t": 10, "ri_start_at": "zero",
}  # fmt: skip
PRESETS = {
    "quick": QUICK,
    "paper": PAPER,  # 1000 steps of the simulation, as the published command and Table 1's figures say
    "paper-500": {**PAPER, "ri_delta_t": 5},  # 500 steps, as the paper's text says
}

# What may differ when a run is resumed: it changes how, how long or how visibly, but not what is trained.
FREE = {
    "resume", "num_epochs", "device", "num_workers", "log_interval", "print_interval", "data", "profile",
    "tensorboard", "wandb", "evaluate", "evaluate_delta_t", "evaluate_sample_freq",
}  # fmt: skip


def build_parser() -> ArgumentParser:
    """The parser of the command line."""
    parser = make_parser(__doc__, PRESETS)

    add = parser.add_argument_group("model").add_argument
    add("--model", choices=("SE3Transformer", "TFN"))
    add("--num_layers", type=count(1), help="layers in the middle")
    add("--num_degrees", type=count(1), help="degrees 0 to NUM_DEGREES - 1 in the middle")
    add("--num_channels", type=count(1), help="channels per degree")
    add("--div", type=positive, help="what channels are divided by for keys and values (SE3Transformer)")
    add("--head", type=count(1), help="attention heads (SE3Transformer)")
    add("--simid", choices=("1x1", "att"), help="self-interaction of the middle layers (SE3Transformer)")
    add("--siend", choices=("1x1", "att"), help="self-interaction of the last layer (SE3Transformer)")
    add("--xij", choices=("add", "cat", "none"), help="what becomes of relative positions (SE3Transformer)")

    add = parser.add_argument_group("training").add_argument
    add("--num_epochs", type=count(1), help="passes over the training trajectories")
    add("--batch_size", type=count(1), help="trajectories in a batch")
    add("--lr", type=positive, help="learning rate of Adam at the start; falls to a tenth of it along a cosine")
    add("--clip_norm", type=positive, help="largest norm of a gradient (None: any)")
    add("--seed", type=count(0), help="of simulation, initial weights and batches")
    add("--restore", metavar="FILE", help="weights to start from: a checkpoint, published ones included")

    add = parser.add_argument_group("data").add_argument
    add("--ri_data_type", choices=("charged", "springs"), help="what is simulated")
    add("--n_balls", type=count(2), help="particles of a simulated system")
    add("--num_train", type=count(1), help="simulated trajectories to train on")
    add("--num_valid", type=count(1), help="simulated trajectories that choose the best weights")
    add("--num_test", type=count(1), help="simulated trajectories to test on")
    add("--ri_delta_t", type=count(1), help="frames between input and target")
    add("--ri_burn_in", type=count(0), help="frames at the beginning never to start from")
    add("--ri_start_at", choices=("zero", "all"), help="start from the first frame, or from any")
    add("--sample_freq", type=count(1), help="simulation steps between frames (None: 100, or what the files say)")
    add("--ri_data", metavar="FOLDER", help="read ds_{train,valid,test}_NAME.pkl from there instead of simulating")
    add("--data_str", metavar="NAME", help="of these files (None: as in charged5)")
    add("--data", metavar="FOLDER", help="where simulated data are kept")
    add("--evaluate", metavar="FILE", type=none_or_text,
        help="also evaluate on the trajectories in this .npz or .pkl (none: no longer)")  # fmt: skip
    add("--evaluate_delta_t", type=count(1), help="frames of that file between input and target")
    add("--evaluate_sample_freq", type=count(1), help="simulation steps between its frames (None: what it says)")

    add = parser.add_argument_group("machine").add_argument
    add("--device", help="auto, cpu, cuda or cuda:N")
    add("--graph", choices=("auto", "dgl", "own"), help="graph class (auto: DGL on a CPU where it is installed)")
    add("--precision", choices=("32-true", "bf16-mixed", "64-true"))
    add("--num_workers", type=count(0), help="processes that prepare batches")

    add = parser.add_argument_group("run").add_argument
    add("--name", help="of the run (None: the preset's)")
    add("--save_dir", metavar="FOLDER", help="a run's folder is SAVE_DIR/NAME, or SAVE_DIR/NAME-2, ... if it exists")
    add("--output", metavar="FOLDER", help="the run's folder itself, without a run in it so far")
    add("--resume", metavar="FOLDER", help="go on with the run in this folder, with its own flags")
    add("--log_interval", type=count(1), help="steps between rows of steps.csv")
    add("--print_interval", type=count(1), help="steps between refreshings of the progress bar")
    add("--tensorboard", action=BooleanOptionalAction, help="also log to TensorBoard")
    add("--wandb", action=BooleanOptionalAction, help="also log to Weights & Biases")
    add(
        "--profile",
        action=BooleanOptionalAction,
        help="write a profile of a few training steps, then stop without training",
    )
    return parser


def refuse_idle(flags: Namespace, given: dict[str, Any]) -> None:
    """Refuse flags that would have no effect.

    Args:
        flags: every flag.
        given: those on the command line.

    Raises:
        UsageError: a flag on the command line does nothing without, or with, another.
    """
    idle = {}
    if flags.ri_data is None:
        idle["data_str"] = "without --ri_data"
    else:
        idle |= dict.fromkeys(("n_balls", "num_train", "num_valid", "num_test"), "with --ri_data")
    if flags.evaluate is None:
        idle |= dict.fromkeys(("evaluate_delta_t", "evaluate_sample_freq"), "without --evaluate")
    for name in sorted(idle.keys() & given.keys()):
        raise UsageError(f"--{name} has no effect {idle[name]}")


# ---------------------------------------------------------------------------------------------------------- data


def load_splits(flags: Namespace) -> dict[str, NBodyDataset]:
    """The datasets ``'train'``, ``'test'`` and, unless files were given without one, ``'valid'``.

    Args:
        flags: every flag.
    """
    splits = _simulate_splits(flags) if flags.ri_data is None else _read_splits(flags)
    return {
        split: NBodyDataset(trajectories, flags.ri_delta_t, flags.ri_burn_in, flags.ri_start_at, flags.seed)
        for split, trajectories in splits.items()
    }


def _simulate_splits(flags: Namespace) -> dict[str, Trajectories]:
    settings = Settings(flags.ri_data_type, flags.n_balls, sample_freq=flags.sample_freq or 100)
    sizes = {"train": flags.num_train, "valid": flags.num_valid, "test": flags.num_test}
    return {
        split: load_or_simulate(flags.data, settings, size, flags.seed, split, progress=True)
        for split, size in sizes.items()
    }


def _read_splits(flags: Namespace) -> dict[str, Trajectories]:
    name = flags.data_str or f"{flags.ri_data_type}{flags.n_balls}"
    paths = {split: Path(flags.ri_data) / f"ds_{split}_{name}.pkl" for split in ("train", "valid", "test")}
    if not paths["valid"].exists():
        del paths["valid"]
    return {split: load_trajectories(path, flags.sample_freq) for split, path in paths.items()}


def load_extra(flags: Namespace, horizon: int) -> NBodyDataset:
    """The dataset of --evaluate.

    Args:
        flags: every flag.
        horizon: of the training, in steps.

    Raises:
        UsageError: its horizon is another.
    """
    trajectories = load_trajectories(flags.evaluate, flags.evaluate_sample_freq)
    dataset = NBodyDataset(trajectories, flags.evaluate_delta_t, start_at=flags.ri_start_at, seed=flags.seed)
    if dataset.horizon != horizon:
        raise UsageError(
            f"--evaluate_delta_t: {flags.evaluate_delta_t} frames of {flags.evaluate} are {dataset.horizon} steps of "
            f"the simulation, but the model predicts {horizon}"
        )
    return dataset


def choose_graph(graph: str, device: torch.device) -> str:
    """What --graph means here, ``'dgl'`` or ``'own'``.

    Args:
        graph: the flag.
        device: of the training.

    Raises:
        UsageError: DGL is asked for and cannot be used.
    """
    if graph == "own" or (graph == "auto" and device.type != "cpu"):
        return "own"
    try:
        import dgl

        dgl.graph(([0], [0])).to(device)
    except Exception as error:  # DGL fails in many ways where it is not made for this PyTorch, Python or device
        if graph == "auto":
            return "own"
        raise UsageError(f"--graph dgl: DGL cannot be used here on {device}: {error}") from error
    return "dgl"


def make_batch(samples: list, graph: str, dtype: torch.dtype) -> tuple[Any, torch.Tensor]:
    """The batch of :func:`collate`, all numbers in one type.

    Args:
        samples: as for :func:`collate`.
        graph: as for :func:`collate`.
        dtype: type of the numbers.
    """
    G, target = collate(samples, graph)
    for fields in (G.ndata, G.edata):
        for name in list(fields):
            fields[name] = fields[name].to(dtype)
    return G, target.to(dtype)


def make_loader(flags: Namespace, fabric: Fabric, dataset: NBodyDataset, shuffle: bool = False) -> EpochLoader:
    """The batches of a dataset.

    Args:
        flags: every flag.
        fabric: of the training.
        dataset: what to make batches of.
        shuffle: whether to permute, differently in each epoch.
    """
    dtype = torch.float64 if flags.precision == "64-true" else torch.float32
    batch = functools.partial(make_batch, graph=choose_graph(flags.graph, fabric.device), dtype=dtype)
    return EpochLoader(
        dataset, flags.batch_size, batch, shuffle=shuffle, seed=flags.seed, num_workers=flags.num_workers
    )


# --------------------------------------------------------------------------------------------------------- model


def make_model(flags: Namespace) -> nn.Module:
    """The untrained model.

    Args:
        flags: every flag.
    """
    return getattr(models, flags.model)(
        num_layers=flags.num_layers,
        num_channels=flags.num_channels,
        num_degrees=flags.num_degrees,
        div=flags.div,
        n_heads=flags.head,
        si_m=flags.simid,
        si_e=flags.siend,
        x_ij=None if flags.xij == "none" else flags.xij,
    )


def make_trainer(flags: Namespace, fabric: Fabric, folder: Path, steps_per_epoch: int) -> Trainer:
    """The training in the state its folder holds, if any, else at its beginning.

    Args:
        flags: every flag.
        fabric: device and precision.
        folder: of the run.
        steps_per_epoch: batches in an epoch.

    Raises:
        UsageError: the flags make no model, or one that the weights do not fit; more epochs are done than asked for.
    """
    fabric.seed_everything(flags.seed, verbose=False)
    with blame("--model"):
        model = make_model(flags)
    optimizer = torch.optim.Adam(model.parameters(), lr=flags.lr)
    schedule = cosine_schedule(optimizer, flags.num_epochs * steps_per_epoch)
    trainer = Trainer(fabric, model, optimizer, schedule, batch_loss, folder, clip_norm=flags.clip_norm)
    if trainer.checkpoint.exists():
        with blame("--resume"):
            trainer.resume()
    elif flags.restore is not None:
        with blame("--restore"):
            checkpoints.restore(model, flags.restore)
    if trainer.epoch > flags.num_epochs:
        raise UsageError(f"--num_epochs {flags.num_epochs}: the resumed run has done {trainer.epoch} epochs already")
    return trainer


# -------------------------------------------------------------------------------------------------------- report


def report(trainer: Trainer, loaders: dict[str, EpochLoader], folder: Path) -> dict[str, Any]:
    """Evaluate the best weights, write metrics.json and plots, print the table.

    Args:
        trainer: after the training.
        loaders: batches of every split.
        folder: of the run.

    Returns:
        what metrics.json holds.
    """
    trainer.use_best()
    fabric, model, test = trainer.fabric, trainer.model.eval(), loaders["test"].dataset
    results = {split: compare(fabric, model, loader) for split, loader in loaders.items() if split != "train"}
    G, _ = loaders["test"].collate_fn([test[i] for i in range(min(len(test), 100))])
    errors = relative_equivariance_error(fabric, model, G)
    metrics = {
        **results,
        "equivariance_error": errors,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": trainer.epoch,
        "best_epoch": trainer.best["epoch"],
        "seconds_per_epoch": statistics.median(row["seconds"] for row in trainer.epochs),
        "horizon_steps": test.horizon,
        "horizon_time": test.horizon_time,
    }
    write_json(folder / "metrics.json", metrics)
    draw(trainer, loaders["test"], results["test"], folder / "plots")
    for split in [split for split in ("test", "evaluate") if split in results]:
        print(f"\n{split}: {len(loaders[split].dataset)} trajectories, {test.horizon} steps ahead")
        print(table(results[split]))
    print(f"\nequivariance error  {max(errors.values()):.1e} (relative; largest of {', '.join(errors)})")
    print(f"parameters          {metrics['parameters']}")
    print(f"seconds per epoch   {metrics['seconds_per_epoch']:.2f}")
    print(f"best epoch          {metrics['best_epoch']} of {metrics['epochs']}")
    print(f"everything is in    {folder}")
    return metrics


def draw(trainer: Trainer, test: EpochLoader, results: dict, folder: Path) -> None:
    """Draw the learning curves, and the first test cases.

    Args:
        trainer: after the training.
        test: the test set.
        results: metrics on it, by predictor.
        folder: gets the plots.
    """
    baselines = {name: row for name, row in results.items() if name != type(trainer.model).__name__}
    learning_curves(trainer.epochs, METRICS, folder / "learning_curves.png", baselines)
    batch = test.collate_fn([test.dataset[i] for i in range(min(len(test.dataset), 3))])
    G, target = trainer.fabric.to_device(batch)
    prediction = as_trained(trainer.fabric, trainer.model)(G)
    title = f"test set, {test.dataset.horizon} simulation steps ahead"
    plots.predictions(G, target, prediction, title, folder / "predictions.png")


# ---------------------------------------------------------------------------------------------------------- main


def open_run(flags: Namespace, given: dict[str, Any]) -> tuple[runs.Run, Namespace]:
    """The run's folder, new or resumed, and the flags that hold in it.

    Args:
        flags: every flag.
        given: those on the command line.

    Raises:
        UsageError: there is no such folder to be had, or the flags contradict those of the resumed run.
    """
    if flags.resume is None:
        refuse_idle(flags, given)
        name = flags.preset if flags.name is None else flags.name
        return runs.create(lasting(flags), flags.output, flags.save_dir, name), flags
    folder = runs.reopen(flags.resume)
    try:
        stored = folder.config["flags"]
        merged = Namespace(**runs.reconcile(vars(flags), given, stored, FREE))
        with blame(f"--resume: {folder.path / runs.CONFIG}"):
            check(build_parser(), PRESETS, stored)
        refuse_idle(merged, given)
    except UsageError:
        folder.close()
        raise
    return folder, merged


def lasting(flags: Namespace) -> dict[str, Any]:
    """The flags of a run as its config.json holds them: those that only say how to start are unset.

    Args:
        flags: every flag.
    """
    return {**vars(flags), "resume": None, "profile": False}


def prepare(flags: Namespace, folder: runs.Run) -> tuple[Trainer, dict[str, EpochLoader]]:
    """The training, and the batches of every split.

    Args:
        flags: every flag.
        folder: of the run.

    Raises:
        UsageError: a flag, named, asks for what cannot be done.
    """
    with blame("--device", device="--device"):
        fabric = make_fabric(flags.device, flags.precision)
    source = "--data" if flags.ri_data is None else "--ri_data"
    with blame(source, delta_t="--ri_delta_t", burn_in="--ri_burn_in", sample_freq="--sample_freq"):
        datasets = load_splits(flags)
    if flags.evaluate is not None:
        with blame("--evaluate", delta_t="--evaluate_delta_t", sample_freq="--evaluate_sample_freq"):
            datasets["evaluate"] = load_extra(flags, datasets["train"].horizon)
    loaders = {split: make_loader(flags, fabric, data, split == "train") for split, data in datasets.items()}
    trainer = make_trainer(flags, fabric, folder.path, len(loaders["train"]))
    trainer.trackers = make_trackers(flags, folder, trainer.step)
    return trainer, loaders


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


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        what metrics.json holds; nothing after --profile.

    Raises:
        UsageError: flags ask for what cannot be done.
        NonFiniteError: the training diverged.
    """
    flags, given = parse(build_parser(), PRESETS, arguments)
    folder, flags = open_run(flags, given)
    with folder:
        try:
            trainer, loaders = prepare(flags, folder)
        except Exception:
            folder.discard_if_new()
            raise
        folder.write_config(lasting(flags))  # a resumed run that could not start stays as it was
        if flags.profile:
            batch = next(iter(loaders["train"]))
            print(profile_steps(lambda: trainer.take_step(batch), folder.path / "profile"))
            print(f"stopped after profiling; trace and table are in {folder.path / 'profile'}")
            return {}
        print(f"run folder: {folder.path} (if interrupted, go on with --resume {folder.path})")
        trainer.fit(loaders["train"], loaders.get("valid"), flags.num_epochs, flags.log_interval, flags.print_interval)
        for tracker in trainer.trackers:
            tracker.close()
        return report(trainer, loaders, folder.path)


if __name__ == "__main__":
    run(main)
