"""The drawings of the house agree with what its modules import."""

import ast
import re

import pytest

from tests.docs.pages import ROOT
from tests.docs.test_docstrings import LIBRARY, MODULES

UTILS = ROOT / "utils"
SECTION = (ROOT / "docs" / "maintaining.md").read_text().split("\n## The house\n")[1].split("\n## ")[0]
DRAWINGS = dict(zip((LIBRARY, UTILS), re.findall(r"```text\n(.*?)```", SECTION, re.DOTALL), strict=True))

each = pytest.mark.parametrize("package", DRAWINGS, ids=lambda package: package.name)


def floors(package):
    """Names of modules, from the ground up."""
    named = [re.match(r"\w+(  \w+)*", line)[0].split() for line in DRAWINGS[package].splitlines()]
    return named[::-1]


def imported(path, package):
    """The modules of a package, without what is in them, that one of its files imports."""
    inside = path.relative_to(package).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            if node.level:
                of = (*inside[: len(inside) + 1 - node.level], *module)
            elif module[0] == package.name:
                of = (*module[1:], "")
            else:
                continue
            yield from of[:1] if of[0] else (alias.name for alias in node.names)


@each
def test_every_module_has_a_place(package):
    names = MODULES if package == LIBRARY else sorted(path.stem for path in UTILS.glob("[!_]*.py"))
    assert sorted(name for floor in floors(package) for name in floor) == names


@each
def test_imports_lead_down(package):
    floor_of = {name: number for number, floor in enumerate(floors(package)) for name in floor}
    for path in package.rglob("*.py"):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        others = {*imported(path, package)} - {name}
        above = {other for other in others & floor_of.keys() if floor_of[other] >= floor_of.get(name, len(floor_of))}
        assert not above, f"{path.relative_to(package)} imports {above}"


def test_nothing_is_imported_from_the_house_above():
    for package, above in ((LIBRARY, "utils|experiments|benchmarks|tests"), (UTILS, "experiments|benchmarks|tests")):
        for path in package.rglob("*.py"):
            assert not re.search(rf"^\s*(from|import) ({above})\b", path.read_text(), re.MULTILINE), path


def test_what_is_imported_is_found():
    assert {*imported(LIBRARY / "envelope.py", LIBRARY)} == {"checks", "graphs"}
    assert {*imported(LIBRARY / "contraction" / "cost.py", LIBRARY)} == {"contraction", "plan"}
    assert {*imported(LIBRARY / "models" / "saving.py", LIBRARY)} >= {"__version__", "checkpoints"}
    assert {*imported(UTILS / "downloads.py", UTILS)} == {"hashes"}
