"""What is declared: dependencies per Python version and platform, and what is imported when."""

import ast
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PACKAGES = ("equivariant_attention", "utils", "experiments", "benchmarks", "tests", "docs")
# Distributions that are imported under another name, or are not imported: tools, and what others need.
NAMES = {"PIL": "pillow", "mpl_toolkits": "matplotlib", "docutils": "sphinx", "markdown_it": "markdown-it-py"}
TOOLS = {"pytest-xdist", "pytest-cov", "ruff", "mypy", "tensorboard", "furo", "myst-parser", "se3-transformer"}


def imported(*folders):
    """The distributions whose modules are imported in these folders, anywhere in a module."""
    return set().union(*map(imported_in, folders))


@cache
def imported_in(folder):
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Import(names=aliases):
                    names |= {alias.name for alias in aliases}
                case ast.ImportFrom(module=name, level=0):
                    names.add(name)
                case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=name), *_]):
                    names.add(name)
    docs = {path.stem for path in (ROOT / "docs").glob("*.py")}  # which are no package
    top = {name.split(".")[0] for name in names} - {*PACKAGES, *docs} - sys.stdlib_module_names
    return {NAMES.get(name, name).replace("_", "-") for name in top}


def declared(monkeypatch):
    """The distributions that setup.py asks for: always, and by extra."""
    asked = {}
    setuptools = SimpleNamespace(setup=lambda **options: asked.update(options), find_packages=lambda **_: [])
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)  # which tests need not have
    runpy.run_path(str(ROOT / "setup.py"))

    def names(lines):
        return {Requirement(line).name.lower().replace("_", "-") for line in lines}

    extras = {extra: names(lines) for extra, lines in asked["extras_require"].items()}
    return names(asked["install_requires"]), extras


def test_what_is_imported_is_declared_and_what_is_declared_is_needed(monkeypatch):
    always, extras = declared(monkeypatch)
    assert always <= imported("equivariant_attention")
    optional = extras["ase"] | extras["triton"] | extras["pyg"]
    assert imported("equivariant_attention") <= always | optional
    trained = always | extras["experiments"] | optional | extras["xtb"] | extras["trackers"]
    assert imported("utils", "experiments", "benchmarks") <= trained
    everything = trained.union(*extras.values())
    assert imported("tests", "docs") <= everything
    assert everything - TOOLS <= imported(*PACKAGES)
    # requirements.txt is what all but these is run with
    asked = always.union(*(lines for name, lines in extras.items() if name not in ("trackers", "xtb", "drop_in")))
    assert asked == {name.lower().replace("_", "-") for name in requirements()} | extras["pyg"]


def requirements(path="requirements.txt"):
    lines = (ROOT / path).read_text().splitlines()
    return {r.name: r for r in map(Requirement, (line for line in lines if line and not line.startswith("#")))}


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_dgl_is_required_only_where_it_works(version, machine):
    environment = {"python_version": version, "platform_machine": machine, "sys_platform": "linux"}
    marker = requirements()["dgl"].marker
    assert marker.evaluate(environment) == (version in ("3.10", "3.11") and machine == "x86_64")
    # Triton, which only tests ask for, has wheels for Linux alone; all else is needed everywhere.
    others = [r for name, r in requirements().items() if name not in ("dgl", "triton")]
    assert all(r.marker is None for r in others)


def test_setup_and_requirements_agree_on_dgl():
    assert str(requirements()["dgl"].marker).replace('"', "'") in (ROOT / "setup.py").read_text().replace('"', "'")
    assert not {"wandb", "lie_learn"} & {name.lower() for name in requirements()}


def test_importing_the_library_imports_no_optional_package_and_sets_no_flag():
    script = """
import sys, torch
before = torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
import equivariant_attention.models, equivariant_attention.neighbors, equivariant_attention.testing
assert before == (torch.get_default_dtype(), torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32)
optional = {"dgl", "torch_geometric", "e3nn", "wandb", "lie_learn", "matplotlib", "ase", "experiments", "utils"}
assert not optional & set(sys.modules), optional & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
