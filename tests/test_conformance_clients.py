"""Recorded figures of clients of the published code, whose weights are converted to this library's signs."""

import numpy as np
import pytest

from equivariant_attention import published
from equivariant_attention.contraction import use_backend
from tests.cases import BACKENDS_HERE
from tests.test_conformance import FOLDER, check_of

CLIENTS = FOLDER.with_name("conformance_clients")
CASES = sorted(CLIENTS.glob("*.npz"))

pytestmark = [
    pytest.mark.skipif(not CASES, reason="the recorded figures are not here"),
    pytest.mark.filterwarnings("ignore:x_ij sends its gradient"),
]


@pytest.fixture(scope="module")
def check():
    return check_of(CLIENTS)


@pytest.mark.parametrize(("graph", "backend"), [*(("own", name) for name in BACKENDS_HERE), ("dgl", None)])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_figures(check, path, graph, backend):
    if graph == "dgl":
        pytest.importorskip("dgl")
    with use_backend(backend):
        for name, error in check.run(np.load(path, allow_pickle=False), graph):
            assert error < (1e-4 if name.startswith("out/") else 1e-3), name


@pytest.mark.filterwarnings("ignore:weights are loaded that do not say")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_weights_that_are_not_converted_give_other_figures(check, path, monkeypatch):
    monkeypatch.setattr(published, "converted", lambda weights, signs: weights)
    errors = dict(check.run(np.load(path, allow_pickle=False), "own"))
    assert min(error for name, error in errors.items() if name.startswith("out/")) > 0.3
