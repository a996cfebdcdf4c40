"""The commands on every page name programs that exist, with flags that they know."""

import importlib
import re
import shlex

import pytest

from tests.docs.pages import PAGES, ROOT, name_of

COMMAND = re.compile(r"(?:python3?|torchrun --nproc_per_node 2) (-m [\w.]+|\w+/[\w/]+\.py)((?: [^`#|\n&]*)?)")
FOREIGN = {"-m venv", "-m pytest", "-m build"}
EXPERIMENT = re.compile(r"experiments/(\w+)/run\.py")


def commands(page):
    """Program and arguments of every ``python ...``, ended by a comment, another command or the end of the line."""
    lines = page.read_text().replace("\\\n", " ")  # those that go on in the next
    return [match.groups() for match in COMMAND.finditer(lines)]


def program_file(program):
    """Where a script or module is."""
    if not program.startswith("-m "):
        return ROOT / program
    path = ROOT / program.removeprefix("-m ").replace(".", "/")
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_understood(page):
    for program, arguments in commands(page):
        if program in FOREIGN:
            continue
        assert program_file(program).is_file(), program
        experiment = EXPERIMENT.fullmatch(program)
        words = shlex.split(arguments.replace("...", ""))
        if experiment and "--help" not in words:
            # Forces have two command lines.
            part = "own_data" if experiment[1] == "forces" and "--data" in words else "run"
            module = importlib.import_module(f"experiments.{experiment[1]}.{part}")
            module.EXPERIMENT.command_line.parse(words)


def test_a_flag_that_is_not_there_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Run `python experiments/nbody/run.py --no_such_flag 1` now.")
    with pytest.raises(ValueError, match="no_such_flag"):
        test_commands_are_understood(page)
