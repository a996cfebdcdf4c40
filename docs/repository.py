"""The repository that the site was made from, in its footer and in the command that clones it."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress
from pathlib import Path

from sphinx.application import Sphinx

PLACEHOLDER = "REPOSITORY"  # on pages that are shown elsewhere too


def address(root: Path) -> str:
    """Of what Read the Docs has cloned, or of the remote of a clone; empty, if it is none that a browser opens.

    Args:
        root: of the project.
    """
    given = os.environ.get("READTHEDOCS_GIT_CLONE_URL")
    if not given:
        command = ["git", "-C", root, "remote", "get-url", "origin"]
        with suppress(OSError):  # there is no git, as where a source distribution is built
            given = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    given = re.sub(r"^(?:ssh://git@([^:/]+)(?::\d+)?/|git@([^:/]+):)", r"https://\1\2/", given or "").rstrip("/")
    return given.removesuffix(".git") if re.match("https?://[^@]+$", given) else ""


def theme_options(url: str) -> dict[str, object]:
    """Links to the repository on every page, for the theme Furo.

    Args:
        url: of :func:`address`.
    """
    link = {"name": "Repository", "url": url, "html": "Repository", "class": ""}
    return {"footer_icons": [link]} if url else {}


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", _put_in)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _put_in(app: Sphinx, page: str, content: list[str]) -> None:
    if url := address(Path(app.srcdir)):
        content[0] = content[0].replace(f"git clone {PLACEHOLDER}", f"git clone {url}")
