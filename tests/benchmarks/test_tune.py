"""Tuning on a GPU that is not there, by a clock that is made up; in Triton's interpreter, with real results:
``TRITON_INTERPRET=1 pytest <this file>``.
"""

import json
import os

import pytest
import torch

from benchmarks.steps import Setup
from benchmarks.tune import CALLS, key_of, launches, main, times
from equivariant_attention.contraction import triton_products, triton_sizes
from equivariant_attention.contraction.triton_sizes import FILE, candidates, chosen
from equivariant_attention.fibers import Fiber
from equivariant_attention.kernels import launch
from equivariant_attention.modules import GConvSE3, get_basis_and_r
from tests.cases import random_features
from tests.equivariant_attention.contraction.test_contraction import undirected_graph
from tests.equivariant_attention.contraction.test_triton_sizes import GPU, forget
from utils.cli import UsageError

triton = pytest.importorskip("triton")
CASE, TINY = "degree:degree 1", Setup(tiny=True)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The file, which is not there yet."""
    before = torch.get_float32_matmul_precision()
    monkeypatch.setattr(triton_sizes, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(launch, "gpu_name", lambda device: GPU)
    forget()
    yield tmp_path / FILE
    forget()
    torch.set_float32_matmul_precision(before)


class StandIn:
    """Runs nothing: every kernel writes ones, but those that are wrong; those that do not fit are refused."""

    def __init__(self):
        self.sizes, self.wrong, self.too_large = {}, [], []

    def run(self, kernel, grid, *arguments, **constants):
        if launch._record.get() is not None:
            return launch.launch(kernel, grid, *arguments, **constants)
        self.sizes = constants
        if self._is_among(self.too_large):
            raise triton.runtime.errors.OutOfResources(1, 0, "shared memory")
        for name, value in zip(kernel.arg_names, arguments, strict=False):
            if name.startswith(("y", "dg", "dA", "db")) and len(value):
                number = 1 / len(value) if name.startswith(("dA", "db")) else 1  # in parts
                value.fill_(2 * number if self._is_among(self.wrong) else number)

    def _is_among(self, some):
        return any(self.sizes.items() >= one.items() for one in some)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(launch, "missing", lambda *_: "")
    made = StandIn()
    monkeypatch.setattr(triton_products, "run", made.run)
    return made


def by_most_rows_and_channels(stand_in):
    """A clock by which few rows and channels are fast."""

    def clock(call):
        call()
        return float(stand_in.sizes["ROWS"] * stand_in.sizes["PT"])

    return clock


def test_the_fastest_is_kept_for_later_processes(stand_in, kept, capsys):
    best = main([CASE, "--precision", "high"], TINY, by_most_rows_and_channels(stand_in))
    assert {(key.kernel, key.precision, key.capability) for key in best} == {
        (kernel, "high", launch.SUPPOSED) for kernel in ("messages", "by_hidden", "by_weights")
    }
    assert f"kept in {kept}" in capsys.readouterr().out
    assert len(json.loads(kept.read_text())) == len(best)
    forget()
    for key, sizes in best.items():
        assert sizes == chosen(key, GPU) == min(candidates(key), key=lambda sizes: sizes["ROWS"] * sizes["PT"])
        assert sizes != candidates(key)[0]


def test_what_gives_other_results_or_does_not_fit_is_left_out(stand_in, capsys):
    words, clock = [CASE, "--precision", "high"], by_most_rows_and_channels(stand_in)
    best = {key.kernel: sizes for key, sizes in main(words, TINY, clock).items()}
    stand_in.wrong, stand_in.too_large = [best["messages"], best["by_weights"]], [best["by_hidden"]]
    assert "left out" not in capsys.readouterr().out
    for key, sizes in main(words, TINY, clock).items():
        assert sizes == chosen(key, GPU) != best[key.kernel]
        assert sizes in candidates(key)
    shown = capsys.readouterr().out
    for kernel in ("messages", "by_weights"):
        assert f"{kernel} with {best[kernel]} gives other results than by the rule, and is left out" in shown
    assert shown.count("left out") == 2


def test_keys_do_not_depend_on_how_many_rows_there_are():
    few, many = (launches(Setup(tiny=tiny), {"degree": ["degree 1"]}) for tiny in (True, False))
    assert few.keys() <= many.keys()
    assert {key.edges for key in many} == {1, 2}
    assert all(10 * one.arguments["count"] < many[key].arguments["count"] for key, one in few.items())


def test_of_launches_with_one_key_those_of_the_most_rows_are_timed():
    cases = ["bonded", "dense"]
    few, many = (launches(TINY, {"qm9-homo": [case]}) for case in cases)
    same = few.keys() & many.keys()
    assert same
    for order in (cases, cases[::-1]):
        found = launches(TINY, {"qm9-homo": order})
        for key in same:
            assert few[key].arguments["count"] < many[key].arguments["count"] == found[key].arguments["count"]


def test_without_a_gpu_there_is_nothing_to_tune(kept):
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match=r"^expected a GPU, PyTorch sees none"):
            main([CASE])
    if "TRITON_INTERPRET" not in os.environ:
        with pytest.raises(UsageError, match=r"^expected a GPU that runs the kernels: they need"):
            main([CASE], TINY)
    assert not kept.exists()


@pytest.mark.skipif("TRITON_INTERPRET" not in os.environ, reason="needs Triton's interpreter")
def test_results_are_those_by_the_rule_whatever_the_sizes(capsys):
    G, fiber = undirected_graph(torch.float32), Fiber(2, 8)
    features = {d: v.requires_grad_() for d, v in random_features(fiber, G.num_nodes(), torch.float32).items()}
    with launch.recorded() as record:
        basis, r = get_basis_and_r(G, 1)
        sum(v.sum() for v in GConvSE3(fiber, fiber)(features, G=G, r=r, basis=basis).values()).backward()
    for name in CALLS:
        one = next(one for one in record if one.name == name and one.arguments["D"] == 2)
        key = key_of(one, launch.SUPPOSED)
        found = times(key, one, lambda call: float(all(tensor.any() for tensor in call())))
        assert found == [(1.0, sizes) for sizes in candidates(key)]
        assert len(found) > 1
    assert not capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu(kept):
    best = main([CASE], Setup("cuda:0", tiny=True))
    assert len(json.loads(kept.read_text())) == len(best) > 0
