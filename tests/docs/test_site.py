"""The site builds without a warning, and what is broken fails the build."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT

for package in ("sphinx", "sphinx_copybutton", "latex2mathml"):
    pytest.importorskip(package)


def build(source, output):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", ROOT / "docs", source, output]
    environment = {**os.environ, "READTHEDOCS_GIT_CLONE_URL": "git@example.org:us/ours.git"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    result = build(ROOT, tmp_path)
    assert result.returncode == 0, result.stderr
    assert all((tmp_path / "docs" / f"{page}.html").is_file() for page in ("index", "concepts", "reference/layers"))
    assert "GSE3Res" in (tmp_path / "docs" / "reference" / "layers.html").read_text()
    concepts = (tmp_path / "docs" / "concepts.html").read_text()
    assert '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">' in concepts
    assert not re.search(r"""<(script|link)[^>]*=["']?https?:""", concepts)  # nothing comes from a network
    assert "copybutton.js" in concepts
    assert 'href="https://example.org/us/ours"' in concepts
    started = re.sub("<[^>]*>", "", (tmp_path / "docs" / "get_started.html").read_text())
    assert "git clone https://example.org/us/ours equivariant-attention" in started


BROKEN = {
    "page": "[page](nowhere.md)",
    "heading": "[heading](index.md#nowhere)",
    "name": "{py:func}`nowhere`",
    "picture": "![picture](nowhere.png)",
    "columns": f"```python\nx = {'1 + ' * 20}nowhere\n```",
}


@pytest.mark.slow
def test_what_is_broken_fails_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Title\n\n```{toctree}\n" + "\n".join(BROKEN) + "\n```\n")
    for name, text in BROKEN.items():
        (tmp_path / "docs" / f"{name}.md").write_text(f"# Title\n\n{text}\n")
    result = build(tmp_path, tmp_path / "built")
    assert result.returncode == 1
    told = {line for line in result.stderr.splitlines() if "nowhere" in line}
    assert {name for name in BROKEN if any(f"/{name}.md" in line for line in told)} == BROKEN.keys()
