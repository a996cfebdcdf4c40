"""External links are well-formed. Whether they lead somewhere, ``sphinx-build -b linkcheck`` asks, given a network.

Links between pages are checked by the site's build.
"""

from urllib.parse import urlsplit

import pytest
from markdown_it import MarkdownIt

from tests.docs.pages import PAGES, name_of


def links(page):
    for block in MarkdownIt().parse(page.read_text()):
        for token in block.children or []:
            if token.type in ("link_open", "image"):
                yield token.attrGet("href") or token.attrGet("src")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_external_links_are_well_formed(page):
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            assert "." in parts.netloc, link
