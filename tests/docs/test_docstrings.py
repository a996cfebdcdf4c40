"""Every public class, function and method of the library says what it is, what it takes and what it gives."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import equivariant_attention
from tests.docs.pages import ROOT

LIBRARY = Path(equivariant_attention.__file__).parent
MODULES = sorted(p.stem for p in LIBRARY.iterdir() if not p.stem.startswith("_") and (p.suffix == ".py" or p.is_dir()))
REFERENCE = "\n".join(page.read_text() for page in sorted((ROOT / "docs" / "reference").glob("*.md")))
AS_ELSEWHERE = re.compile(r"[Aa]rguments[\w, ]* as (in|of) ")


def public(module_name):
    """``(name, object)`` of everything public in a module: what ``__all__`` names, else what is defined there."""
    if module_name == "ase_calculator":
        pytest.importorskip("ase")
    module = importlib.import_module(f"equivariant_attention.{module_name}")
    names = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if is_defined_in(v, module)]
    for name in names:
        value = getattr(module, name)
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield name, value
            if inspect.isclass(value):
                yield from ((f"{name}.{n}", v) for n, v in vars(value).items() if is_public_member(n, v))


def is_defined_in(value, module):
    return getattr(value, "__module__", None) == module.__name__


def is_public_member(name, value):
    # extra_repr is PyTorch's, which says what it is.
    kinds = (property, classmethod, staticmethod)
    return not name.startswith("_") and name != "extra_repr" and (inspect.isfunction(value) or isinstance(value, kinds))


def complaints(name, value):
    """What the docstring of one object lacks."""
    text = inspect.getdoc(value) or ""
    if not text:
        return [f"{name} has no docstring"]
    function = vars(value).get("__init__") if inspect.isclass(value) else getattr(value, "__func__", value)
    if not inspect.isfunction(function) or AS_ELSEWHERE.search(text):
        return []
    signature = inspect.signature(function)
    arguments = {*signature.parameters} - {"self", "cls", "args", "kwargs"}
    found = [f"{name} does not say what {a} is" for a in sorted(arguments) if not re.search(rf"\b{a}\b", text)]
    gives = not re.fullmatch(r"(.*Iterator\[)?None\]?", str(signature.return_annotation))
    if gives and not inspect.isclass(value) and "Args:" in text and not re.search(r"^Return|Returns:", text):
        found.append(f"{name} does not say what it returns")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_are_complete(module):
    assert [c for name, value in public(module) for c in complaints(name, value)] == []


@pytest.mark.parametrize("module", MODULES)
def test_every_module_is_in_the_reference(module):
    full_name = f"equivariant_attention.{module}"
    if f".. automodule:: {full_name}\n" in REFERENCE:
        return
    assert f".. currentmodule:: {full_name}\n" in REFERENCE
    listed = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)$", REFERENCE, re.MULTILINE))
    elsewhere = {name for other in MODULES if other != module for name, value in public(other)}
    assert {name for name, _ in public(module) if "." not in name} <= listed | elsewhere


def test_what_is_missing_is_found():
    def undocumented(x): ...

    def half_documented(x, y) -> int:
        """Something.

        Args:
            x: a number.
        """

    assert complaints("f", undocumented) == ["f has no docstring"]
    assert complaints("g", half_documented) == ["g does not say what y is", "g does not say what it returns"]
