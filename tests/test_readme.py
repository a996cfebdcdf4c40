"""The README's Python works as printed."""

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]


def block(name):
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]


def test_basic_usage_and_testing(capsys):
    names = {}
    exec(block("basic-usage"), names)
    assert names["output"].shape == (1, 1)
    assert torch.isfinite(names["output"]).all()
    exec(block("testing"), names)
    assert "'rotation'" in capsys.readouterr().out


def test_every_layer_of_the_table_exists():
    from equivariant_attention import modules

    table = (ROOT / "README.md").read_text().split("## Layers")[1].split("## Experiments")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert names >= {"GSE3Res", "GConvSE3", "BN"}
    assert all(hasattr(modules, name) for name in names)


def test_links_to_files_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link
