"""Recorded figures of NVIDIA's package and of forks of it, on both kinds of graph, by every backend."""

import json

import numpy as np
import pytest

from tests.test_conformance import FOLDER, assert_as_recorded, by_every_backend, check_of

NVIDIA = FOLDER.with_name("conformance_nvidia")
CASES = sorted(NVIDIA.glob("*.npz"))

pytestmark = pytest.mark.skipif(not CASES, reason="the recorded figures are not here")


@pytest.fixture(scope="module")
def check():
    return check_of(NVIDIA)


@by_every_backend
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_figures(check, path, graph, backend):
    assert_as_recorded(check, path, graph, backend)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_parameters_have_the_recorded_names_order_and_shapes(check, path):
    case = np.load(path, allow_pickle=False)
    recorded = [(name[len("param/") :], case[name].shape) for name in case.files if name.startswith("param/")]
    made = check.build(json.loads(str(case["meta"])))
    assert [(name, tuple(value.shape)) for name, value in made.state_dict().items()] == recorded
