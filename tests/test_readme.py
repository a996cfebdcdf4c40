"""The first screen of the README is short, and what it says is so. Links are tested with those of all pages."""

import re
from pathlib import Path

import pytest

from equivariant_attention import modules
from tests.benchmarks.cases import tables
from tests.docs.pages import python_blocks

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIRST = README.split("\n## ")[0]


def block(name):
    """The code under a mark."""
    return re.search(rf"<!-- {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)[1]


def test_the_first_screen_has_one_of_each():
    assert len(FIRST.splitlines()) <= 60
    assert re.findall(r"^<!-- (\w+) -->$", FIRST, re.MULTILINE) == ["install", "first"]
    assert block("install").count("\n") == 1
    assert len([line for line in block("first").splitlines() if line]) == 10
    assert len(re.findall(r"^\|---", FIRST, re.MULTILINE)) == 1
    (picture,) = re.findall(r"!\[.*?\]\((.*?)\)", FIRST)
    assert (ROOT / picture).is_file()


def test_the_first_lines_print_what_they_say(capsys):
    (code,) = python_blocks(ROOT / "README.md")
    exec(code, {})
    shape, errors = capsys.readouterr().out.splitlines()
    assert shape == "torch.Size([20, 1, 3])"
    assert 0 < max(map(float, re.findall(r"\d\S*e-\d+", errors))) < 1e-5


def test_the_comparison_was_measured():
    of_oracle, ours = [line.split(" | ")[1:] for line in FIRST.splitlines() if re.match(r"\| (the equ|this lib)", line)]
    page = (ROOT / "docs" / "measurements.md").read_text().split("## Against the oracle")[1].split("\n## ")[0]
    (found,) = [
        line
        for table in tables(page)
        for line in table
        if (line["workload"], line["case"], line["step"]) == ("qm9-bonded", "32 molecules", "forward+backward")
    ]
    assert ours == [found["time"], f"{found['memory']} |"]
    assert of_oracle == [found["time of oracle"], f"{found['memory of oracle']} |"]
    machine = page.split("qm9-bonded")[-1].partition("Measured on ")[2]
    assert machine.startswith("AMD EPYC, 1 threads on 1 cores")


def test_pytorch_comes_without_cuda_wherever_installing_is_told():
    asked = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
    assert block("install") == f"{asked} && pip install .\n"
    assert asked in (ROOT / "docs" / "get_started.md").read_text()


@pytest.mark.parametrize("name", ["nbody", "tests"])
def test_commands_that_ci_and_readers_run_are_one_command(name):
    environment, *_, program = re.split(r" &&\s+", block(name))
    assert environment == "python3 -m venv .venv"
    assert re.fullmatch(r"python .+\n", program)


def test_every_layer_of_the_table_exists():
    table = (ROOT / "docs" / "usage.md").read_text().split("## Layers\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert names >= {"GSE3Res", "GConvSE3", "BN"}
    assert all(hasattr(modules, name) for name in names)
