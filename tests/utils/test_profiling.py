import json

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
