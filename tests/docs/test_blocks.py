"""The Python blocks of every page work as printed."""

import pytest
import torch

from equivariant_attention.contraction.cpp import SOURCES
from equivariant_attention.native.calls import not_built
from tests.docs.pages import PAGES, name_of, python_blocks, run_blocks

WITH_BLOCKS = [page for page in PAGES if python_blocks(page)]


def one_number_per_graph(names):
    assert torch.isfinite(names["output"]).all()
    assert {degree: value.shape for degree, value in names["outputs"].items()} == {"1": (20, 1, 3), "2": (20, 1, 5)}
    assert names["out"]["2"].shape == (100, 8, 5)


def forces_reach_every_weight(names):
    assert names["gradient"].abs().max() > 0
    # The last bias shifts all edges alike, which the envelope makes a force of.
    assert all(torch.isfinite(p.grad).all() for p in names["head"].parameters())
    assert names["atoms"].get_momenta().any()


NEED_A_COMPILER = {"docs/compile.md", "docs/engine.md"}
NEED_PYG = {"docs/usage.md"}
AFTERWARDS = {"docs/usage.md": one_number_per_graph, "docs/forces.md": forces_reach_every_weight}


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_blocks_run(page, tmp_path, monkeypatch):
    if name_of(page) in NEED_A_COMPILER and not_built(SOURCES["cpp"]):
        pytest.skip(not_built(SOURCES["cpp"]))
    if name_of(page) in NEED_PYG:
        pytest.importorskip("torch_geometric.loader")
    monkeypatch.chdir(tmp_path)  # blocks may write files
    torch._dynamo.reset()  # as in a process of their own
    names = run_blocks(page)
    AFTERWARDS.get(name_of(page), lambda names: None)(names)


def test_pages_have_blocks():
    assert AFTERWARDS.keys() | NEED_A_COMPILER | {"docs/concepts.md"} <= {name_of(page) for page in WITH_BLOCKS}
