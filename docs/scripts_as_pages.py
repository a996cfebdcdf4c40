"""Scripts in cells as pages of the site: comments become text, code becomes code, followed by its prints and drawings.

Those whose pages a build of the site reads are run before it.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.parsers import RSTParser

RUNNER = Path(__file__).with_name("run_cells.py")
OUTPUTS = Path("docs/_build/tutorials")  # from the root of the project


class ScriptParser(RSTParser):
    """Parses a script that is told in cells, as editors and sphinx-gallery know them.

    The docstring is the head of the page. A line ``# %%`` starts a cell: the comment lines that follow it are its text,
    in reStructuredText, and what comes after them is its code.
    """

    supported = ("script",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Add the page to the document."""
        path = Path(document["source"])
        outputs = outputs_of(path, RUNNER.parents[1])
        super().parse(f"{page(str(inputstring), outputs)}\n:download:`This page as a script <{path.name}>`\n", document)


def run_those_to_read(app: Sphinx, env: BuildEnvironment, pages: list[str]) -> None:
    """Run the scripts among the pages that a build is about to read."""
    paths = (Path(env.doc2path(page)) for page in pages)
    if scripts := [path for path in paths if path.suffix == ".py"]:
        run_scripts(scripts, RUNNER.parents[1])


def cells_of(script: str) -> list[tuple[str, str]]:
    """Text and code of the head of a script and of its cells; the code of all, joined, is the script's."""
    head, *cells = re.split(r"^# %%.*\n", script, flags=re.MULTILINE)
    docstring = ast.get_docstring(ast.parse(script)) or ""
    first = ast.parse(head).body[0].end_lineno if docstring else 0
    found = [(docstring, "\n".join(head.splitlines()[first:]))]
    for cell in cells:
        lines = cell.splitlines()
        count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        found.append(("\n".join(re.sub("^# ?", "", line) for line in lines[:count]), "\n".join(lines[count:])))
    return found


def page(script: str, outputs: list[dict] | tuple = ()) -> str:
    """The page of a script, in reStructuredText, with what its cells printed and drew."""
    parts = []
    for i, (text, code) in enumerate(cells_of(script)):
        parts += [text, _block("python", code)]
        if i < len(outputs):
            parts.append(_block("text", outputs[i]["printed"]))
            parts += [
                f".. image:: /{picture}\n   :alt: what the code above draws" for picture in outputs[i]["pictures"]
            ]
    return "\n\n".join(part for part in parts if part) + "\n"


def run_scripts(paths: Sequence[Path], root: Path) -> None:
    """Run scripts, for :func:`outputs_of`.

    Raises:
        RuntimeError: one of them fails, or warns.
    """
    strict = {"PYTHONWARNINGS": "error,ignore::DeprecationWarning", "OMP_NUM_THREADS": "1", "DGLBACKEND": "pytorch"}
    environment = {**os.environ, **strict, "MPLBACKEND": "Agg", "PYTHONPATH": str(root)}
    command = [sys.executable, RUNNER, root / OUTPUTS, *paths]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise RuntimeError(f"a script fails:\n{done.stderr}")


def outputs_of(path: Path, root: Path) -> list[dict]:
    """What each cell of a script that ran printed, and the files of what it drew."""
    found = json.loads((root / OUTPUTS / path.stem / "outputs.json").read_text())
    for cell in found:
        cell["pictures"] = [(OUTPUTS / path.stem / name).as_posix() for name in cell["pictures"]]
    return found


def _block(language: str, code: str) -> str:
    code = code.strip("\n")
    return code and f".. code-block:: {language}\n\n" + indent(code, "   ")
