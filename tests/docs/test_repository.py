"""The address of the repository, as a browser opens it."""

import runpy

import pytest

from tests.docs.pages import ROOT

address = runpy.run_path(str(ROOT / "docs" / "repository.py"))["address"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("git@example.org:us/ours.git", "https://example.org/us/ours"),
        ("ssh://git@example.org/us/ours.git", "https://example.org/us/ours"),
        ("ssh://git@example.org:2222/us/ours", "https://example.org/us/ours"),
        ("https://example.org/us/ours.git/", "https://example.org/us/ours"),
        ("https://us:secret@example.org/us/ours", ""),
        ("/home/us/ours", ""),
        ("file:///home/us/ours", ""),
    ],
)
def test_address(monkeypatch, given, expected):
    monkeypatch.setenv("READTHEDOCS_GIT_CLONE_URL", given)
    assert address(ROOT) == expected


def test_there_is_none_without_git(monkeypatch, tmp_path):
    monkeypatch.delenv("READTHEDOCS_GIT_CLONE_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert address(ROOT) == ""
