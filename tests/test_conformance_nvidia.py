"""Recorded figures of NVIDIA's package and of forks of it, on both kinds of graph, in every order of evaluation."""

import json

import numpy as np
import pytest

from equivariant_attention.contraction import use_backend
from tests.cases import BACKENDS_HERE
from tests.test_conformance import FOLDER, check_of

NVIDIA = FOLDER.with_name("conformance_nvidia")
CASES = sorted(NVIDIA.glob("*.npz"))

pytestmark = pytest.mark.skipif(not CASES, reason="the recorded figures are not here")


@pytest.fixture(scope="module")
def check():
    return check_of(NVIDIA)


@pytest.mark.parametrize(("graph", "backend"), [*(("own", name) for name in BACKENDS_HERE), ("dgl", None)])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_figures(check, path, graph, backend):
    if graph == "dgl":
        pytest.importorskip("dgl")
    with use_backend(backend):
        for name, error in check.run(np.load(path, allow_pickle=False), graph):
            assert error < check.TOLERANCE[name.split("/")[0]], name


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_parameters_have_the_recorded_names_order_and_shapes(check, path):
    case = np.load(path, allow_pickle=False)
    recorded = [(name[len("param/") :], case[name].shape) for name in case.files if name.startswith("param/")]
    made = check.build(json.loads(str(case["meta"])))
    assert [(name, tuple(value.shape)) for name, value in made.state_dict().items()] == recorded
