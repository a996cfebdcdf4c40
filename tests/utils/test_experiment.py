"""The program around a training, on a line through points."""

import json

import pytest
import torch
from pydantic.dataclasses import dataclass
from torch import nn
from torch.utils.data import TensorDataset

from tests.wrong.checkpoints import WRONG, make_wrong
from tests.wrong.values import ODD, changed, oddities
from utils.cli import UsageError
from utils.config import RULES, Config, Count
from utils.experiment import Experiment
from utils.flags import CommandLine


@dataclass(frozen=True, kw_only=True, config=RULES)
class Model:
    width: Count = 4


@dataclass(frozen=True, kw_only=True, config=RULES)
class LineConfig(Config, Model):
    pass


def load(config):
    x = torch.linspace(0, 1, 16)[:, None]
    return {split: TensorDataset(x, 2 * x) for split in ("train", "valid", "test")}


def collate(samples, graph):
    x, y = (torch.stack(part) for part in zip(*samples, strict=True))
    return x, y


def batch_loss(model, batch):
    x, y = batch
    return {"loss": (model(x) - y).square().mean()}, len(x)


def report(config, trainer, loaders, folder):
    return {"loss": trainer.evaluate(loaders["test"])["loss"]}, ["that was a line"]


LINE = Experiment(
    command_line=CommandLine("Fits a line.", {"line": LineConfig(num_epochs=2, batch_size=4, lr=0.01)}),
    model=Model,
    load=load,
    collate=collate,
    make_model=lambda config: nn.Sequential(nn.Linear(1, config.width), nn.Linear(config.width, 1)),
    make_loss=lambda config, dataset: batch_loss,
    report=report,
)


@pytest.fixture
def train(tmp_path):
    def call(*arguments, output="run"):
        given = [] if "--resume" in arguments else ["--output", str(tmp_path / output)]
        return LINE.main([*given, *arguments])

    return call


def test_training_and_its_summary(train, tmp_path, capsys):
    metrics = train()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert (metrics["parameters"], metrics["epochs"], metrics["best_epoch"]) == (13, 2, 2)
    printed = capsys.readouterr().out
    assert "that was a line\nparameters          13\nseconds per epoch" in printed
    assert f"everything is in    {tmp_path / 'run'}" in printed


@pytest.mark.parametrize("options", [[], ["--ema", "0.9"]])
def test_forward_evaluates_weights_without_training(train, tmp_path, capsys, options):
    metrics = train("--num_epochs", "5", *options)
    best = str(tmp_path / "run" / "checkpoints" / "best.pt")
    for again in (
        train("--forward", "--restore", best, *options, output="restored"),
        train("--forward", "--resume", str(tmp_path / "run")),
    ):
        assert again["loss"] == metrics["loss"]
    assert not (tmp_path / "restored" / "checkpoints").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["flags"]["forward"] is False
    with pytest.raises(UsageError, match=r"^--forward: expected trained weights, from --restore or --resume"):
        train("--forward", output="other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_checkpoints_are_named(train, tmp_path, name):
    train("--num_epochs", "1")
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    message, _ = make_wrong(name, path)
    for options in ([], ["--forward"]):
        with pytest.raises(UsageError, match=f"^--restore: .*{message}"):
            train("--restore", str(path), *options, output="other")
    assert not (tmp_path / "other").exists()
    path = path.with_name("last.pt")
    before = (tmp_path / "run" / "config.json").read_bytes()
    _, message = make_wrong(name, path)
    if name == "missing":
        return  # a run that was interrupted in its first epoch begins anew
    for options in ([], ["--forward"]):
        with pytest.raises(UsageError, match=f"^--resume: .*{message}"):
            train("--resume", str(tmp_path / "run"), *options)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_weights_of_another_model_are_named(train, tmp_path):
    train("--num_epochs", "1")
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("best", "last"):
        with pytest.raises(UsageError, match=rf"^--restore: .*{name}\.pt: expected .* --width 5, got .* --width 4$"):
            train("--restore", str(checkpoints / f"{name}.pt"), "--width", "5", output="other")
    train("--width", "5", "--num_epochs", "1", output="wide")
    (tmp_path / "wide" / "checkpoints" / "last.pt").replace(checkpoints / "last.pt")
    with pytest.raises(UsageError, match=r"(?s)^--resume: .*last\.pt: of another model: .*size mismatch"):
        train("--resume", str(tmp_path / "run"))


def test_decay_shrinks_the_weights(train, tmp_path):
    sizes = []
    for number, options in enumerate([[], ["--weight_decay", "5"]]):
        train(*options, output=f"{number}")
        weights = torch.load(tmp_path / f"{number}" / "checkpoints" / "best.pt", weights_only=True)["model"]
        sizes.append(sum(value.square().sum() for value in weights.values()))
    assert sizes[1] < sizes[0]


def test_warmup_and_average_are_of_the_run(train, tmp_path):
    train("--warmup", "3", "--ema", "0.9", "--log_interval", "1")
    first, second = (tmp_path / "run" / "steps.csv").read_text().splitlines()[1:3]
    assert [float(line.split(",")[2]) for line in (first, second)] == [0.0025, 0.005]
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert "average" in state
    with pytest.raises(UsageError, match=r"--ema 0\.5 contradicts"):
        train("--resume", str(tmp_path / "run"), "--ema", "0.5")


def test_soap_trains_and_goes_on(train, tmp_path):
    soap = ["--optimizer", "soap", "--num_epochs"]
    whole = train(*soap, "6", output="whole")["loss"]
    assert whole < train(*soap, "1", output="parts")["loss"]
    assert train("--resume", str(tmp_path / "parts"), "--num_epochs", "6")["loss"] == pytest.approx(whole, rel=0.5)
    assert train(*soap, "6", output="again")["loss"] == whole
    with pytest.raises(UsageError, match="--optimizer adamw contradicts"):
        train("--resume", str(tmp_path / "parts"), "--optimizer", "adamw")
    with pytest.raises(UsageError, match=r"^--cuda_graphs: expected --optimizer adamw, got soap"):
        train(*soap, "6", "--cuda_graphs", output="graphs")


@pytest.mark.parametrize("count", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_odd_configurations_are_refused_in_a_line_or_trained_on(train, tmp_path, count):
    """Values of config.json, at random, are missing, of another type, NaN, huge, negative or nested."""
    train("--num_epochs", "1")
    path, messages = tmp_path / "run" / "config.json", []
    config = json.loads(path.read_text())
    state = (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes()
    for place, value in oddities(config, ODD, count):
        if place[-1:] == ("profile",):  # which is not stored
            continue
        path.write_text(json.dumps(changed(config, place, value)))
        try:
            train("--resume", str(tmp_path / "run"))
        except UsageError as error:
            messages.append(str(error))
    assert len(messages) > 70
    assert [message for message in messages if "\n" in message or len(message) > 600] == []
    assert (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes() == state


@pytest.mark.parametrize("content", ["[" * 200_000, "{" * 10, "\x00", '{"flags": NaN}', "9" * 5000, " " * (1 << 25)])
def test_files_that_are_no_configuration(train, tmp_path, content):
    train("--num_epochs", "1")
    (tmp_path / "run" / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"^--resume: .*config\.json") as caught:
        train("--resume", str(tmp_path / "run"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [{"epoch": "x"}, {"best": {"epoch": 1, "loss": 0.1}}, {"model": {}}, {"rng": 1}])
def test_odd_states_leave_the_folder_as_it_was(train, tmp_path, damage):
    train("--num_epochs", "1")
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    torch.save({**torch.load(last, weights_only=True), **damage}, last)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"^--resume: .*last\.pt: of another model: ") as caught:
        train("--resume", str(tmp_path / "run"), "--num_epochs", "3")
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
