"""Code that fits on its page: a line of more than 88 columns is a warning, and a warning fails the build."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

COLUMNS = 88  # that a page shows side by side where it is not narrower than its text


def check(app: Sphinx, doctree: nodes.document) -> None:
    """Warn of every line of code, or of what code printed, that is too long.

    Args:
        app: Sphinx.
        doctree: a page as it was read.
    """
    for block in (*doctree.findall(nodes.literal_block), *doctree.findall(nodes.doctest_block)):
        for line in block.astext().splitlines():
            if len(line) > COLUMNS:
                message = "a line of %d columns, expected at most %d: %s"
                logging.getLogger(__name__).warning(message, len(line), COLUMNS, line, location=block)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("doctree-read", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
