import csv
import functools
import os
from contextlib import suppress

import pytest
import torch

from tests.rewound import Rewound
from tests.wrong.values import ODD, ODD_TENSORS, changed, oddities
from utils import checkpoints, training
from utils.checkpoints import CheckpointError
from utils.loaders import EpochLoader
from utils.soap import SOAP
from utils.training import NonFiniteError, Trainer, cosine_schedule, make_fabric

EPOCHS, STEPS = 4, 5


class Killed(BaseException):
    """Stands for a SIGKILL; nothing here catches it."""


def batch_loss(model, batch):
    x, y = batch
    error = (model(x) - y).square().mean()
    return {"loss": error, "root": error.sqrt()}, len(x)


def make_loaders(rows=17):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator)
    data = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True) + torch.randn(rows, 1, generator=generator))
    collate = torch.utils.data.default_collate
    return EpochLoader(data, 4, collate, shuffle=True, seed=1), EpochLoader(data, 8, collate)


def adam(flat):
    return torch.optim.Adam(flat.whole, lr=0.05)


def soap(flat):
    return SOAP(flat.groups, lr=0.05, every=3)


def make_trainer(folder, loss=batch_loss, width=8, optimizer=adam, **options):
    torch.manual_seed(0)
    # Dropout draws from the global generator: resuming has to put that back.
    model = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.Dropout(0.3), torch.nn.Linear(width, 1))
    schedule = functools.partial(cosine_schedule, steps=EPOCHS * STEPS)
    return Trainer(make_fabric("cpu", "32-true"), model, optimizer, schedule, loss, folder, **options)


def fit(trainer, epochs=EPOCHS, valid=True):
    train, valid_loader = make_loaders()
    trainer.fit(train, valid_loader if valid else None, epochs, log_interval=2, print_interval=3)


def rows(path):
    with open(path, newline="") as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def outcome(folder):
    best = torch.load(folder / "checkpoints" / "best.pt", weights_only=True)
    return rows(folder / "metrics.csv"), rows(folder / "steps.csv"), best["epoch"], best["model"]["0.weight"].tolist()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    fit(make_trainer(folder))
    return outcome(folder)


def resume(folder):
    trainer = make_trainer(folder)
    if trainer.checkpoint.exists():
        torch.rand(7)  # in another process the generators are elsewhere
        trainer.resume()
    fit(trainer)
    return outcome(folder)


def test_history(uninterrupted):
    epochs, steps, best, _ = uninterrupted
    assert list(epochs[0]) == [
        "epoch", "step", "learning_rate", "train_loss", "train_root", "valid_loss", "valid_root"
    ]  # fmt: skip
    assert [int(row["epoch"]) for row in epochs] == list(range(1, EPOCHS + 1))
    assert [int(row["step"]) for row in steps] == list(range(2, EPOCHS * STEPS + 1, 2))
    losses = [float(row["valid_loss"]) for row in epochs]
    assert losses[-1] < losses[0]
    assert best == 1 + losses.index(min(losses))


def test_learning_rate_falls_to_a_tenth():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = cosine_schedule(optimizer, 10)
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == 2.0
    assert rates == sorted(rates, reverse=True)
    assert rates[10:] == pytest.approx([0.2, 0.2])


def test_warmup_rises_linearly_before_the_cosine():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = cosine_schedule(optimizer, 13, warmup=3)
    rates = []
    for _ in range(14):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[8] == pytest.approx(1.1)  # half way
    assert rates[13] == pytest.approx(0.2)


@pytest.mark.parametrize("step", [0, 1, STEPS, STEPS + 3, 3 * STEPS - 1])
def test_killed_in_a_step_and_resumed(tmp_path, uninterrupted, step):
    calls = []

    def killing_loss(model, batch):
        calls.append(1)
        if len(calls) > step:
            raise Killed
        return batch_loss(model, batch)

    with pytest.raises(Killed):
        fit(make_trainer(tmp_path, killing_loss))
    assert resume(tmp_path) == uninterrupted


@pytest.mark.parametrize("write", range(4 * EPOCHS))
def test_killed_while_writing_and_resumed(tmp_path, uninterrupted, monkeypatch, write):
    replace, calls = os.replace, []

    def killing_replace(source, target):
        calls.append(target)
        if len(calls) > write:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        patch.setattr(os, "replace", killing_replace)
        fit(make_trainer(tmp_path))
    assert resume(tmp_path) == uninterrupted


def test_resuming_a_finished_training_changes_nothing(tmp_path, uninterrupted):
    fit(make_trainer(tmp_path))
    assert resume(tmp_path) == uninterrupted


def test_resuming_with_more_epochs(tmp_path):
    fit(make_trainer(tmp_path), epochs=1)
    trainer = make_trainer(tmp_path)
    trainer.resume()
    fit(trainer, epochs=3)
    assert [row["epoch"] for row in rows(tmp_path / "metrics.csv")] == ["1", "2", "3"]


def test_resuming_another_model(tmp_path):
    fit(make_trainer(tmp_path), epochs=1)
    with pytest.raises(CheckpointError, match="of another model"):
        make_trainer(tmp_path, width=9).resume()


@pytest.mark.parametrize("key", ["model", "optimizer", "best", "rng"])
def test_resuming_from_an_incomplete_state(tmp_path, key):
    fit(make_trainer(tmp_path), epochs=1)
    path = make_trainer(tmp_path).checkpoint
    state = checkpoints.load(path, checkpoints.STATE)
    del state[key]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=rf"last\.pt: incomplete, without \['{key}'\]"):
        make_trainer(tmp_path).resume()


def reader_after_two_epochs(folder, **options):
    """Gives the content of a last.pt, anew each time, since optimizers write to what they are given."""
    trainer = make_trainer(folder, ema=0.9, **options)
    fit(trainer, epochs=2)
    return functools.partial(checkpoints.load, trainer.checkpoint, checkpoints.STATE)


@pytest.fixture(scope="module")
def read_state(tmp_path_factory):
    return reader_after_two_epochs(tmp_path_factory.mktemp("two_epochs"))


@pytest.mark.parametrize("count", [200, pytest.param(600, marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", [adam, soap])
def test_odd_states_are_refused_in_a_line_or_trained_on(tmp_path, monkeypatch, optimizer, count):
    """Values of last.pt, at random, are missing, of another type, NaN, huge, negative, nested or of another shape."""
    make, messages = functools.partial(make_trainer, tmp_path / "odd", ema=0.9, optimizer=optimizer), []
    read_state, trainer = reader_after_two_epochs(tmp_path / "two_epochs", optimizer=optimizer), make()
    for path, value in oddities(read_state(), {**ODD, **ODD_TENSORS}, count):
        state = changed(read_state(), path, value)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(checkpoints, "_read", lambda _, state=state: state)
                trainer.resume()
        except CheckpointError as error:
            messages.append(str(error))
            continue
        with suppress(NonFiniteError):
            fit(trainer, epochs=3)
        trainer = make()
    assert len(messages) > 150
    assert [message for message in messages if "\n" in message or "last.pt: " not in message] == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("optimizer", "state", 0, "exp_avg"),
            torch.zeros(1),
            r"\['exp_avg'\]: size mismatch, expected .* of shape \[80\], got",
        ),
        (("optimizer", "state", 0, "exp_avg_sq"), torch.full((80,), -1.0), "squares above 0"),
        (("optimizer", "state", 0, "step"), torch.tensor(1e9), "expected at most 10 steps"),
        (("optimizer", "param_groups", 0, "betas"), (0.5, 7.0), "expected betas"),
        (("optimizer", "param_groups", 0, "lr"), 0.7, "it differs in _last_lr"),
        (("schedule", "base_lrs"), [0.5], "it differs in base_lrs"),
        (("schedule", "last_epoch"), 3, "schedule: expected that of step 10, it differs in last_epoch"),
        (("model", "0.weight"), torch.full((8, 3), torch.nan), "expected finite numbers"),
        (("epoch",), "x", "epoch: expected a int, got a str"),
        (("epoch",), 1, "epochs: expected rows of 1 epochs"),
        (("epochs", 0, "seconds"), float("nan"), "epochs: expected finite"),
        (("steps", 1), {"loss": 1.0}, "steps: expected rows with the columns"),
        (("best", "loss"), float("nan"), "finite"),
        (("best", "epoch"), 9, "best: expected one of 2 epochs"),
        (("best",), {"epoch": 1, "loss": 0.1}, "model"),
        (("rng", "numpy", "state", "key"), [2**40] * 624, r"rng\['numpy'\].*32 bits"),
        (("rng", "numpy", "state", "pos"), 10**6, "expected a place in the key"),
        (("rng", "torch"), torch.zeros(5056, dtype=torch.uint8), "."),
        (("rng", "python"), (3, (0,) * 9, None), r"rng\['python'\]"),
        (("rng", "python", 2), [None], r"rng\['python'\]: expected a number or None at its end, got a list"),
    ],
)
def test_odd_states_are_named(tmp_path, monkeypatch, read_state, path, value, message):
    state = changed(read_state(), path, value)
    monkeypatch.setattr(checkpoints, "_read", lambda _: state)
    with pytest.raises(CheckpointError, match=rf"last\.pt: of another model: .*{message}"):
        make_trainer(tmp_path, ema=0.9).resume()
    assert not [*tmp_path.rglob("*.pt")]


def test_best_weights_are_those_of_the_best_epoch(tmp_path):
    trainer = make_trainer(tmp_path)
    fit(trainer)
    trainer.use_best()
    assert trainer.evaluate(make_loaders()[1])["loss"] == trainer.best["loss"]


def test_without_validation_the_last_weights_are_the_best(tmp_path):
    trainer = make_trainer(tmp_path)
    fit(trainer, valid=False)
    assert (trainer.best["epoch"], trainer.best["loss"]) == (EPOCHS, None)
    assert "valid_loss" not in rows(tmp_path / "metrics.csv")[0]


def test_metrics_are_means_over_samples_not_batches(tmp_path):
    trainer = make_trainer(tmp_path)
    x, y = make_loaders()[1].dataset.tensors
    loss = trainer.evaluate(make_loaders()[1])["loss"]  # batches of 8, 8 and 1
    assert loss == pytest.approx((trainer.model(x) - y).square().mean().item(), rel=1e-5)


def test_clipping(tmp_path):
    batch = next(iter(make_loaders()[0]))
    for clip_norm, largest in ((None, torch.inf), (0.01, 0.0101)):
        trainer = make_trainer(tmp_path, clip_norm=clip_norm)
        norm = trainer.take_step(batch).read()[1]["gradient_norm"]
        left = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm().item()
        assert norm > 0.1  # the norm before clipping
        assert left == pytest.approx(min(norm, largest), rel=0.02)


def test_average_of_the_weights(tmp_path):
    """What is evaluated and kept is the moving average; the weights themselves train on as without it."""
    plain, averaged = make_trainer(tmp_path / "plain"), make_trainer(tmp_path / "averaged", ema=0.8)
    weights = []
    for number, batch in enumerate([*make_loaders()[0], *make_loaders()[0]]):
        for trainer in (plain, averaged):
            torch.manual_seed(number)  # of dropout
            trainer.take_step(batch)
        weights.append(plain.model[0].weight.detach().clone())
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.8 * expected + 0.2 * weight
    assert torch.equal(averaged.model[0].weight, weights[-1])
    before = averaged.evaluate(make_loaders()[1])["loss"]
    assert torch.equal(averaged.model[0].weight, weights[-1])
    averaged._end_epoch({"valid_loss": before})
    torch.testing.assert_close(averaged.best["model"]["0.weight"], expected)
    averaged.use_best()
    torch.testing.assert_close(averaged.model[0].weight, expected)
    assert averaged.evaluate(make_loaders()[1])["loss"] == before != plain.evaluate(make_loaders()[1])["loss"]


def test_resuming_goes_on_in_the_bases_of_soap(tmp_path):
    whole = make_trainer(tmp_path / "whole", optimizer=soap)
    fit(whole)
    fit(make_trainer(tmp_path / "parts", optimizer=soap), epochs=1)
    trainer = make_trainer(tmp_path / "parts", optimizer=soap)
    trainer.resume()
    fit(trainer)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    with pytest.raises(CheckpointError, match="optimizer"):
        make_trainer(tmp_path / "whole").resume()


def test_resuming_goes_on_with_the_average(tmp_path):
    outcomes = []
    for name, stops in (("whole", [EPOCHS]), ("resumed", [1, 3, EPOCHS])):
        for epochs in stops:
            trainer = make_trainer(tmp_path / name, ema=0.9)
            if trainer.checkpoint.exists():
                torch.rand(7)
                trainer.resume()
            fit(trainer, epochs)
        outcomes.append(outcome(tmp_path / name))
    assert outcomes[0] == outcomes[1]
    fit(make_trainer(tmp_path / "plain"), epochs=1)
    with pytest.raises(CheckpointError, match="incomplete, without"):
        make_trainer(tmp_path / "plain", ema=0.9).resume()


def test_probe_is_recorded_after_each_backward_pass(tmp_path):
    trainer = make_trainer(tmp_path, probe=lambda model: {"bias_gradient": model[2].bias.grad.norm()})
    fit(trainer, epochs=1)
    assert float(rows(tmp_path / "steps.csv")[0]["step_bias_gradient"]) > 0
    assert float(rows(tmp_path / "metrics.csv")[0]["train_bias_gradient"]) > 0


def poisoned_loss(what):
    def loss(model, batch):
        metrics, size = batch_loss(model, batch)
        if batch[0].shape[0] == 1:  # the last batch of an epoch
            if what == "loss":
                metrics["loss"] = metrics["loss"] * torch.nan
            else:
                metrics["loss"] = metrics["loss"] + (model(batch[0]) * 0).sum().sqrt()  # value 0, derivative NaN
        return metrics, size

    return loss


@pytest.mark.parametrize(("what", "message"), [("loss", "the loss is nan"), ("gradient", "the norm of the gradient")])
def test_not_finite(tmp_path, what, message):
    trainer = make_trainer(tmp_path, poisoned_loss(what))
    with pytest.raises(NonFiniteError, match=rf"{message}.* in epoch 1, step 5.*nonfinite\.pt"):
        fit(trainer)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=False)
    assert saved["batch"][0].shape == (1, 3)
    assert (saved["epoch"], saved["step"]) == (1, 5)
    assert all(torch.isfinite(value).all() for value in saved["model"].values())
    assert not trainer.checkpoint.exists()


def test_not_finite_in_the_first_step_of_soap(tmp_path):
    def loss(model, batch):
        metrics, size = batch_loss(model, batch)
        return {**metrics, "loss": metrics["loss"] * torch.nan}, size

    with pytest.raises(NonFiniteError, match=r"the loss is nan in epoch 1, step 1; .*nonfinite\.pt"):
        fit(make_trainer(tmp_path, loss, optimizer=soap))


def test_what_was_not_finite_is_found_a_step_later_with_the_weights_that_it_began_with(tmp_path):
    calls, began = [], []

    def loss(model, batch):
        metrics, size = batch_loss(model, batch)
        calls.append(batch)
        if len(calls) == 3:
            began.append(trainer.model[0].weight.detach().clone())
            metrics["loss"] = metrics["loss"] * torch.nan
        return metrics, size

    trainer = make_trainer(tmp_path, loss, ema=0.9)
    with pytest.raises(NonFiniteError, match="the loss is nan in epoch 1, step 3"):
        fit(trainer)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=False)
    assert len(calls) == 4  # the next step had begun
    assert torch.equal(saved["batch"][0], calls[2][0])
    assert torch.equal(saved["model"]["0.weight"], began[0])


def test_what_was_not_finite_is_told_where_the_next_step_fails_of_it(tmp_path):
    """As models do that move points by weights which are NaN by then."""
    calls = []

    def loss(model, batch):
        metrics, size = batch_loss(model, batch)
        calls.append(batch)
        if len(calls) == 3:
            metrics["loss"] = metrics["loss"] * torch.nan
        if len(calls) == 4:
            raise RuntimeError("points must be finite")
        return metrics, size

    with pytest.raises(NonFiniteError, match="the loss is nan in epoch 1, step 3"):
        fit(make_trainer(tmp_path, loss))
    assert len(calls) == 4


def test_not_finite_on_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "nonfinite.pt")

    monkeypatch.setattr(training, "write_tensors", full)
    with pytest.raises(NonFiniteError, match=r"loss is nan.*could not be kept: nonfinite\.pt: No space left"):
        fit(make_trainer(tmp_path, poisoned_loss("loss")))


def test_validation_not_finite(tmp_path):
    def loss(model, batch):
        metrics, size = batch_loss(model, batch)
        spoiled = size == 1 and not torch.is_grad_enabled()  # the last batch of validation
        return ({**metrics, "loss": metrics["loss"] / 0} if spoiled else metrics), size

    trainer = make_trainer(tmp_path, loss)
    with pytest.raises(NonFiniteError, match=rf"the valid_loss is inf in epoch 1, step {STEPS}; .*nonfinite\.pt"):
        fit(trainer)
    saved = torch.load(tmp_path / "nonfinite.pt", weights_only=False)
    torch.testing.assert_close(saved["batch"], [tensor[-1:] for tensor in make_loaders()[1].dataset.tensors])
    assert (saved["epoch"], saved["step"], saved["model"].keys()) == (1, STEPS, trainer.model.state_dict().keys())


def test_trackers_get_every_row(tmp_path):
    class Tracker:
        points = []  # noqa: RUF012

        def log_metrics(self, values, step):
            self.points.append((step, set(values)))

    trainer = make_trainer(tmp_path)
    trainer.trackers = [Tracker()]
    fit(trainer, epochs=1)
    assert [step for step, _ in Tracker.points] == [2, 4, 5]
    assert "step_loss" in Tracker.points[0][1]
    assert "valid_loss" in Tracker.points[2][1]


def test_resuming_a_training_of_another_device(tmp_path, monkeypatch):
    """An optimizer on a GPU is 'capturable'; that is no other training."""
    trainer = make_trainer(tmp_path)
    fit(trainer, epochs=1)
    state = checkpoints.load(trainer.checkpoint, checkpoints.STATE)
    state["optimizer"]["param_groups"][0]["capturable"] = True
    monkeypatch.setattr(checkpoints, "_read", lambda _: state)
    other = make_trainer(tmp_path)
    other.resume()
    assert not other.optimizer.param_groups[0]["capturable"]


def test_each_precision_is_its_own():
    for precision, of_products in (("tf32", "high"), ("32-true", "highest")):
        make_fabric("cpu", precision)
        assert torch.get_float32_matmul_precision() == of_products


@pytest.mark.parametrize("device", ["gpu", "cpu:0", "cuda:x", "cuda:-1", "", "cuda:99"])
def test_bad_devices(device):
    with pytest.raises(ValueError, match="device: "):
        make_fabric(device, "32-true")


def recording_trainer(folder, **options):
    """A trainer that records its steps, and its recorder."""
    recorder = Rewound(lambda: [*of_trainer(trainer)])
    trainer = make_trainer(folder, recorder=recorder, **options)
    return trainer, recorder


def of_trainer(trainer):
    """All that a step writes to."""
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    return [*trainer.flat.whole, *(whole.grad for whole in trainer.flat.whole), *states, *trainer.average.module]


def test_recorded_steps_are_the_steps(tmp_path):
    outcomes = []
    for name, options in (("called", {}), ("recorded", {"recorded": True})):
        make = recording_trainer if options else lambda *a, **k: (make_trainer(*a, **k), None)
        trainer, recorder = make(tmp_path / name, clip_norm=0.5, ema=0.9)
        trainer.model[1].p = 0.0  # dropout draws numbers when it is called once more
        fit(trainer)
        outcomes.append((trainer.epochs, trainer.steps, [v.clone() for v in of_trainer(trainer)]))
    assert recorder.calls.count("run") == recorder.calls.count("record") == 2  # batches of four, and of one
    assert recorder.calls.count("replay") == EPOCHS * STEPS - 2
    (epochs, steps, tensors), (recorded_epochs, recorded_steps, recorded_tensors) = outcomes
    for rows_of, recorded_rows in ((epochs, recorded_epochs), (steps, recorded_steps)):
        for row, recorded in zip(rows_of, recorded_rows, strict=True):
            row.pop("seconds", None), recorded.pop("seconds", None)
            assert recorded == pytest.approx(row, rel=1e-5)  # the device has the rate in float32
    torch.testing.assert_close(recorded_tensors, tensors, rtol=1e-5, atol=1e-6)


def test_a_recorded_step_that_is_not_finite_leaves_the_weights_it_began_with(tmp_path):
    trainer, recorder = recording_trainer(tmp_path, ema=0.9)
    batches = [(torch.randn(4, 3), torch.randn(4, 1)) for _ in range(4)]
    for batch in batches[:3]:
        step = trainer.take_step(batch)
    assert recorder.calls[-1] == "replay"
    before = [v.clone() for v in trainer.flat.copied()]
    batches[3][0][0, 0] = torch.nan
    step = trainer.take_step(batches[3])
    with pytest.raises(NonFiniteError, match="the loss is nan in epoch 1, step 4"):
        trainer._checked(step)
    torch.testing.assert_close(trainer.flat.copied(), before, rtol=0, atol=0)
    kept = torch.load(tmp_path / "nonfinite.pt", weights_only=False)
    assert torch.equal(kept["batch"][1], batches[3][1])


def test_the_rate_of_a_recorded_step_is_that_of_the_schedule(tmp_path):
    trainer, _ = recording_trainer(tmp_path, ema=0.9)
    batch, rates = (torch.randn(4, 3), torch.randn(4, 1)), []
    for _ in range(4):
        step = trainer.take_step(batch)
        rates.append(step.learning_rate)
        assert type(trainer.optimizer.param_groups[0]["lr"]) is float
    assert rates == sorted(rates, reverse=True)
    assert len({*rates}) == 4
