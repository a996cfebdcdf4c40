"""Scripts in cells as pages of the site: comments become text, code becomes code, and nothing is run."""

import ast
import re
from pathlib import Path
from textwrap import indent

from docutils import nodes
from sphinx.parsers import RSTParser


class ScriptParser(RSTParser):
    """Parses a script that is told in cells, as editors and sphinx-gallery know them.

    The docstring is the head of the page. A line ``# %%`` starts a cell: the comment lines that follow it are its text,
    in reStructuredText, and what comes after them is its code.
    """

    supported = ("script",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Add the page to the document."""
        name = Path(document["source"]).name
        super().parse(f"{page(str(inputstring))}\n:download:`This page as a script <{name}>`\n", document)


def page(script: str) -> str:
    """The page of a script, in reStructuredText."""
    head, *cells = re.split(r"^# %%.*\n", script, flags=re.MULTILINE)
    docstring = ast.get_docstring(ast.parse(script)) or ""
    first = ast.parse(head).body[0].end_lineno if docstring else 0
    parts = [docstring, _code(head.splitlines()[first:])]
    for cell in cells:
        lines = cell.splitlines()
        count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        parts += ["\n".join(re.sub("^# ?", "", line) for line in lines[:count]), _code(lines[count:])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _code(lines: list[str]) -> str:
    code = "\n".join(lines).strip("\n")
    return code and ".. code-block:: python\n\n" + indent(code, "   ")
