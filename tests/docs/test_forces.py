"""The page on forces works as printed."""

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[2] / "docs" / "forces.md").read_text()


def block(name):
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.DOTALL)[1]


def test_a_training_step():
    names = {}
    exec(block("training"), names)
    assert names["gradient"].abs().max() > 0
    # The last bias shifts all edges alike, which the envelope makes a force of.
    assert all(torch.isfinite(p.grad).all() for p in names["head"].parameters())


def test_dynamics(capsys):
    pytest.importorskip("ase")
    names = {}
    exec(block("ase"), names)
    assert names["atoms"].get_momenta().any()
