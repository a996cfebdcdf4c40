"""Fixtures of the tests of all experiments."""

import pytest

from experiments.nbody import run as nbody
from experiments.toy_optimisation import run as toy_optimisation
from utils.plots import Figure


@pytest.fixture(autouse=True)
def _pictures_are_not_drawn(request, monkeypatch):
    """They take most of a short run's time: only tests marked ``pictures`` draw them."""
    if request.node.get_closest_marker("pictures") is None:
        for run in (nbody, toy_optimisation):
            monkeypatch.setattr(run, "draw", lambda *_: None)
        monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write(b"not drawn"))
