"""The page of results says of what was reached here what the pages say that it links to."""

import re

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "results.md"
REACHED = re.compile(r"\[([^\]]*)\]\((\.\./benchmarks/results/[^)]*)\)")


def test_figures_are_those_of_the_results():
    found = REACHED.findall(PAGE.read_text())
    assert len(found) >= 10
    for figures, link in found:
        result = (PAGE.parent / link).read_text()
        for figure in re.findall(r"\.?\d[\d,.]*\d", figures):
            assert figure in result, f"{link}: {figure}"
