"""The recorded figures of the published code, on both kinds of graph, by every backend."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from equivariant_attention.contraction import use_backend
from tests.cases import BACKENDS_HERE

FOLDER = Path(__file__).parents[1].parent / "shared" / "conformance"
CASES = sorted(FOLDER.glob("*.npz"))
TOLERANCE = {"out": 1e-4, "grad": 1e-3}  # of the largest recorded number

pytestmark = [
    pytest.mark.skipif(not CASES, reason="the recorded figures are not here"),
    # The recorded gradients with respect to edata['d'] leave out the x_ij term, as the warning says.
    pytest.mark.filterwarnings("ignore:x_ij sends its gradient"),
    # They were recorded where the published code finds this library's signs, and do not say so.
    pytest.mark.filterwarnings("ignore:weights are loaded that do not say"),
]


def check_of(folder):
    """The module ``check.py`` of a folder of recorded figures."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_check", folder / "check.py")
    module = importlib.util.module_from_spec(spec)
    path, writes = list(sys.path), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    spec.loader.exec_module(module)
    sys.path[:], sys.dont_write_bytecode = path, writes
    return module


@pytest.fixture(scope="module")
def check():
    return check_of(FOLDER)


# Backends see a plan, never the graph it was made of: one of them is enough for the second kind.
by_every_backend = pytest.mark.parametrize(
    ("graph", "backend"), [*(("own", name) for name in BACKENDS_HERE), ("dgl", None)]
)


def assert_as_recorded(check, path, graph, backend):
    """What ``check`` finds of one case is within the tolerances of all such checks."""
    if graph == "dgl":
        pytest.importorskip("dgl")
    with use_backend(backend):
        for name, error in check.run(np.load(path, allow_pickle=False), graph):
            assert error < TOLERANCE[name.split("/")[0]], name


@by_every_backend
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_figures(check, path, graph, backend):
    assert_as_recorded(check, path, graph, backend)
