"""Recorded figures of clients of the published code, whose weights are converted to this library's signs."""

import numpy as np
import pytest

from equivariant_attention import published
from tests.test_conformance import FOLDER, assert_as_recorded, by_every_backend, check_of

CLIENTS = FOLDER.with_name("conformance_clients")
CASES = sorted(CLIENTS.glob("*.npz"))

pytestmark = [
    pytest.mark.skipif(not CASES, reason="the recorded figures are not here"),
    pytest.mark.filterwarnings("ignore:x_ij sends its gradient"),
]


@pytest.fixture(scope="module")
def check():
    return check_of(CLIENTS)


@by_every_backend
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_recorded_figures(check, path, graph, backend):
    assert_as_recorded(check, path, graph, backend)


@pytest.mark.filterwarnings("ignore:weights are loaded that do not say")
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_weights_that_are_not_converted_give_other_figures(check, path, monkeypatch):
    monkeypatch.setattr(published, "converted", lambda weights, signs: weights)
    errors = dict(check.run(np.load(path, allow_pickle=False), "own"))
    assert min(error for name, error in errors.items() if name.startswith("out/")) > 0.3
