"""The table of what was reached says what the pages say that its rows link to."""

import re

from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "experiments.md"


def test_figures_are_those_of_the_results():
    table = PAGE.read_text().split("## What was reached")[1].split("## ")[0]
    rows = re.findall(r"^\| \[.*?\]\((.*?)\)(.*) \|$", table, re.MULTILINE)
    assert len(rows) >= 5
    for link, row in rows:
        result = (PAGE.parent / link).read_text()
        for figure in re.findall(r"(?<![\w.,])\.?\d+(?![\d,.])", row):
            assert figure in result, f"{link}: {figure}"
