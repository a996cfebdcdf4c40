"""Fixtures of all tests. WITHOUT_DGL=1 runs them as where DGL is not installed."""

import gc
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.network import forbid

if os.environ.get("WITHOUT_DGL"):
    sys.modules["dgl"] = None
if os.environ.get("TRITON_INTERPRET"):
    from tests.interpreter import quicken

    quicken()

# Coverage, where it is measured, is of the library, by imports and the first cases of its own tests: it makes Python
# much slower, pytest itself too.
COVERED, COVERED_CASES = Path(__file__).parent / "equivariant_attention", 2
IS_COVERED = pytest.StashKey[bool]()
# Garbage is looked for seldom: with all that is imported here, to look often takes a sixth of the time.
gc.set_threshold(50_000, 20, 100)
# The tests' tensors are tiny: more threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Nothing under test reaches beyond this machine."""
    with pytest.MonkeyPatch.context() as patch:
        forbid(patch.setattr)
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_collectstart():
    """Layers that are parameters of tests are made when their file is read: with the same weights every time."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    """Long tests begin first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    cases = Counter()
    for item in items:
        cases[test := item.nodeid.partition("[")[0]] += 1
        is_fast = not any(item.get_closest_marker(name) for name in ("slow", "no_cover"))
        item.stash[IS_COVERED] = COVERED in item.path.parents and is_fast and cases[test] <= COVERED_CASES


def controller_of(config):
    """What pytest-cov starts and stops coverage with, or None where it measures nothing."""
    plugin = config.pluginmanager.getplugin("_cov")
    return plugin and plugin.cov_controller


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session):
    """In a process of pytest-xdist, pytest-cov starts two measurements; one has no end, and would trace all in vain."""
    if controller := controller_of(session.config):
        while measured := type(controller.cov).current():
            measured.stop()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    controller = controller_of(item.config)
    if controller and item.stash[IS_COVERED]:
        controller.resume()
    try:
        return (yield)
    finally:
        if controller:
            controller.pause()


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(params=["own", "dgl", "pyg"])
def kind(request):
    """Every kind of graph that is installed."""
    module = {"dgl": "dgl", "pyg": "torch_geometric.data"}.get(request.param)
    if module:
        pytest.importorskip(module)
    return request.param
