"""What is declared: dependencies per Python version and platform, and what is imported when."""

import ast
import importlib
import subprocess
import sys
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import equivariant_attention

tomllib = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # which pytest brings along

ROOT = Path(__file__).parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = DECLARED["project"]
PACKAGES = ("equivariant_attention", "utils", "experiments", "benchmarks", "tests", "docs")
# Distributions that are imported under another name, or are not imported: tools, and what others need.
NAMES = {"PIL": "pillow", "mpl_toolkits": "matplotlib", "docutils": "sphinx", "markdown_it": "markdown-it-py"}
TOOLS = {
    "pytest-xdist", "pytest-cov", "ruff", "mypy", "tensorboard", "furo", "myst-parser", "sphinx-copybutton",
    "se3-transformer",
    "qm9pack",  # is found and read, and never imported
}  # fmt: skip
ELSEWHERE = {"nequip"}  # what a record compares with, in an environment of its own


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


def names_of(lines):
    return {Requirement(line).name.lower().replace("_", "-") for line in lines}


def declared():
    """The distributions that the project asks for: always, and by extra."""
    extras = PROJECT["optional-dependencies"]
    return names_of(PROJECT["dependencies"]), {extra: names_of(lines) for extra, lines in extras.items()}


def test_what_is_imported_is_declared_and_what_is_declared_is_needed():
    always, extras = declared()
    assert always <= imported("equivariant_attention")
    optional = extras["ase"] | extras["periodic"] | extras["triton"] | extras["pyg"] | extras["dgl"]
    assert imported("equivariant_attention") <= always | optional
    trained = always | extras["experiments"] | optional | extras["xtb"] | extras["trackers"]
    assert imported("utils", "experiments", "benchmarks") - ELSEWHERE <= trained
    everything = trained.union(*extras.values())
    assert imported("tests", "docs") <= everything
    assert everything - TOOLS <= imported(*PACKAGES)
    # requirements.txt is what all but these is run with
    left_out = ("trackers", "xtb", "qm9", "drop_in")
    asked = always.union(*(lines for name, lines in extras.items() if name not in left_out))
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


def test_dgl_is_an_extra_and_never_asked_for_otherwise():
    asking = {extra for extra, names in declared()[1].items() if "dgl" in names}
    assert asking == {"dgl"}
    assert "dgl" not in declared()[0]
    (line,) = PROJECT["optional-dependencies"]["dgl"]
    assert Requirement(line) == requirements()["dgl"]
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


def test_the_version_has_one_source():
    attribute = DECLARED["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "equivariant_attention.__version__"
    assert f"version: {equivariant_attention.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {equivariant_attention.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f'version: "{equivariant_attention.__version__}"\n' in (ROOT / "conda/recipe.yaml").read_text()


def test_the_conda_package_needs_what_the_wheel_needs():
    run = (ROOT / "conda/recipe.yaml").read_text().split("  run:\n")[1].split("\n\n")[0]
    needed = {line.split("#")[0].strip(" -") for line in run.splitlines()}
    expected = {Requirement(line.replace("torch", "pytorch")) for line in PROJECT["dependencies"]}
    assert needed == {f"{r.name} {r.specifier}" for r in expected} | {
        f"python {PROJECT['requires-python']}",
        "cxx-compiler",  # which wheels cannot ask for
    }


def test_every_file_of_the_package_is_in_the_wheel():
    package = ROOT / "equivariant_attention"
    patterns = DECLARED["tool"]["setuptools"]["package-data"]["equivariant_attention"]
    others = [path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert {path.suffix for path in others} >= {".cpp", ".hpp"}
    for path in others:
        assert any(fnmatch(str(path.relative_to(package)), pattern.replace("**/", "*")) for pattern in patterns), path
    folders = {path.parent for path in package.rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)  # which is what setuptools finds


def test_the_classifiers_name_the_versions_of_python_that_are_allowed():
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert named == {f"3.{minor}" for minor in range(10, 14)}
    assert PROJECT["requires-python"] == ">=3.10,<3.14"
