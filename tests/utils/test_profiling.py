import json
import os

import pytest
import torch

from utils.profiling import profile_steps


def test_trace_and_table(tmp_path):
    calls = []

    def step():
        calls.append(torch.mm(torch.ones(8, 8), torch.ones(8, 8)))

    table = profile_steps(step, tmp_path / "profile", warmup=1, steps=2)
    assert len(calls) == 3
    assert "aten::mm" in table
    assert (tmp_path / "profile" / "table.txt").read_text() == table
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]


def test_half_a_trace_is_not_kept(tmp_path, monkeypatch):
    """The profiler leaves it where a disk is full."""
    whole = torch.profiler.profile.export_chrome_trace

    def half(recorded, path):
        whole(recorded, path)
        os.truncate(path, os.path.getsize(path) // 2)

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", half)
    with pytest.raises(OSError, match="the profiler could not write its trace"):
        profile_steps(lambda: torch.ones(3) + 1, tmp_path / "profile", warmup=0, steps=1)
    assert not [*(tmp_path / "profile").iterdir()]
