"""The drawing of the house agrees with what its modules import."""

import ast
import re

from tests.docs.pages import ROOT
from tests.docs.test_docstrings import LIBRARY, MODULES

DRAWING = re.search(r"## The house\n.*?```text\n(.*?)```", (ROOT / "docs" / "maintaining.md").read_text(), re.DOTALL)[1]
FLOORS = [re.split(r" {3,}", line)[0].split() for line in DRAWING.splitlines()[::-1]]  # from the ground up


def imported(path):
    """The modules of the library, without what is in them, that one file imports."""
    inside = path.relative_to(LIBRARY).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            of = (*inside[: len(inside) + 1 - node.level], *(node.module or "").split("."))
            yield from of[:1] if of[0] else (alias.name for alias in node.names)


def test_every_module_has_a_place():
    assert sorted(name for floor in FLOORS for name in floor) == MODULES


def test_imports_lead_down():
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    for path in LIBRARY.rglob("*.py"):
        name = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
        others = {*imported(path)} - {name}
        above = {other for other in others & floor_of.keys() if floor_of[other] >= floor_of.get(name, len(FLOORS))}
        assert not above, f"{path.relative_to(LIBRARY)} imports {above}"


def test_what_is_imported_is_found():
    assert {*imported(LIBRARY / "envelope.py")} == {"checks", "graphs"}
    assert {*imported(LIBRARY / "contraction" / "cost.py")} == {"contraction", "plan"}
    assert {*imported(LIBRARY / "models" / "saving.py")} >= {"__version__", "checkpoints"}
