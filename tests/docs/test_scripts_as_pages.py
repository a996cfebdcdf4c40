import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
SCRIPT = '''"""
A title
=======

Some text.
"""

import math

# %%
# A section
# ---------
# More text, and
# its second line.

x = math.pi  # a comment of the code

# one on a line of its own
print(x)

# %%
# Text alone.
'''
PAGE = """A title
=======

Some text.

.. code-block:: python

   import math

A section
---------
More text, and
its second line.

.. code-block:: python

   x = math.pi  # a comment of the code

   # one on a line of its own
   print(x)

Text alone.
"""


@pytest.fixture
def page(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS)
    from scripts_as_pages import page

    yield page
    sys.modules.pop("scripts_as_pages")


def test_comments_become_text_and_code_becomes_code(page):
    assert page(SCRIPT) == PAGE


def test_a_script_without_docstring_or_cells_is_code(page):
    assert page("x = 1\n") == ".. code-block:: python\n\n   x = 1\n"


def test_every_tutorial_is_in_the_table():
    index = (DOCS / "tutorials" / "index.md").read_text()
    assert all(f"]({path.name})" in index for path in DOCS.glob("tutorials/*.py"))
