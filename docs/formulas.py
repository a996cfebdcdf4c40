"""Formulas of the site as MathML, which browsers draw themselves: no script, and nothing from a network."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

FUNCTIONS = r"\text"  # upright, in one piece: what \mathrm gives would be letters side by side


def mathml(latex: str, display: str) -> str:
    """A formula in MathML.

    Args:
        latex: of Sphinx or MyST.
        display: 'inline' or 'block'.
    """
    return convert(latex.strip().replace(r"\mathrm", FUNCTIONS), display=display)


def _inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
