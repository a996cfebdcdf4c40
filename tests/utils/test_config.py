"""What the configuration of every experiment may hold."""

import pytest

from utils.config import MOST_WORKERS, Config, none_or_text


@pytest.mark.parametrize(
    ("name", "least", "less"),
    [("num_epochs", 1, 0), ("warmup", 0, -1), ("seed", 0, -1), ("num_workers", 0, -1), ("lr", 1e-30, 0.0),
     ("ema", 1e-9, 0.0), ("clip_norm", 1e-9, 0.0)],
)  # fmt: skip
def test_least_values(name, least, less):
    assert getattr(Config(**{name: least}), name) == least
    with pytest.raises(ValueError, match=name):
        Config(**{name: less})


@pytest.mark.parametrize(
    ("name", "more"),
    [("num_epochs", 2**31), ("num_workers", MOST_WORKERS + 1), ("lr", float("inf")), ("lr", float("nan")),
     ("ema", 1.0), ("lr_final", 1.0), ("beta2", 1.0)],
)  # fmt: skip
def test_values_that_are_too_large(name, more):
    with pytest.raises(ValueError, match=name):
        Config(**{name: more})


def test_a_configuration_does_not_change():
    with pytest.raises(AttributeError, match="seed"):
        Config().seed = 1


def test_none_is_a_word():
    assert none_or_text("none") is None
    assert none_or_text("add") == "add"
