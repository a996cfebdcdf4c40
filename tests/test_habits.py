"""What is said to contributors, to CI and to the index agrees with what is there."""

import importlib
import re
import subprocess
from pathlib import Path

import equivariant_attention
from tests.test_packaging import PROJECT, requirements
from tests.weights import needs_weights

ROOT = Path(__file__).parents[1]


def text(path):
    return (ROOT / path).read_text()


def test_every_python_is_tried_and_the_oldest_and_the_pinned_pytorch():
    tried = re.findall(r'python: "([\d.]+)", torch: "([\d.]+)"', text(".github/workflows/tests.yml"))
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line}
    assert {python for python, _ in tried} == named
    versions = {pytorch for _, pytorch in tried}
    assert any(f"torch>={version.rpartition('.')[0]}" in PROJECT["dependencies"] for version in versions)
    pinned = str(requirements()["torch"].specifier)
    assert pinned.removeprefix("==") in versions
    assert f"pip install torch{pinned} " in text("CONTRIBUTING.md")


def test_pre_commit_asks_what_ci_asks():
    asked = re.findall(r"entry: (.*)", text(".pre-commit-config.yaml"))
    for command in asked:
        assert command.removesuffix(" --force-exclude") in text(".ci/run")
    assert [command.split()[0] for command in asked] == ["ruff", "ruff", "mypy"]


def test_a_release_has_the_tag_of_its_version():
    command = re.search(r"\$\((sed .*)\)\"", text(".github/workflows/release.yml"))[1]
    found = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == equivariant_attention.__version__


def test_what_is_called_public_or_not_is_there():
    package = ROOT / "equivariant_attention"
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    page = text("docs/public.md")
    named = re.findall(r"`equivariant_attention\.([a-z_0-9]+)", page)
    named += re.findall(r"`([a-z_]+)`", page.split("the wording of messages.")[1].split("are documented for")[0])
    assert {"modules", "nvidia", "native"} <= set(named) <= modules
    assert callable(importlib.import_module("equivariant_attention.contraction").use_backend)


@needs_weights
def test_no_weights_are_kept_but_those_that_something_reads():
    results = ROOT / "benchmarks" / "results"
    told = text("docs/maintaining.md").split("\n## Weights\n")[1].partition("Others are files of a release")[0]
    kept = {str(path.relative_to(results)) for path in results.rglob("*.pt")}
    assert kept == set(re.findall(r"`([a-z0-9_/]+\.pt)`", told))


def test_every_measurement_kept_is_on_the_page():
    kept = {str(path.relative_to(ROOT)) for path in (ROOT / "benchmarks" / "results" / "speed").glob("*.json")}
    assert kept == set(
        re.findall(r"^        (benchmarks/results/speed/\S+\.json)", text("docs/measurements.md"), re.MULTILINE)
    )


def test_what_pytorch_keeps_private_the_engine_reads_in_one_place():
    documented = {"torch._foreach_copy_"}
    for folder in ("contraction", "native"):
        for path in (ROOT / "equivariant_attention" / folder).glob("*.py"):
            found = {*re.findall(r"\btorch(?:\.\w+)*\._\w+", path.read_text())} - documented
            assert bool(found) == (path.name == "private.py"), (path.name, found)
