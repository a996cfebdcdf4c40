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


def test_what_a_script_prints_and_draws_follows_its_code(page, tmp_path):
    from scripts_as_pages import outputs_of, run_scripts

    script = "import matplotlib.pyplot as plt\n\n# %%\n# Text.\n\nprint(7 * 6)\nplt.plot([0, 1])\nplt.show()\n"
    (tmp_path / "drawing.py").write_text(script)
    run_scripts([tmp_path / "drawing.py"], tmp_path)
    outputs = outputs_of(tmp_path / "drawing.py", tmp_path)
    assert [cell["printed"] for cell in outputs] == ["", "42\n"]
    picture = tmp_path / "docs" / "_build" / "tutorials" / "drawing" / "1-0.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    told = page(script, outputs)
    assert ".. code-block:: text\n\n   42\n" in told
    assert ".. image:: /docs/_build/tutorials/drawing/1-0.png" in told
    (tmp_path / "drawing.py").write_text("1 / 0\n")
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run_scripts([tmp_path / "drawing.py"], tmp_path)


def test_every_tutorial_is_in_the_table():
    index = (DOCS / "tutorials" / "index.md").read_text()
    assert all(f"]({path.name})" in index for path in DOCS.glob("tutorials/*.py"))
