"""The site of this project. From its root:

sphinx-build -W --keep-going -c docs . docs/_build                                    builds it
sphinx-build -W --keep-going -c docs -b linkcheck . docs/_build/linkcheck             asks every external link
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from repository import address, theme_options  # noqa: E402
from scripts_as_pages import ScriptParser, run_those_to_read  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from equivariant_attention import __version__  # noqa: E402

project, author, release = "equivariant-attention", "the equivariant-attention authors", __version__
project_copyright = f"{author}, MIT license"

# Pages stay where they are, so that one link serves the site and everywhere else that Markdown is shown.
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/**.md",
    "docs/tutorials/*.py",
    "experiments/*/README.md",
    "benchmarks/results/**/README.md",
]
root_doc = "docs/index"
source_suffix = {".md": "markdown", ".py": "script"}
exclude_patterns = ["**/.*", ".*", "**/_build", "venv", "build", "runs", "data"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "formulas",
    "columns",
    "repository",
]

html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"  # prompts and outputs of a console stay behind
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
default_role = "code"

# Every reference must lead somewhere, except those to other libraries: a build asks no network for their inventories.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!equivariant_attention\b)\w+\..+|Tensor"),
    ("py:class", r"equivariant_attention\..*\.[A-Z]"),  # type variables
]

html_theme = "furo"
html_theme_options = theme_options(address(ROOT))
html_title = f"equivariant-attention {__version__}"
html_extra_path = ["front_page"]
html_static_path = ["style"]
html_css_files = ["site.css"]
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.add_source_parser(ScriptParser)
    app.connect("env-before-read-docs", run_those_to_read)
