"""The README's table of layers is that of the library. Its code and links are tested with all pages, in docs."""

import re
from pathlib import Path

from equivariant_attention import modules

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_every_layer_of_the_table_exists():
    table = README.split("## Layers")[1].split("## Experiments")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert names >= {"GSE3Res", "GConvSE3", "BN"}
    assert all(hasattr(modules, name) for name in names)
