"""The pictures of the pages can be drawn."""

import importlib.util
from pathlib import Path

import pytest
import torch

from equivariant_attention.fibers import Fiber
from equivariant_attention.so3 import random_rotation

DOCS = Path(__file__).parents[2] / "docs"


def script(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_can_be_drawn(tmp_path):
    script("picture").main(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_pictures_of_concepts_can_be_drawn(tmp_path):
    script("concepts_pictures").main(tmp_path)
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("harmonics.png", "message.png"))


def test_messages_turn_with_their_edges():
    pictures = script("concepts_pictures")
    layer = pictures.GConvSE3Partial(Fiber(structure=[(1, 1)]), Fiber(3, 1)).double()
    d, arrow = torch.randn(2, 3, dtype=torch.float64)
    rotation = random_rotation(dtype=torch.float64)
    arrived = [pictures.sent_along(layer, R @ d, R @ arrow) for R in (torch.eye(3, dtype=torch.float64), rotation)]
    assert pictures.turning_error(arrived, rotation) < 1e-12
    assert pictures.turning_error(arrived, rotation.T) > 0.1
