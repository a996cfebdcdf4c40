import pytest
import torch
from torch import nn

from benchmarks.operators import KINDS, time_by_kind


def test_kinds_of_a_step():
    a, b, index = torch.randn(64, 64), torch.randn(4, 64, 64), torch.arange(64)
    norm = nn.LayerNorm(64)

    def step():
        torch.cat([norm(a @ a)[index], a]).relu().sum().backward()
        b @ b
        for library in ("edge_first::forward", "norm::rescaled"):
            with torch.profiler.record_function(library):
                a.tolist()

    step()
    found = time_by_kind(step, "cpu")
    assert list(found["kinds"]) == list(KINDS)
    assert all(seconds > 0 for seconds in found["kinds"].values())
    assert sum(found["kinds"].values()) == pytest.approx(found["seconds"])
