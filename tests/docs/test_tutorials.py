"""Every tutorial is a page that can be copied by a reader who has nothing but the library. The site's build runs it."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
TOGETHER = "torch", "numpy", "matplotlib", "dgl", "torch_geometric", "pytorch_lightning", "equivariant_attention"

each = pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)


@each
def test_it_is_a_page(path):
    """Title, and titles of sections, in reStructuredText; cells in between."""
    text = path.read_text()
    title, line, *_ = ast.get_docstring(ast.parse(text)).splitlines()
    assert line == "=" * len(title)
    cells = text.split("\n# %%\n")[1:]
    assert len(cells) > 3
    sections = [re.match(r"# (.+)\n# (-+)\n", cell) for cell in cells]
    assert any(sections)
    assert all(len(section[1]) == len(section[2]) for section in sections if section)


@each
def test_it_can_be_copied(path):
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*TOGETHER, *sys.stdlib_module_names}
